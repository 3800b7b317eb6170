"""Train and audit several methods under one spec and write a leaderboard; finished runs are not run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import Console, emit
from efface.cli.options import DryRun, Json, Out, Set, resolved


def command(
    what: Annotated[str, typer.Argument(help="methods.")] = "methods",
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas.")
    ] = "npo,grad_diff,simnpo,rmu,idk,grad_ascent",
    model: Annotated[str | None, typer.Option(help="Base model.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark.")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite of the audit.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    spec: Annotated[Path | None, typer.Option(help="Spec file that all methods share.")] = None,
    board: Annotated[Path, typer.Option(help="Folder of the leaderboard.")] = Path("leaderboard"),
    sets: Set = None,
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api

    specs = [
        resolved(
            spec,
            sets,
            model__name=model,
            method__name=name,
            data__benchmark=benchmark,
            audit__suite=suite,
            seed=seed,
            out=out,
        )
        for name in dict.fromkeys(filter(None, methods.split(",")))
    ]
    if dry_run:
        plans = [api.check(one) for one in specs]
        emit(plans, as_json, "\n".join(line for plan in plans for line in plan["lines"]))
        return 0
    table = api.bench(what, specs, board, progress=Console(quiet=as_json))
    from efface.bench import markdown

    emit(table, as_json, markdown(table))
    return 0 if not any(r["error"] for r in table["rows"]) else 2
