"""Make a model forget, audit it, and write the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import Console, emit
from efface.cli.options import DryRun, Json, Out, Set, resolved


def command(
    spec: Annotated[Path | None, typer.Argument(help="Spec file (YAML); start from `efface new spec`.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model: alias, folder, GGUF file or hub id.")] = None,
    method: Annotated[str | None, typer.Option(help="Method (`efface list methods`).")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark (`efface list benchmarks`).")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite of the audit (`efface list suites`).")] = None,
    request: Annotated[str | None, typer.Option(help="A ForgetRequest (JSON) instead of a benchmark.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    sets: Set = None,
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api
    from efface.cli.summary import summary, summary_text

    chosen = resolved(
        spec,
        sets,
        model__name=model,
        method__name=method,
        data__benchmark=benchmark,
        audit__suite=suite,
        request=request,
        seed=seed,
        out=out,
    )
    if dry_run:
        plan = api.check(chosen)
        emit(plan, as_json, "\n".join(plan["lines"]))
        return 0
    run = api.unlearn(chosen, progress=Console(quiet=as_json))
    data = summary(run)
    emit(data, as_json, summary_text(data))
    return 0
