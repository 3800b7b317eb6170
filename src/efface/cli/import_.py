"""Read another program's result file, compute its numbers again, and say where they differ from what it printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import emit
from efface.cli.options import Json


def command(
    file: Annotated[
        Path, typer.Argument(help="TOFU_EVAL.json, MUSE_EVAL.json, ..., or TOFU's eval_log_aggregated.json.")
    ],
    reference: Annotated[Path | None, typer.Option(help="The same kind of file of the retain model.")] = None,
    printed: Annotated[Path | None, typer.Option(help="TOFU: the CSV of its aggregation script.")] = None,
    as_json: Json = False,
) -> int:
    from efface import api

    log = api.import_log(file, reference, printed).to_json()
    lines = [f"{log['file']} ({log['format']})"]
    for value in log["values"]:
        shown = [f"{key} {value[key]:.6g}" for key in ("printed", "again", "corrected") if value[key] is not None]
        count = f"n {value['n']}" + (f", {value['unscored']} unscored" if value["unscored"] else "")
        told = "; ".join(filter(None, [", ".join(shown), count if value["n"] else "", value["note"], value["reason"]]))
        lines.append(f"  {value['name']}: {told}")
    lines += [f"DIFFERS: {finding}" for finding in log["findings"]] or ["all printed numbers follow from the rows"]
    emit(log, as_json, "\n".join(lines))
    return 1 if log["findings"] else 0
