"""Compare methods on one leaderboard, or try metrics and attacks on models whose degree of forgetting is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli.console import Console, emit
from efface.cli.options import DryRun, Json, Out, Set, resolved
from efface.errors import SpecError
from efface.spec import Resolved

METHODS = "npo,grad_diff,simnpo,rmu,idk,grad_ascent"


def command(
    what: Annotated[str, typer.Argument(help="methods, metrics or attacks.")] = "methods",
    methods: Annotated[
        str | None, typer.Option(help=f"Methods, separated by commas (none: those the suite names, else {METHODS}).")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas: each method once per seed.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at once, each in a process of its own.")] = 1,
    budget: Annotated[
        str | None,
        typer.Option(help="equal (the default): the same steps and batch size for every method; recipe: its own."),
    ] = None,
    tau: Annotated[
        float | None, typer.Option(help="Share of retain ES kept when methods are compared (UWC; none: 0.95).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark (none: that of the suite's name, if any).")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the benchmark; short for --set data.split=...")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite of the audit.")] = None,
    spec: Annotated[Path | None, typer.Option(help="Spec file that all methods share.")] = None,
    board: Annotated[Path, typer.Option(help="Folder of the leaderboard.")] = Path("leaderboard"),
    sets: Set = None,
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api
    from efface.audit.calibrate import CalibrateSettings
    from efface.bench import bench_named
    from efface.bench.budget import budgeted
    from efface.settings import parse

    given: dict[str, Any] = {
        "model__name": model,
        "data__benchmark": benchmark,
        "data__settings__split": split,
        "audit__suite": suite,
        "out": out,
    }
    text = bench_named(what).text
    if what != "methods":
        own = {"methods": methods, "model": model, "benchmark": benchmark, "split": split, "spec": spec, "set": sets}
        _refuse_unused(what, own | {"out": out, "budget": budget, "tau": tau})
        return _ladder(what, seeds, jobs, suite, board, as_json, dry_run)
    specs = _specs(spec, sets, methods, seeds, given)
    kind: Any = _one_of(budget or "equal", ("equal", "recipe"), "budget")
    calibrate = parse(CalibrateSettings, {} if tau is None else {"tau": tau}, "calibrate")
    if dry_run:
        plans = [api.check(one) for one in budgeted(specs, kind)[0]]
        emit(plans, as_json, "\n".join(line for plan in plans for line in plan["lines"]))
        return 0
    options = {"jobs": jobs, "budget": kind, "calibrate": calibrate}
    table = api.bench(what, specs, board, progress=Console(quiet=as_json), **options)
    emit(table, as_json, text(table))
    return 0 if not any(r["error"] for r in table["rows"]) else 2


def _refuse_unused(what: str, options: dict[str, Any]) -> None:
    """Options that the ladder does not read must not look as if they had changed something."""
    for name, value in options.items():
        if value is not None and value != []:
            raise SpecError(
                "bench.unused-option",
                f"efface bench {what} makes its own models, rows and settings: --{name} would change nothing.",
                f"leave --{name} out, or compare methods: efface bench methods.",
            )


def _ladder(
    what: str, seeds: str | None, jobs: int, suite: str | None, board: Path, as_json: bool, dry_run: bool
) -> int:
    """Metrics or attacks on the planted ladder."""
    from efface import api
    from efface.bench import bench_named
    from efface.bench.ladder import SEEDS
    from efface.testing.ladder import RUNGS

    numbers = [_seed(text) for text in _list(seeds)] or list(SEEDS)
    if dry_run:
        plan = {"what": what, "seeds": numbers, "rungs": list(RUNGS), "models": len(numbers) * (len(RUNGS) + 1)}
        emit(plan, as_json, f"{what} on {plan['models']} models: seeds {numbers}, rungs {', '.join(RUNGS)} and R1")
        return 0
    options = {"seeds": numbers, "jobs": jobs} | ({"suite": suite} if suite else {})
    table = api.bench(what, (), board, progress=Console(quiet=as_json), **options)
    emit(table, as_json, bench_named(what).text(table))
    return 0


def _specs(
    file: Path | None, sets: list[str] | None, methods: str | None, seeds: str | None, given: dict[str, Any]
) -> list[Resolved]:
    """One spec for each method and seed, methods in the order given."""
    from efface import suites

    first = resolved(file, sets, **given)
    names = _list(methods) or suites.load(first.spec.audit.suite).methods or _list(METHODS)
    numbers = [_seed(text) for text in _list(seeds)] or [first.spec.seed]
    return [resolved(file, sets, **given, method__name=name, seed=number) for name in names for number in numbers]


def _list(text: str | None) -> list[str]:
    return list(dict.fromkeys(filter(None, (part.strip() for part in (text or "").split(",")))))


def _seed(text: str) -> int:
    if not text.isdigit():
        raise SpecError("bench.bad-seeds", f"--seeds: {text!r} is not a number.", "write for example --seeds 0,1,2.")
    return int(text)


def _one_of(text: str, known: tuple[str, ...], option: str) -> str:
    from efface.errors import nearest

    if text not in known:
        raise SpecError(f"bench.bad-{option}", f"--{option} cannot be {text!r}.", nearest(text, known))
    return text
