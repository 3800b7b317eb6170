"""Running attacks: the same metrics along the curve, on the unlearned model and on every control, each curve cached."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from efface.attacks.base import ATTACKS, Attack, AttackContext, AttackPoint
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Bundle, Rows, digest_rows
from efface.errors import DataError, NeedsError, RunFailed
from efface.metrics.base import METRICS, Metric, Need, Score, Tables, best_of, compute
from efface.passes.cache import SCHEMA_VERSION
from efface.passes.registry import PASSES
from efface.progress import SILENT, Progress
from efface.runs.layout import write_json
from efface.suites import AttackEntry, Suite

OPTIONAL = ("base",)  # controls that are run where they are there, and not missed where they are not
OTHER_PASSES = ("hidden", "gradient", "weight")  # beside the registered ones and the scores of given answers


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
    """Runs the attacks of a suite on a set of roles. ``store`` holds what the audit has measured already: point 0 of
    every curve is read from it."""

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
        store: Store | None = None,
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
        self.store = store
        self.metrics: Sequence[str] = suite.attack_metrics  # measured along the curve at hand

    def run(
        self,
        entry: AttackEntry,
        *,
        on_point: Callable[[str, dict[str, Any]], None] = lambda role, point: None,
        seconds: float | None = None,
    ) -> AttackResult:
        """One attack on the unlearned model and its controls. After ``seconds`` the curve of the unlearned model ends
        where it is and the result is ``partial``; the controls run as far as it did, whatever that takes."""
        attack = ATTACKS.get(entry.name)(**entry.settings)
        self.metrics = curve_metrics(self.suite, attack)
        result = AttackResult(entry.label or entry.name, entry.name, attack.threat)
        family = self.roles["unlearned"].adapter().family
        result.reason = f"it does not apply to a {family}" if family not in attack.families else attack.check(self.data)
        if not result.reason and attack.needs_original and "target" not in self.roles:
            result.reason = "it needs the model before unlearning, and there is none"
        if result.reason:
            return result
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            run: dict[str, Curve] = {}  # by model: two roles may hold the same one
            for role in (r for r in ("unlearned", *attack.controls) if r in self.roles):
                key = self.roles[role].key()
                if key in run:
                    result.curves[role] = replace(run[key], role=role)
                    continue
                first = result.curves.get("unlearned")
                points = len(first.points) if first and result.partial else None
                curve, whole = self._curve(attack, entry, role, on_point, None if first else deadline, points)
                result.curves[role] = run[key] = curve
                result.axis = curve.axis
                result.partial = result.partial or (first is None and not whole)
        except (DataError, NeedsError, RunFailed) as error:
            return AttackResult(result.label, result.name, attack.threat, reason=f"[{error.code}] {error.cause}")
        if result.partial:
            result.reason = f"its time was up after {len(result.curves['unlearned'].points) - 1} points"
        elif missing := [r for r in attack.controls if r not in self.roles and r not in OPTIONAL]:
            result.reason = f"there is no {' and no '.join(missing)} model as a control"
        return result

    def _curve(
        self,
        attack: Attack,
        entry: AttackEntry,
        role: str,
        on_point: Callable[[str, dict[str, Any]], None],
        deadline: float | None,
        most: int | None,
    ) -> tuple[Curve, bool]:
        """(curve, whether it is whole). ``most``: points at which it ends, point 0 included. It is cut short before a
        point that would go beyond its time or ``most``; one point is always measured."""
        place = self._place(attack, entry, role)
        if place and place.is_file():
            stored = json.loads(place.read_text())
            return Curve(role, stored["axis"], stored["points"]), True
        sets = attack.measured(self.data)
        curve, whole = Curve(role, ""), True
        adapter = self.roles[role].adapter()
        store = self._store(adapter, sets, self._known(role, sets))
        scores = self._computed(store, sets)
        _refuse_unmeasured(scores)
        given = _of_given_answers(store)
        curve.points.append(_as_point({}, {}, 0.0, 0.0, scores))
        context = AttackContext(
            adapter.clone(), self.data, self.seed, self._original(), self.built_with, self.progress, self._naive()
        )
        with self.progress.step(f"{entry.label or entry.name} on {role}") as task:
            started = time.perf_counter()
            for point in attack.points(context):
                late = deadline is not None and time.monotonic() > deadline
                if len(curve.points) > 1 and (late or (most and len(curve.points) >= most)):
                    whole = False
                    break
                curve.axis = point.axis
                scores = self._attacked(point, sets, given if point.scores_as_before else {}, scores, started, curve)
                if point.quiet:
                    curve.points.pop()
                    continue
                on_point(role, curve.points[-1])
                self.progress.advance(task)
                started = time.perf_counter()
        curve.points[0]["budget"] = {curve.axis: 0}
        if place and whole:
            write_json(place, curve.to_json())
        return curve, whole

    def _attacked(
        self,
        point: AttackPoint,
        sets: Mapping[str, Rows],
        known: Mapping[Any, Any],
        before: list[Score],
        started: float,
        curve: Curve,
    ) -> list[Score]:
        """Measure one point and append it to the curve; its scores. ``known``: tables that hold for it too."""
        changed = {name: point.rows(name, rows) if point.rows else rows for name, rows in sets.items()}
        trained = time.perf_counter()
        passes = self.passes if point.decoding is None else replace(self.passes, decoding=point.decoding)
        scores = self._scores(point.adapter, changed, None if point.rows else known, passes)
        if point.best:
            options = {"seed": self.seed, "resamples": self.resamples}
            scores = [best_of(METRICS.get(s.name), b, s, **options) for b, s in zip(before, scores, strict=True)]
        took = time.perf_counter() - trained
        curve.points.append(_as_point(dict(point.budget), dict(point.supplied), trained - started, took, scores))
        return scores

    def _scores(
        self,
        adapter: Any,
        sets: Mapping[str, Rows],
        known: Mapping[Any, Any] | None,
        passes: PassSettings | None = None,
    ) -> list[Score]:
        return self._computed(self._store(adapter, sets, known, passes), sets)

    def _store(
        self,
        adapter: Any,
        sets: Mapping[str, Rows],
        known: Mapping[Any, Any] | None,
        passes: PassSettings | None = None,
    ) -> Store:
        """The tables of one point; all that its metrics need is planned."""
        store = Store({"subject": Role(lambda: adapter)}, sets, passes or self.passes, world=self.data.world)
        store.preload(known or {})
        for metric, rows in self._chosen(sets):
            store.plan(metric.bound_needs(rows))
        return store

    def _computed(self, store: Store, sets: Mapping[str, Rows]) -> list[Score]:
        return [
            compute(metric, Tables(store.fetch, rows, "subject"), rows, seed=self.seed, resamples=self.resamples)
            for metric, rows in self._chosen(sets)
        ]

    def _chosen(self, sets: Mapping[str, Rows]) -> list[tuple[Metric, str]]:
        return [(METRICS.get(name), rows) for rows in sets for name in self.metrics]

    def _known(self, role: str, sets: Mapping[str, Rows]) -> dict[Any, Any]:
        """Tables of these rows that the audit has already, under the role name of a curve's own store."""
        if self.store is None:
            return {}
        return {("subject", *place[1:]): table for place, table in self.store.of(role, sets).items()}

    def _original(self) -> Callable[[], Any] | None:
        return (lambda: self.roles["target"].adapter().clone()) if "target" in self.roles else None

    def _naive_role(self) -> str:
        """A second reference first: it is no control, so nothing is chosen with a model that is then compared."""
        return next((role for role in ("reference_2", "reference", "base") if role in self.roles), "")

    def _naive(self) -> Callable[[], Any] | None:
        role = self._naive_role()
        return (lambda: self.roles[role].adapter()) if role else None

    def _pass_versions(self) -> dict[str, int]:
        """Versions of the registered passes that the metrics along a curve read."""
        kinds = {need.kind for name in self.metrics for need in METRICS.get(name).needs}
        return {kind: PASSES.get(kind).version for kind in kinds & set(PASSES.names())}

    def _place(self, attack: Attack, entry: AttackEntry, role: str) -> Path | None:
        if self.cache is None:
            return None
        versions = {name: METRICS.get(name).version for name in self.metrics}
        sets = {name: digest_rows(rows) for name, rows in attack.measured(self.data).items()}
        built = self.built_with.model_dump(mode="json") if self.built_with else None
        original = self.roles["target"].key() if attack.needs_original and "target" in self.roles else ""
        parts = [
            entry.name,
            attack.version,
            attack.key(),
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
            SCHEMA_VERSION,
            self._pass_versions(),
            *([self.roles[role].key()] if attack.needs_naive and (role := self._naive_role()) else []),
            *self.passes.judge_key(),
        ]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
        return self.cache / "curves" / f"{key}.json"


def curve_metrics(suite: Suite, attack: Attack) -> Sequence[str]:
    """What is measured along a curve: the suite's attack metrics, and for an attack that ``reads_all`` also every
    metric of the forget rows that says how much is known and needs no more than the model's scores and answers."""
    if not attack.reads_all:
        return suite.attack_metrics
    own = [METRICS.get(name) for name in suite.metrics.get("forget", ())]
    plain = [m.name for m in own if m.orientation == "knowledge" and all(map(_is_plain, m.needs))]
    return list(dict.fromkeys([*suite.attack_metrics, *plain]))


def _is_plain(need: Need) -> bool:
    return need.kind in ("score", "generate") and (need.rows, need.role, need.prompt) == ("*", "subject", "prompt")


def _refuse_unmeasured(scores: Sequence[Score]) -> None:
    """``NeedsError`` where no metric has a value before the attack: then nothing can be said along its curve."""
    if scores and all(score.value is None for score in scores):
        raise NeedsError(
            "attack.nothing-measured",
            f"None of its metrics can be computed before the attack ({scores[0].name}: {scores[0].reason}).",
            "name a metric that fits the model and the rows in the suite's attack_metrics.",
        )


def _of_given_answers(store: Store) -> dict[Any, Any]:
    """The teacher-forced tables among what was measured."""
    others = {*OTHER_PASSES, *PASSES.names()}
    return {place: table for place, table in store.tables() if place[2] not in others and place[3] != "greedy"}


def _as_point(
    budget: dict[str, float], supplied: dict[str, float], seconds: float, measuring: float, scores: list[Score]
) -> dict[str, Any]:
    return {
        "budget": budget,
        "supplied": supplied,
        "seconds": round(seconds, 3),
        "measuring_seconds": round(measuring, 3),
        "scores": [s.to_json(rows=True) for s in scores],
    }
