"""A package put where Python finds it, as pip would do it, without network and without touching the environment."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path


def install(package: Path, site: Path) -> Path:
    """Copy the modules of ``package`` into ``site`` and write the .dist-info that names its entry points; ``site``, to
    be put on PYTHONPATH. Knows packages below ``src`` and single modules (``tool.setuptools.py-modules``)."""
    settings = tomllib.loads((package / "pyproject.toml").read_text())
    project = settings["project"]
    modules = settings.get("tool", {}).get("setuptools", {}).get("py-modules", ())
    for module in modules:
        site.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / f"{module}.py", site)
    for folder in () if modules else (package / "src").iterdir():
        shutil.copytree(folder, site / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project.get("entry-points", {}).items()
    (info / "entry_points.txt").write_text(
        "\n".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups)
    )
    return site


if __name__ == "__main__":  # in place of pip: python plugin_site.py SITE install PACKAGE
    install(Path(sys.argv[3]), Path(sys.argv[1]))
