"""A real language model learns twelve fictitious people, forgets two of them, and is attacked."""

from __future__ import annotations

from typing import Annotated

import typer

from efface.cli.console import Console, emit
from efface.cli.options import DryRun, Json, Out, Set


def command(
    model: Annotated[
        str, typer.Option(help="smollm2-135m (real, pretrained) or tiny (trained from scratch on the spot).")
    ] = "smollm2-135m",
    method: Annotated[str, typer.Option(help="Method that makes it forget.")] = "npo",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    sets: Set = None,
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api
    from efface.cli.summary import summary, summary_text

    spec = api.demo_spec(model=model, method=method, seed=seed, sets=sets or [], out=out)
    if dry_run:
        plan = api.check(spec)
        emit(plan, as_json, "\n".join(plan["lines"]))
        return 0
    run = api.unlearn(spec, progress=Console(quiet=as_json))
    data = summary(run)
    emit(data, as_json, summary_text(data))
    return 0
