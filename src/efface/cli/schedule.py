"""Run one method over a plan of requests: growing forget sets, or one request after another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import Console, emit
from efface.cli.options import DryRun, Json, Set, resolved


def command(
    plan: Annotated[str, typer.Argument(help="Plan of the benchmark, e.g. scalability, sustainability, requests.")],
    spec: Annotated[Path | None, typer.Argument(help="Spec file (YAML) that all steps share.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model.")] = None,
    method: Annotated[str | None, typer.Option(help="Method.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark with that plan: muse, pch, people_axis.")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite of the audits.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    to: Annotated[Path, typer.Option(help="Folder of the schedule: schedule.json, schedule.md and its runs.")] = Path(
        "schedule"
    ),
    sets: Set = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api
    from efface.runs.files import write_text
    from efface.schedule.steps import planned
    from efface.schedule.table import markdown

    one = resolved(
        spec,
        sets,
        model__name=model,
        method__name=method,
        data__benchmark=benchmark,
        audit__suite=suite,
        seed=seed,
    )
    if dry_run:
        steps = planned(one, plan)
        found = {"plan": plan, "sequential": steps.sequential, "steps": list(steps.steps), "check": api.check(one)}
        emit(found, as_json, "\n".join([f"{len(steps.steps)} steps of {plan}", *found["check"]["lines"]]))
        return 0
    table = api.schedule(one, plan, to, progress=Console(quiet=as_json))
    write_text(to / "schedule.md", markdown(table))
    emit(table, as_json, markdown(table))
    return 0
