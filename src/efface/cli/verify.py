"""Check a run directory: every file's hash, and the scores recomputed from its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import emit
from efface.cli.options import Json


def command(run: Annotated[Path, typer.Argument(help="Run directory.")], as_json: Json = False) -> int:
    from efface import api

    result = api.verify(run)
    lines = [f"{f['file']}: {f['what']}" for f in result["findings"]]
    emit(
        result,
        as_json,
        "\n".join(
            [
                *lines,
                f"{'NOT verified' if lines else 'verified'}: {result['files']} files, "
                f"{result['rederived']} scores recomputed"
                + (f", {result['not_rederived']} not recomputable" if result["not_rederived"] else ""),
            ]
        ),
    )
    return 1 if lines else 0
