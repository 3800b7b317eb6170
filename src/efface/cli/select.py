"""Unlearn up to the earliest epoch (or the smallest strength) that forgets as much as the reference: MUSE's rule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import Console, emit
from efface.cli.options import DryRun, Json, Out, Set, layers


def command(
    spec: Annotated[Path | None, typer.Argument(help="Spec file (YAML).")] = None,
    model: Annotated[str | None, typer.Option(help="Base model: alias, folder, GGUF file or hub id.")] = None,
    method: Annotated[str | None, typer.Option(help="Method (`efface list methods`).")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark (`efface list benchmarks`).")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite of the audit (`efface list suites`).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    metric: Annotated[str, typer.Option(help="Metric that must come down to the reference's value.")] = "muse_knowmem",
    beside: Annotated[
        list[str] | None, typer.Option(help="Metric that is logged along the path and decides nothing (privleak).")
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(help="Strengths in order, e.g. 1,2,4,8 (methods without epochs of their own).")
    ] = None,
    sets: Set = None,
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api
    from efface.cli.summary import summary, summary_text
    from efface.selection import SelectSettings, plan, under_rule
    from efface.selection.rule import markdown
    from efface.settings import parse

    given = layers(
        spec,
        sets,
        model__name=model,
        method__name=method,
        data__benchmark=benchmark,
        audit__suite=suite,
        seed=seed,
        out=out,
    )
    chosen = under_rule(*given)
    asked = {"metric": metric, "beside": beside or None, "strengths": strengths.split(",") if strengths else None}
    settings = {name: value for name, value in asked.items() if value is not None}
    if dry_run:
        found = plan(chosen, parse(SelectSettings, settings, "select"))
        emit(found, as_json, "\n".join(found["lines"]))
        return 0
    done = api.select(chosen, settings, progress=Console(quiet=as_json))
    data = summary(done.run)
    emit({**data, "selection": done.found}, as_json, f"{markdown(done.found)}\n{summary_text(data)}")
    return 0
