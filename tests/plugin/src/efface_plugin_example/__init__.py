"""An example of a package that adds components to Efface. Nothing of Efface names it; its pyproject.toml does all."""
