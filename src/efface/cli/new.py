"""Write a starting point: a spec, a request, or one file for a method, metric or attack of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import emit
from efface.cli.options import DryRun, Json


def command(
    kind: Annotated[str, typer.Argument(help="spec, request, method, metric or attack.")],
    name: Annotated[str, typer.Argument(help="Name of the new thing.")],
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path("."),
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api

    files = api.new(kind, name, folder, write=not dry_run)
    emit(
        {"files": [str(f) for f in files], "written": not dry_run},
        as_json,
        "\n".join(f"{'would write' if dry_run else 'written'}: {f}" for f in files),
    )
    return 0
