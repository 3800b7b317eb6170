"""Audit any unlearned model against its target and reference; exit 3 when knowledge can be recovered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import Console, emit
from efface.cli.options import Attacks, DryRun, Json, Out, Set, attacks_asked, resolved


def command(
    unlearned: Annotated[Path, typer.Argument(help="Folder of the model, of a run's `model`, or of a PEFT adapter.")],
    target: Annotated[Path | None, typer.Option(help="Folder of the model before unlearning.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Folder of the model retrained without the forget set.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="Spec file with data, suite and seed.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark (`efface list benchmarks`).")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite (`efface list suites`).")] = None,
    request: Annotated[str | None, typer.Option(help="A ForgetRequest (JSON) instead of a benchmark.")] = None,
    threat: Annotated[
        str | None, typer.Option(help="Strongest attacker: black-box, grey-box or white-box (the default).")
    ] = None,
    attacks: Attacks = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time for attacks: cheapest first, what does not fit is named.")
    ] = None,
    sets: Set = None,
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api
    from efface.cli.summary import summary, summary_text
    from efface.refusing import audit_defaults

    roles = {
        f"{role}__{key}": value
        for role, path in (("target", target), ("reference", reference))
        if path is not None
        for key, value in (("kind", "folder"), ("path", path))
    }
    chosen = resolved(
        spec,
        sets,
        ("audit", audit_defaults(unlearned, target)),
        data__benchmark=benchmark,
        audit__suite=suite,
        audit__threat=threat,
        audit__attacks=attacks_asked(attacks, threat, spec),
        audit__minutes=minutes,
        request=request,
        out=out,
        **roles,
    )
    if dry_run:
        plan = api.check(chosen, unlearned)
        emit(plan, as_json, "\n".join(plan["lines"]))
        return 0
    run = api.audit(unlearned, chosen, progress=Console(quiet=as_json))
    data = summary(run)
    emit(data, as_json, summary_text(data))
    return 3 if data["conclusion"]["label"] in ("retained", "concealed") else 0
