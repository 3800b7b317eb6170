"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from efface.merging import nested
from efface.spec import Resolved, load, overrides, resolve

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting, e.g. --set train.lr=1e-4 --set method.beta=0.2.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Out = Annotated[str | None, typer.Option("--out", help="Folder of run directories.")]


def resolved(file: Path | None, sets: list[str] | None, *weakest: tuple[str, dict[str, Any]], **given: Any) -> Resolved:
    """``weakest`` < spec file < named options (``target__path`` is target.path; None: not given) < ``--set``."""
    layers = list(weakest)
    if file is not None:
        layers.append((f"file {file.name}", load(file)))
    chosen = {
        path: str(value) if isinstance(value, Path) else value for path, value in given.items() if value is not None
    }
    layers += [("command line", nested(path.split("__"), value)) for path, value in chosen.items()]
    return resolve(*layers, ("user --set", overrides(sets or ())))
