"""What a run took, and what it was made with: time, memory, the training itself, versions, machine, seeds, hashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from efface.report.charts import Plot, Series
from efface.report.model import Cost, Fact
from efface.report.text import duration, memory, role_title, visible, words
from efface.runs.events import DONE, STARTED
from efface.runs.loading import LoadedRun

LOSSES = (
    ("forget", "Forget rows", ("forget_nll", "forget_loss")),
    ("retain", "Retain rows", ("retain_nll", "retain_loss")),
)
UNDER_WAY = "report"  # the stage in which the report is made has no end yet, and is left out
MACHINE = {"cores": "{} cores", "memory_gib": "{} GiB of memory", "cuda": "CUDA {}"}


def cost(run: LoadedRun) -> Cost:
    """Seconds and memory of each stage, and the training itself."""
    t = run.training
    ended = {str(e.get("stage", "")): e for e in run.events if e.get("event") == DONE}
    stages = t.stages if t and t.stages else {n: e.get("seconds") for n, e in ended.items() if n != UNDER_WAY}
    rows = tuple((words(name), _time(seconds), *_spent(ended.get(name, {}))) for name, seconds in stages.items())
    return Cost(rows, tuple(_training(run)), tuple(visible(w, 400) for w in (t.warnings if t else ())), _losses(run))


def _spent(event: Mapping[str, Any]) -> tuple[str, str, str]:
    """CPU time, peak of memory and of GPU memory of one stage, as far as they were recorded."""
    used, cpu = event.get("memory"), event.get("cpu_seconds")
    ram, gpu = (_at(used, key) for key in ("ram", "gpu"))
    return (
        _time(cpu),
        memory(ram) if isinstance(ram, int | float) else "–",
        memory(gpu) if isinstance(gpu, int | float) else "–",
    )


def _time(seconds: Any) -> str:
    """Events of a stranger's run may hold anything there."""
    return duration(seconds) if isinstance(seconds, int | float) else "–"


def _training(run: LoadedRun) -> Iterator[Fact]:
    t = run.training
    starts = Counter(str(e.get("stage")) for e in run.events if e.get("event") == STARTED)
    resumed = max(starts.values(), default=1) - 1
    if t and t.steps is not None:
        yield Fact("Unlearning steps", f"{t.steps:,}" + (f", stopped: {visible(t.stopped, 200)}" if t.stopped else ""))
    if t and t.seconds is not None:
        yield Fact("Unlearning time", duration(t.seconds))
    if (rate := _at(run.spec, "train", "lr")) != "" and t and t.method:
        yield Fact("Learning rate", visible(rate, 40))
    if t and t.trained_parameters is not None:
        yield Fact("Trained parameters", f"{t.trained_parameters:,}")
    if t and t.moved_share is not None:
        yield Fact("Share of them that moved", f"{t.moved_share:.1%}")
    if resumed > 0:
        yield Fact("Interrupted", f"{resumed} times; went on from the last checkpoint")


def _losses(run: LoadedRun) -> Plot | None:
    """The loss on forget and retain rows by step."""
    history = [e for e in (run.training.history if run.training else []) if isinstance(e.get("step"), int)]
    history = history[:: max(1, len(history) // 200)]
    series = []
    for kind, name, keys in LOSSES:
        key = next((k for k in keys if any(isinstance(e.get(k), int | float) for e in history)), "")
        points = tuple(
            (float(e["step"]), float(e[key]), None, None) for e in history if isinstance(e.get(key), int | float)
        )
        if len(points) > 1:
            series.append(Series(kind, name, points))
    if not series:
        return None
    last = max(p[0] for s in series for p in s.points)
    ticks = tuple((float(n), f"{n:,}") for n in sorted({1, round(last / 2), round(last)}) if n)
    about = "Loss on forget and retain rows at each step."
    return Plot("Loss while unlearning", about, "step", "loss", ticks, tuple(series), height=200, markers=False)


def provenance(run: LoadedRun) -> Iterator[Fact]:
    """Versions, machine, seeds, hashes."""
    p = run.provenance
    yield Fact("Run", run.name, True)
    yield Fact("Hash of the spec", run.spec_hash or run.status.spec_hash, True)
    if p is None:
        return
    commit = f", commit {p.git.commit[:12]}{' with uncommitted changes' if p.git.dirty else ''}" if p.git else ""
    yield Fact("Efface", f"{visible(p.efface, 40)}{visible(commit, 80)}")
    yield Fact("Python", visible(p.python, 40))
    yield Fact("Packages", ", ".join(f"{visible(k, 40)} {visible(v, 40)}" for k, v in p.packages.items()))
    yield Fact("Machine", ", ".join(_plain(p.hardware)) + f"; {visible(p.platform, 120)}")
    threads = (f"{visible(k, 60)} {visible(v, 80)}" for k, v in p.threads.items())
    yield Fact("Threads", ", ".join(threads) or "not set")
    yield Fact("Seeds", ", ".join(f"{k} {v}" for k, v in _pairs(p.seeds)))
    yield Fact("Hash of the data", visible(p.data.get("sha256", "–"), 80), True)
    for role, found in p.fingerprints.items():
        origin = visible(_at(p.models, role, "origin"), 80)
        label = f"Weights: {role_title(role).lower()}" + (f" ({origin})" if origin else "")
        yield Fact(label, visible(found, 80) or "–", True)


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(visible(k, 60).replace("_", " "), visible(v, 80)) for k, v in values.items() if v is not None]


def _plain(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if value:
            text = ", ".join(visible(v, 80) for v in value) if isinstance(value, list) else visible(value, 120)
            yield MACHINE.get(key, "{}").replace("{}", text)


def _at(values: Any, *path: str) -> Any:
    for key in path:
        values = values.get(key, "") if isinstance(values, Mapping) else ""
    return values if values is not None else ""
