"""Write a run's report again, from its record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import emit
from efface.cli.options import DryRun, Json


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    format: Annotated[str, typer.Option(help="html, md or json.")] = "html",
    output: Annotated[Path | None, typer.Option(help="Write here instead of printing.")] = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api
    from efface.runs.files import write_text

    text = api.report(run, format)
    if output is not None:
        if not dry_run:
            write_text(output, text)
        emit(
            {"file": str(output), "written": not dry_run},
            as_json,
            f"{'would write' if dry_run else 'written'}: {output}",
        )
    else:
        emit({"format": format, "text": text}, as_json, text)
    return 0
