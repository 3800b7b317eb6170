"""``python -m efface``."""

from efface.cli.main import main

main()
