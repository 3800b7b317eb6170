"""Search settings of a method (Optuna): least forget ES at equal retention, on rows that no audit scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import Console, emit
from efface.cli.options import DryRun, Json, Set, resolved


def command(
    spec: Annotated[Path | None, typer.Argument(help="Spec file (YAML).")] = None,
    model: Annotated[str | None, typer.Option(help="Base model: alias, folder, GGUF file or hub id.")] = None,
    method: Annotated[str | None, typer.Option(help="Method (`efface list methods`).")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark (`efface list benchmarks`).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(help="What is searched, e.g. --space train.lr=log:1e-5:2e-4 (none: a space made for the method)."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Trials in all, those of earlier calls included.", min=1)] = 20,
    minutes: Annotated[float | None, typer.Option(help="No new trial after this time.", min=0.0)] = None,
    tau: Annotated[float, typer.Option(help="Share of the retain ES that must be kept.")] = 0.95,
    out: Annotated[Path, typer.Option(help="Folder of the study: best.yaml, trials.json, trials.md.")] = Path("tuning"),
    sets: Set = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api
    from efface.audit.calibrate import CalibrateSettings
    from efface.settings import parse

    chosen = resolved(spec, sets, model__name=model, method__name=method, data__benchmark=benchmark, seed=seed)
    calibrate = parse(CalibrateSettings, {"tau": tau}, "calibrate")
    if dry_run:
        from efface.tuning import plan

        found = plan(chosen, space or ())
        emit(found, as_json, "\n".join(found["lines"]))
        return 0
    options = {"space": space or (), "trials": trials, "minutes": minutes, "calibrate": calibrate}
    result = api.tune(chosen, out, progress=Console(quiet=as_json), **options)
    from efface.runs.files import read_json

    emit(read_json(out / "trials.json"), as_json, (out / "trials.md").read_text(encoding="utf-8"))
    return 0 if result.best else 2
