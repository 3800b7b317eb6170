"""Check a run directory: every file's hash, the scores recomputed from its tables, and the conclusion from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import emit
from efface.cli.options import Json


def command(run: Annotated[Path, typer.Argument(help="Run directory.")], as_json: Json = False) -> int:
    from efface import api
    from efface.report.text import visible

    result = api.verify(run)
    lines = [f"{visible(f['file'])}: {visible(f['what'])}" for f in result["findings"]]
    count = f"{result['files']} files, {result['rederived']} scores recomputed"
    if result["not_rederived"]:
        count += f", {result['not_rederived']} not recomputable"
    told = [
        *lines,
        f"{'NOT verified' if lines else 'verified'}: {count}, conclusion {result['conclusion']}",
        f"manifest: {result['digest'] or 'none'} (kept elsewhere, this hash shows whether the record was rewritten)",
    ]
    emit(result, as_json, "\n".join(told))
    return 1 if lines else 0
