"""Compare runs of one suite, metric by metric, with paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import emit
from efface.cli.options import Json


def command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, two or more.")],
    format: Annotated[str, typer.Option(help="text, md or html.")] = "text",
    as_json: Json = False,
) -> int:
    from efface import api

    result = api.compare(runs)
    emit(result.to_json(), as_json, result.render(format))
    return 0
