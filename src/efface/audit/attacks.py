"""Running attacks: the same metrics along the curve, on the unlearned model and on every control, each curve cached."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface.attacks.base import ATTACKS, Attack, AttackContext, AttackPoint
from efface.audit.store import PassSettings, Role, Store
from efface.data.rows import Bundle, Rows, digest_rows
from efface.metrics.base import METRICS, Score, Tables, compute
from efface.progress import SILENT, Progress
from efface.runs.layout import write_json
from efface.suites import AttackEntry, Suite


@dataclass
class Curve:
    """One attack on one role: points in rising order of effort, each with its scores by (metric, evaluation set)."""

    role: str
    axis: str
    points: list[dict[str, Any]] = field(
        default_factory=list
    )  # {budget, supplied, seconds, scores: [Score JSON with rows]}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON for the cache."""
        return {"role": self.role, "axis": self.axis, "points": self.points}


@dataclass
class AttackResult:
    """One attack with its controls; ``reason`` says why it was not run or is partial."""

    label: str
    name: str
    threat: str
    axis: str = ""
    curves: dict[str, Curve] = field(default_factory=dict)
    reason: str = ""
    partial: bool = False


class Runner:
    """Runs the attacks of a suite on a set of roles."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        data: Bundle,
        suite: Suite,
        passes: PassSettings,
        *,
        seed: int,
        resamples: int,
        cache: Path | None,
        built_with: Any = None,
        progress: Progress = SILENT,
    ) -> None:
        self.roles, self.data, self.suite, self.passes = dict(roles), data, suite, passes
        self.seed, self.resamples, self.cache, self.built_with, self.progress = (
            seed,
            resamples,
            cache,
            built_with,
            progress,
        )

    def run(
        self, entry: AttackEntry, *, on_point: Callable[[str, dict[str, Any]], None] = lambda role, point: None
    ) -> AttackResult:
        """One attack on the unlearned model and its controls."""
        attack = ATTACKS.get(entry.name)(**entry.settings)
        result = AttackResult(entry.label or entry.name, entry.name, attack.threat)
        family = self.roles["unlearned"].adapter().family
        result.reason = f"it does not apply to a {family}" if family not in attack.families else attack.check(self.data)
        if result.reason:
            return result
        wanted = ("unlearned", *attack.controls)
        for role in (r for r in wanted if r in self.roles):
            result.curves[role] = self._curve(attack, entry, role, on_point)
            result.axis = result.curves[role].axis
        if missing := [r for r in attack.controls if r not in self.roles]:
            result.reason = f"there is no {' and no '.join(missing)} model as a control"
        return result

    def _curve(
        self, attack: Attack, entry: AttackEntry, role: str, on_point: Callable[[str, dict[str, Any]], None]
    ) -> Curve:
        place = self._place(attack, entry, role)
        if place and place.is_file():
            stored = json.loads(place.read_text())
            return Curve(role, stored["axis"], stored["points"])
        sets = attack.measured(self.data)
        curve = Curve(role, "")
        adapter = self.roles[role].adapter()
        curve.points.append(self._point({}, adapter, sets, {}, time.perf_counter(), self.roles[role].fingerprint))
        context = AttackContext(adapter.clone(), self.data, self.seed, self._original(), self.built_with, self.progress)
        with self.progress.step(f"{entry.label or entry.name} on {role}") as task:
            started = time.perf_counter()
            for point in attack.points(context):
                curve.axis = point.axis
                curve.points.append(self._attacked(point, sets, started))
                on_point(role, curve.points[-1])
                self.progress.advance(task)
                started = time.perf_counter()
        curve.points[0]["budget"] = {curve.axis: 0}
        if place:
            write_json(place, curve.to_json())
        return curve

    def _attacked(self, point: AttackPoint, sets: Mapping[str, Rows], started: float) -> dict[str, Any]:
        changed = {name: point.rows(name, rows) if point.rows else rows for name, rows in sets.items()}
        return self._point(dict(point.budget), point.adapter, changed, dict(point.supplied), started, "")

    def _point(
        self,
        budget: dict[str, float],
        adapter: Any,
        sets: Mapping[str, Rows],
        supplied: dict[str, float],
        started: float,
        fingerprint: str,
    ) -> dict[str, Any]:
        trained = time.perf_counter()
        scores = self._scores(adapter, sets)
        return {
            "budget": budget,
            "supplied": supplied,
            "seconds": round(trained - started, 3),
            "measuring_seconds": round(time.perf_counter() - trained, 3),
            "scores": [s.to_json(rows=True) for s in scores],
        }

    def _scores(self, adapter: Any, sets: Mapping[str, Rows]) -> list[Score]:
        store = Store({"subject": Role(lambda: adapter)}, sets, self.passes)
        chosen = [(METRICS.get(name), rows) for rows in sets for name in self.suite.attack_metrics]
        for metric, rows in chosen:
            store.plan(metric.bound_needs(rows))
        return [
            compute(metric, Tables(store.fetch, rows, "subject"), rows, seed=self.seed, resamples=self.resamples)
            for metric, rows in chosen
        ]

    def _original(self) -> Callable[[], Any] | None:
        return (lambda: self.roles["target"].adapter().clone()) if "target" in self.roles else None

    def _place(self, attack: Attack, entry: AttackEntry, role: str) -> Path | None:
        if self.cache is None:
            return None
        versions = {name: METRICS.get(name).version for name in self.suite.attack_metrics}
        sets = {name: digest_rows(rows) for name, rows in attack.measured(self.data).items()}
        built = self.built_with.model_dump(mode="json") if self.built_with else None
        original = self.roles["target"].key() if attack.needs_original and "target" in self.roles else ""
        parts = [
            entry.name,
            attack.settings.model_dump(mode="json"),
            self.roles[role].key(),
            self.data.digest(),
            sets,
            versions,
            self.passes.max_new_tokens,
            self.seed,
            self.resamples,
            built,
            original,
        ]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
        return self.cache / "curves" / f"{key}.json"
