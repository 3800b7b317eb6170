"""Check a spec without loading weights: data, overlaps, missing roles, what will not be computed, memory and time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import emit
from efface.cli.options import Json, Set, resolved


def command(
    spec: Annotated[Path | None, typer.Argument(help="Spec file (YAML).")] = None,
    model: Annotated[str | None, typer.Option(help="Base model.")] = None,
    method: Annotated[str | None, typer.Option(help="Method.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark.")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite of the audit.")] = None,
    request: Annotated[str | None, typer.Option(help="A ForgetRequest (JSON).")] = None,
    sets: Set = None,
    as_json: Json = False,
) -> int:
    from efface import api

    plan = api.check(
        resolved(
            spec,
            sets,
            model__name=model,
            method__name=method,
            data__benchmark=benchmark,
            audit__suite=suite,
            request=request,
        )
    )
    emit(plan, as_json, "\n".join(plan["lines"]))
    return 0
