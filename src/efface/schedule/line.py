"""PCH's judgement of a whole schedule: each score against a straight line from the first model to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from efface.audit.measure import measure, plan
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.build import Made
from efface.data.plans import Plan
from efface.loading import load_data
from efface.metrics.pch import closeness, reference_line
from efface.models.cachedir import cache_root
from efface.passes.cache import Cache
from efface.spec import Resolved
from efface.suites import Suite

NAMES = {"forget": "forget_degree", "retain": "retain_utility"}


def judged(last: Resolved, first: Made, steps: Plan, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{forget_degree, retain_utility: {values, line, scores}} over the steps.

    ``last`` is the spec of the last step, whose sets are those of the whole plan; ``first`` the model before any
    request. The line starts at that model's score on those sets and ends at the reference's of the last step; without
    a reference ``values`` are None and ``reason`` says so.
    """
    before = _before(last, first, steps)
    found: dict[str, Any] = {}
    for side in steps.line:
        name = f"pch_score_{side}.{side}"
        scores = [_value(row, "unlearned", name) for row in rows]
        without = _value(rows[-1], "reference", name)
        if without is None or side not in before:
            reason = "there is no reference model" if without is None else f"{name} of the first model was not computed"
            found[NAMES[side]] = {"values": [None] * len(rows), "line": [], "scores": scores, "reason": reason}
            continue
        line = [reference_line(before[side], without, size, steps.sizes[-1]) for size in steps.sizes]
        values = [None if s is None else closeness(s, wanted) for s, wanted in zip(scores, line, strict=True)]
        found[NAMES[side]] = {"values": values, "line": line, "scores": scores}
    return found


def _before(last: Resolved, first: Made, steps: Plan) -> dict[str, float]:
    """The score of each side of the model before any request, on the sets of the last step."""
    spec = last.spec
    data, _ = load_data(spec)
    metrics = {"all": [f"pch_score_{side}" for side in steps.line]}
    suite = Suite(name="reference line", metrics=metrics)
    passes = PassSettings.of(spec.audit, suite, spec.seed)
    store = Store({"target": Role(lambda: first.open(spec.model))}, data.eval, passes, Cache(cache_root() / "tables"))
    plan(store, suite)
    scores = measure(store, suite, "target", seed=spec.seed, resamples=spec.audit.resamples)
    return {score.rows: score.value for score in scores if score.value is not None}


def _value(row: Mapping[str, Any], role: str, name: str) -> float | None:
    score = row["scores"].get(role, {}).get(name)
    return None if score is None else score["value"]
