"""One line of a leaderboard for each run, read from its record alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from efface.audit.calibrate import Calibration
from efface.bench.origins import settings_of
from efface.bench.task import Outcome
from efface.runs.loading import LoadedRun, load_run
from efface.runs.results import Curve, ScoreRow
from efface.spec import Resolved

COLUMNS = (
    ("probability", "forget"),
    ("rouge", "forget"),
    ("extraction_strength", "forget"),
    ("forget_quality", "forget"),
    ("accuracy", "forget"),
    ("probability", "retain"),
    ("rouge", "retain"),
    ("extraction_strength", "retain"),
    ("accuracy", "retain"),
    ("accuracy", "test"),
    ("options_probability", "world_facts"),
    ("model_utility", "retain"),
    ("mia_min_k", "forget"),
)
FULL_STACK = tuple(
    (name, "forget" if name.startswith("ue") else "retain")
    for name in ("ue_mcq", "ue_open_qa", "ue_avg", "ut_mcq", "ut_open_qa", "ut_avg")
)
SHOWN_UNDER_ATTACK = ("mcq_options", "entailment")  # their mean is UE on the forget set, and UT on a retain set


def row(resolved: Resolved, outcome: Outcome, calibration: Calibration | None) -> dict[str, Any]:
    """One line: {method, seed, spec_hash, error} and, where there is a run, all that it says."""
    spec = resolved.spec
    line = {"method": spec.method.name, "seed": spec.seed, "spec_hash": resolved.hash, "error": outcome.error}
    if outcome.error:
        return line
    run = load_run(Path(outcome.run))
    training = run.training
    steps = training.steps if training else None
    seconds = training.seconds if training else None
    scores = run.scores.scores if run.scores else []
    return line | {
        "run": run.name,
        "conclusion": run.conclusion.label if run.conclusion else "",
        "values": _values(scores, "unlearned"),
        "controls": {role: _values(scores, role) for role in ("target", "reference") if role in _roles(scores)},
        "seconds": seconds,
        "steps": steps,
        "seconds_per_step": seconds / steps if seconds and steps else None,
        "stopped": training.stopped if training else "",
        "trained_parameters": training.trained_parameters if training else None,
        "moved_share": training.moved_share if training else None,
        "recovery": [f.says for f in (run.conclusion.findings if run.conclusion else ()) if f.kind == "recovery"],
        "robustness": list(robustness(run)),
        "uwc": calibration.to_json() if calibration else None,
        "settings": settings_of(spec, run.origins),
    }


def _values(scores: Sequence[ScoreRow], role: str) -> dict[str, list[float | None]]:
    """{"metric.set": [value, low, high]} of one role, in the order of the columns."""
    found = {(s.name, s.rows): s for s in scores if s.role == role}
    return {
        f"{name}.{rows}": [s.value, s.low, s.high]
        for name, rows in (*COLUMNS, *FULL_STACK)
        if (s := found.get((name, rows))) is not None
    }


def _roles(scores: Sequence[ScoreRow]) -> set[str]:
    return {s.role for s in scores}


def robustness(run: LoadedRun) -> Iterator[dict[str, Any]]:
    """For each attack that was measured by multiple choice and open answers: UE where it is highest along the curve,
    the reference's there, and UT at the same point where retain rows were measured (4-bit rounding is read on both)."""
    for label in dict.fromkeys(c.attack for c in run.curves):
        curves = {(c.metric, c.rows): c for c in run.curves if c.attack == label}
        parts = [curves.get((name, "forget")) for name in SHOWN_UNDER_ATTACK]
        if any(part is None for part in parts):
            continue
        shown = _mean_by_point(parts, "unlearned")  # type: ignore[arg-type]
        if not shown:
            yield {"attack": label, "reason": parts[0].reason or "no point was measured"}  # type: ignore[union-attr]
            continue
        at, ue = max(shown.items(), key=lambda item: item[1])
        kept = [curves[name, "retain"] for name in SHOWN_UNDER_ATTACK if (name, "retain") in curves]
        yield {
            "attack": label,
            "at": dict(at),
            "ue": ue,
            "reference": _mean_by_point(parts, "reference").get(at),  # type: ignore[arg-type]
            "ut": _mean_by_point(kept, "unlearned").get(at) if len(kept) == len(SHOWN_UNDER_ATTACK) else None,
            "reason": parts[0].reason if parts[0] else "",
        }


def _mean_by_point(curves: Sequence[Curve], role: str) -> Mapping[tuple[tuple[str, float], ...], float]:
    """Mean over the metrics at each budget above 0 that all of them have."""
    by_curve = [
        {tuple(p.budget.items()): p.value for p in c.points if p.role == role and p.value is not None} for c in curves
    ]
    common = [at for at in by_curve[0] if all(at in one for one in by_curve) and any(v for _, v in at)]
    return {at: sum(one[at] for one in by_curve) / len(by_curve) for at in common}
