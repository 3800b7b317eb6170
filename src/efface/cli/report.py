"""Write a run's report again, from its record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import emit
from efface.cli.options import Json


def command(run: Annotated[Path, typer.Argument(help="Run directory.")],
            format: Annotated[str, typer.Option(help="html, md or json.")] = "html",
            output: Annotated[Path | None, typer.Option(help="Write here instead of printing.")] = None, as_json: Json = False) -> int:
    from efface import api

    text = api.report(run, format)
    if output is not None:
        output.write_text(text, encoding="utf-8")
        emit({"written": str(output)}, as_json, f"written: {output}")
    else:
        emit({"format": format, "text": text}, as_json, text)
    return 0
