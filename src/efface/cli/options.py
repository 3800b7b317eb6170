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
Attacks = Annotated[
    str | None,
    typer.Option(
        "--attacks",
        help="Only these attacks (a,b), of the suite or at their defaults; all: every one there is (the default with "
        "--threat; without it the suite's).",
    ),
]
Out = Annotated[str | None, typer.Option("--out", help="Folder of run directories.")]


def resolved(file: Path | None, sets: list[str] | None, *weakest: tuple[str, dict[str, Any]], **given: Any) -> Resolved:
    """``weakest`` < spec file < named options (``target__path`` is target.path; None: not given) < ``--set``."""
    return resolve(*weakest, *layers(file, sets, **given))


def layers(file: Path | None, sets: list[str] | None, **given: Any) -> list[tuple[str, dict[str, Any]]]:
    """What the user gave, weakest first: spec file < named options < ``--set``."""
    found: list[tuple[str, dict[str, Any]]] = []
    if file is not None:
        found.append((f"file {file.name}", load(file)))
    chosen = {
        path: str(value) if isinstance(value, Path) else value for path, value in given.items() if value is not None
    }
    found += [("command line", nested(path.split("__"), value)) for path, value in chosen.items()]
    return [*found, ("user --set", overrides(sets or ()))]


def attacks_asked(attacks: str | None, threat: str | None, file: Path | None) -> list[str] | None:
    """``audit.attacks`` as the options of ``audit`` say (None: nothing). A threat model alone asks what an attacker of
    that kind can do: every attack there is, unless the spec file names some."""
    if attacks is not None:
        return [word.strip() for word in attacks.split(",") if word.strip()]
    audit = load(file).get("audit") if file is not None else None
    named = isinstance(audit, dict) and audit.get("attacks") is not None
    return None if threat is None or named else ["all"]
