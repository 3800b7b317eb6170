"""Metric: a pure function of tables. It never sees a model, and says why when it cannot be computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from efface.card import Card
from efface.passes.tables import Generations, Hidden, Tokens
from efface.registry import Registry


class MetricRegistry(Registry["Metric"]):
    """Metrics by name; names with a known prefix (``harness:<task>``) are made when they are asked for."""

    def __init__(self, kind: str, package: str) -> None:
        super().__init__(kind, package)
        self._makers: dict[str, Callable[[str], Metric]] = {}

    def make(self, prefix: str, maker: Callable[[str], Metric]) -> None:
        """``maker(name)`` gives the metric of every name that starts with ``prefix`` and has more behind it."""
        self._makers[prefix] = maker

    def get(self, name: str) -> Metric:
        """The metric called ``name``."""
        self._load()
        for prefix, maker in self._makers.items():
            if name.startswith(prefix) and name != prefix and name not in self._items:
                return maker(name)
        return super().get(name)


METRICS = MetricRegistry("metric", "efface.metrics")

Direction = Literal["higher", "lower", "match"]
ROLES = ("unlearned", "target", "reference", "base")
SECOND_REFERENCE = "reference_2"
"""Role of another reference, of another seed: what seed noise alone does. Metrics that know it work without it."""


class NotComputed(Exception):
    """Raised by a metric that cannot be computed; the message completes "not computed, because ..."."""


@dataclass(frozen=True)
class Need:
    """One table a metric reads.

    ``rows``: name of an evaluation set; "*" is the set the suite asks for. ``role``: "subject" is the model being
    scored (unlearned, target, reference, an attacked copy ...), otherwise a fixed role. ``variants``: candidate answers
    (score pass). ``prompt``: field that holds the question. ``layers`` / ``pooling``: hidden pass ("all" layers). Any
    other ``kind`` names a pass of ``passes.registry``; ``others``: further roles whose models that pass reads.
    ``optional``: without this table the metric is computed from the others.
    """

    kind: str
    rows: str = "*"
    role: str = "subject"
    variants: tuple[str, ...] = ("answer",)
    prompt: str = "prompt"
    pooling: str = "last_prompt"
    others: tuple[str, ...] = ()
    optional: bool = False

    def bind(self, rows: str) -> Need:
        """The need with "*" replaced by ``rows``."""
        return replace(self, rows=rows) if self.rows == "*" else self


class Tables:
    """Tables at hand for one subject. ``fetch(role, need)`` returns an Arrow table or raises ``NotComputed``."""

    def __init__(
        self,
        fetch: Callable[[str, Need], Any],
        rows: str,
        subject: str = "unlearned",
        seed: int = 0,
        resamples: int = 1000,
    ) -> None:
        self._fetch, self.default_rows, self.subject = fetch, rows, subject
        self.seed, self.resamples = seed, resamples

    def drawn(self, seed: int, resamples: int) -> Tables:
        """The same tables for metrics that bootstrap their own statistic (AUC, harmonic means)."""
        return Tables(self._fetch, self.default_rows, self.subject, seed, resamples)

    def tokens(self, rows: str = "*", variant: str = "answer", prompt: str = "prompt", role: str = "subject") -> Tokens:
        """Token table of one variant; rows come in the order of the evaluation set."""
        need = Need("score", rows, role, (variant,), prompt).bind(self.default_rows)
        return Tokens(self._fetch(role, need))

    def variants(
        self, stem: str = "wrong", rows: str = "*", prompt: str = "prompt", role: str = "subject"
    ) -> list[list[np.ndarray]]:
        """Log-probs of every ``stem:i`` candidate: one list of float64 arrays per data row."""
        need = Need("score", rows, role, (stem,), prompt).bind(self.default_rows)
        return self._fetch(role, need)

    def generations(self, rows: str = "*", prompt: str = "prompt", role: str = "subject") -> Generations:
        """Greedy generations."""
        return Generations(self._fetch(role, Need("generate", rows, role, (), prompt).bind(self.default_rows)))

    def hidden(self, layer: int, rows: str = "*", pooling: str = "last_prompt", role: str = "subject") -> Hidden:
        """Hidden states of one layer; negative layers count from the last block."""
        need = Need("hidden", rows, role, (str(layer),), "prompt", pooling).bind(self.default_rows)
        return Hidden(self._fetch(role, need))

    def layers(self, rows: str = "*", pooling: str = "last_prompt", role: str = "subject") -> list[int]:
        """Layers for which hidden states are at hand."""
        need = Need("hidden", rows, role, ("layers",), "prompt", pooling).bind(self.default_rows)
        return self._fetch(role, need)

    def gradients(self, rows: str = "*", role: str = "subject") -> Any:
        """Arrow table of the gradient pass."""
        return self._fetch(role, Need("gradient", rows, role).bind(self.default_rows))

    def table(self, need: Need) -> Any:
        """Arrow table of any pass (``passes.registry``), for the role the need names."""
        return self._fetch(need.role, need.bind(self.default_rows))

    def weights(self, role: str = "subject") -> Any:
        """Arrow table of the weight pass: the target against ``role``."""
        return self._fetch(role, Need("weight", "", role))


@dataclass(frozen=True)
class PerRow:
    """Per-row values of a metric. NaN = could not be scored: kept, counted, left out of means."""

    values: np.ndarray
    rows: Sequence[str]
    entities: Sequence[str]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One number with everything that belongs to it. ``reason`` non-empty: not computed, because ``reason``.

    ``low`` / ``high``: 95% bootstrap interval over entities. ``target``: what it should be (the reference's value for
    direction ``match``). ``per_row``: values by row id, for paired comparison and examples.
    """

    name: str
    rows: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unscored: int = 0
    direction: Direction = "match"
    target: float | None = None
    version: int = 1
    reason: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    per_row: Mapping[str, float] = field(default_factory=dict)
    entities: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, *, rows: bool = False) -> dict[str, Any]:
        """Plain dictionary; per-row values only when asked for."""
        data = asdict(self)
        data["extra"] = dict(self.extra)
        if not rows:
            data.pop("per_row"), data.pop("entities")
        return data


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    ``function(tables) -> PerRow | Score-like``; raw values are oriented so that LARGER MEANS MORE KNOWLEDGE unless
    ``orientation`` is "none" (p-values, distances). ``directions``: {evaluation set or "*": direction}.
    """

    name: str
    function: Callable[[Tables], PerRow | Score]
    needs: tuple[Need, ...]
    directions: Mapping[str, Direction]
    card: Card
    version: int = 1
    orientation: Literal["knowledge", "none"] = "knowledge"
    families: tuple[str, ...] = ("text",)
    fixed_rows: str = ""
    REGISTRY: ClassVar[Registry[Metric]] = METRICS

    def direction(self, rows: str) -> Direction:
        """Which way is good on this evaluation set."""
        if rows in self.directions:
            return self.directions[rows]
        private = self.orientation == "knowledge" and {"forget", "holdout"} & set(rows.split("_"))
        other = self.directions.get("*", "match")
        return "match" if private and other == "higher" else other

    def bound_needs(self, rows: str) -> tuple[Need, ...]:
        """Needs with "*" replaced; holdout rows are those of the kind asked for (``passages_holdout``)."""
        bound = (need.bind(rows) for need in self.needs)
        other = rows.replace("forget", "holdout")
        return tuple(replace(n, rows=other) if n.rows == "holdout" and "forget" in rows else n for n in bound)


KNOWLEDGE: dict[str, Direction] = {
    **dict.fromkeys(
        ("forget", "forget_test", "holdout", "names", "two_hop", "passages_forget", "passages_holdout"), "match"
    ),
    "*": "higher",
}


def metric(
    name: str,
    *,
    needs: Sequence[Need],
    card: Card,
    directions: Mapping[str, Direction] = KNOWLEDGE,
    version: int = 1,
    orientation: Literal["knowledge", "none"] = "knowledge",
    families: Sequence[str] = ("text",),
    fixed_rows: str = "",
) -> Callable[[Callable[[Tables], PerRow | Score]], Callable[[Tables], PerRow | Score]]:
    """Register a metric function. It stays callable as a plain function of ``Tables``."""

    def add(function: Callable[[Tables], PerRow | Score]) -> Callable[[Tables], PerRow | Score]:
        METRICS.register(
            name,
            Metric(
                name, function, tuple(needs), dict(directions), card, version, orientation, tuple(families), fixed_rows
            ),
        )
        return function

    return add


def compute(metric: Metric, tables: Tables, rows: str, *, seed: int = 0, resamples: int = 1000) -> Score:
    """Run one metric: per-row values become a mean with a bootstrap interval over entities; a missing table becomes
    "not computed, because"."""
    direction = metric.direction(rows)
    try:
        result = metric.function(tables.drawn(seed, resamples))
    except NotComputed as why:
        return Score(metric.name, rows, None, direction=direction, version=metric.version, reason=str(why))
    if isinstance(result, Score):
        return replace(result, name=metric.name, rows=rows, direction=direction, version=metric.version)
    return summarise(metric, rows, result, seed=seed, resamples=resamples)


def summarise(metric: Metric, rows: str, result: PerRow, *, seed: int, resamples: int) -> Score:
    """Per-row values as a score: mean over the scored rows, bootstrap interval over entities."""
    from efface.metrics.stats import bootstrap_mean, unit

    direction, version = metric.direction(rows), metric.version
    values = np.asarray(result.values, dtype=np.float64)
    scored = np.isfinite(values)
    if not scored.any():
        why = "none of its rows could be scored"
        return Score(metric.name, rows, None, unscored=len(values), direction=direction, version=version, reason=why)
    entities = [e for e, ok in zip(result.entities, scored, strict=True) if ok]
    low, high = bootstrap_mean(values[scored], entities, seed=seed, resamples=resamples)
    return Score(
        metric.name,
        rows,
        float(values[scored].mean()),
        low,
        high,
        int(scored.sum()),
        int((~scored).sum()),
        direction,
        version=version,
        extra=dict(result.extra) | {"interval_over": unit(entities)},
        per_row=dict(zip(result.rows, values.tolist(), strict=True)),
        entities=dict(zip(result.rows, result.entities, strict=True)),
    )


def best_of(metric: Metric, earlier: Score, now: Score, *, seed: int, resamples: int) -> Score:
    """Each row with the larger of two values (larger = more knowledge), summarised again; ``extra["this_try"]`` is the
    mean of ``now`` alone. A score without values per row cannot be combined and is returned as it is."""
    if not now.per_row or not earlier.per_row:
        return now
    values = np.fmax([now.per_row[r] for r in now.per_row], [earlier.per_row.get(r, np.nan) for r in now.per_row])
    best = PerRow(values, list(now.per_row), [now.entities[r] for r in now.per_row], {"this_try": now.value or 0.0})
    return summarise(metric, now.rows, best, seed=seed, resamples=resamples)
