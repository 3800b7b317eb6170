"""List components: methods, metrics, attacks, rules, benchmarks, suites or recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from efface.cli.console import emit, table
from efface.cli.options import Json


def command(
    kind: Annotated[
        str, typer.Argument(help="methods, metrics, attacks, rules, benchmarks, suites or recipes.")
    ] = "methods",
    as_json: Json = False,
) -> int:
    from efface import api

    rows = api.list_components(kind)
    keys = list(rows[0]) if rows else ["name"]
    emit(rows, as_json, table(keys, [[row[k] for k in keys] for row in rows]))
    return 0
