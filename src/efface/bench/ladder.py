"""``bench metrics`` and ``bench attacks``: metrics, attacks and conclusions on models that are known to know or not.

Every (seed, rung) is one file, so an interrupted bench goes on where it was. R1 is the reference; R2 and R3 are models
that never knew and must not be flagged.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from efface.bench import confusion, separation
from efface.progress import SILENT, Progress
from efface.runs.files import write_json, write_text

ROUNDED, RELEARNED = "@4bit", "@relearned"
STRESSED = ("O", "R2")
SEEDS = (0, 1, 2, 3, 4)
RELEARN_STEPS = 8


def metrics(
    specs: Sequence[Any],
    out: Path,
    *,
    seeds: Sequence[int] = SEEDS,
    suite: str = "people_ladder",
    rungs: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Every metric of ``suite`` on every rung of every seed (the ladder makes its own specs, ``specs`` is not used).

    Writes ``metrics.json`` and ``metrics.md`` below ``out`` and returns the table: separation of models that know from
    models that never knew, per rung, and after rounding and relearning.
    """
    from efface.testing.ladder import RUNGS

    wanted = [*(rungs or RUNGS), *(f"{r}{how}" for how in (ROUNDED, RELEARNED) for r in STRESSED)]
    _each(_measure_rung, [(seed, rung, suite) for seed in seeds for rung in wanted], out / "metrics", jobs, progress)
    table = separation.separation(list(_read(out / "metrics", seeds, wanted)))
    write_json(out / "metrics.json", table)
    write_text(out / "metrics.md", separation.markdown(table))
    return table


def attacks(
    specs: Sequence[Any],
    out: Path,
    *,
    seeds: Sequence[int] = SEEDS,
    suite: str = "people_attacks",
    rungs: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """The whole audit of ``suite`` on every rung of every seed (``specs`` is not used).

    Writes ``attacks.json`` and ``attacks.md`` below ``out`` and returns the table: how often each attack flags each
    rung, and the confusion matrix of conclusions.
    """
    from efface.testing.ladder import RUNGS

    wanted = list(rungs or RUNGS)
    _each(_audit_rung, [(seed, rung, suite) for seed in seeds for rung in wanted], out / "attacks", jobs, progress)
    table = confusion.confusion(list(_read(out / "attacks", seeds, wanted)))
    write_json(out / "attacks.json", table)
    write_text(out / "attacks.md", confusion.markdown(table))
    return table


Job = tuple[int, str, str]


def _each(
    run: Callable[[Job], dict[str, Any]], jobs: Sequence[Job], out: Path, at_once: int, progress: Progress
) -> None:
    """Run what is not there yet. Jobs of one seed stay together, because they share models."""
    stamps = {name: _stamp(name) for name in {job[2] for job in jobs}}
    left = [job for job in jobs if not _is_current(_place(out, job), stamps[job[2]])]
    seeds = list(dict.fromkeys(job[0] for job in left))
    with progress.step(out.name, len(left)) as task:
        if at_once <= 1 or len(seeds) <= 1:
            for job in left:
                write_json(_place(out, job), run(job) | {"stamp": stamps[job[2]]})
                progress.advance(task)
            return
        groups = [[job for job in left if job[0] == seed] for seed in seeds]
        with ProcessPoolExecutor(at_once, get_context("spawn")) as pool:
            for count in pool.map(_group, [run] * len(groups), groups, [out] * len(groups), [stamps] * len(groups)):
                progress.advance(task, count)


def _group(run: Callable[[Job], dict[str, Any]], jobs: Sequence[Job], out: Path, stamps: dict[str, str]) -> int:
    import torch

    torch.set_num_threads(1)
    for job in jobs:
        write_json(_place(out, job), run(job) | {"stamp": stamps[job[2]]})
    return len(jobs)


def _stamp(suite: str) -> str:
    """What a cell depends on besides seed and rung: the suite, the versions of what it runs, the ladder's own."""
    from efface import suites
    from efface.attacks.base import ATTACKS
    from efface.metrics.base import METRICS
    from efface.passes.cache import SCHEMA_VERSION
    from efface.testing.ladder import VERSION

    loaded = suites.load(suite)
    names = {m for found in loaded.metrics.values() for m in found} | set(loaded.attack_metrics)
    parts = [
        VERSION,
        SCHEMA_VERSION,
        RELEARN_STEPS,
        loaded.model_dump(mode="json"),
        {name: METRICS.get(name).version for name in sorted(names)},
        {entry.name: ATTACKS.get(entry.name).version for entry in loaded.attacks},
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _is_current(place: Path, stamp: str) -> bool:
    return place.is_file() and json.loads(place.read_text()).get("stamp") == stamp


def _place(out: Path, job: Job) -> Path:
    return out / f"{job[0]}-{job[1].replace('@', '-')}.json"


def _read(out: Path, seeds: Sequence[int], rungs: Sequence[str]) -> Iterator[dict[str, Any]]:
    for seed in seeds:
        for rung in rungs:
            yield json.loads(_place(out, (seed, rung, "")).read_text())


def _measure_rung(job: Job) -> dict[str, Any]:
    """All scores of one rung and of its reference, without attacks."""
    from efface import suites

    seed, rung, name = job
    suite = suites.load(name).model_copy(update={"attacks": []})
    found, seconds = _examined(seed, rung, suite, second_reference=True)
    scores = [s.to_json(rows=True) for s in found.scores["unlearned"]]
    reference = [s.to_json(rows=True) for s in found.scores["reference"]]
    return {"seed": seed, "rung": rung, "seconds": seconds, "scores": scores, "reference": reference}


def _audit_rung(job: Job) -> dict[str, Any]:
    """Conclusion, findings and cost of the audit of one rung."""
    from efface import suites

    seed, rung, name = job
    found, seconds = _examined(seed, rung, suites.load(name))
    spent = {
        r.label: sum(p["seconds"] + p["measuring_seconds"] for p in r.curves["unlearned"].points)
        for r in found.attacks
        if "unlearned" in r.curves
    }
    not_run = {r.label: r.reason for r in found.attacks if r.reason}
    return {
        "seed": seed,
        "rung": rung,
        "seconds": seconds,
        "conclusion": found.conclusion.to_json(),
        "attack_seconds": spent,
        "not_run": not_run,
    }


def _examined(seed: int, rung: str, suite: Any, *, second_reference: bool = False) -> tuple[Any, float]:
    """The audit of one rung and its seconds. Conclusions are tried the way most users get them: with one reference."""
    from efface.audit.audit import examine
    from efface.audit.roles import Role
    from efface.testing.ladder import ladder

    steps = ladder(seed)
    base, _, how = rung.partition("@")
    roles = {"target": steps.role("O"), "reference": steps.role("R1"), "base": steps.role("B")}
    if second_reference:
        roles["reference_2"] = steps.role("R3" if base == "R2" else "R2")
    stressed = {"4bit": _rounded, "relearned": _relearned}.get(how)
    subject = Role(lambda: stressed(steps, steps.model(base))) if stressed else steps.role(base)
    started = time.monotonic()
    found = examine(steps.spec, suite, steps.data, {"unlearned": subject, **roles})
    return found, round(time.monotonic() - started, 2)


def _rounded(steps: Any, adapter: Any) -> Any:
    """4-bit symmetric rounding in groups of 64."""
    import torch

    from efface.models.rounding import round_tensor, roundable

    with torch.no_grad():
        for p in roundable(adapter).values():
            p.copy_(round_tensor(p, 4, 64))
    return adapter


def _relearned(steps: Any, adapter: Any) -> Any:
    """A few steps of fine-tuning on retain rows, which hold nothing that is tested."""
    from efface.engine.finetune import fit
    from efface.engine.settings import TrainSettings

    rate = steps.spec.target.train.lr / 5
    settings = TrainSettings(lr=rate, steps=RELEARN_STEPS, batch_size=16, schedule="constant", warmup=0.0)
    fit(adapter, steps.data.train["retain"], settings, seed=steps.spec.seed)
    return adapter
