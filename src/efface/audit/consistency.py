"""Does a metric say the same of surrogates as of the forget set? If not, it rewards forgetting sentences, not facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from efface.audit.attacks import AttackResult, Curve
from efface.audit.findings import MARGIN, Finding, point_score
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.worlds.surrogates import Surrogate
from efface.errors import NeedsError
from efface.metrics.base import METRICS, Metric, Tables, compute
from efface.metrics.resampling import FEW_ENTITIES, group, mean_draws, percentile

if TYPE_CHECKING:
    from efface.data.rows import Row

LIMIT = 0.5
Values = Mapping[str, float]


@dataclass(frozen=True)
class Consistency:
    """``forgotten``: mean fall of the metric from target to unlearned on the forget rows; ``surrogates``: the same on
    their surrogates; ``rho`` their ratio with its 95% interval (None where the metric did not fall on the forget rows),
    with a reference each fall as a share of what there was to lose, target minus reference: the target need not know a
    surrogate as well as the row. ``gap``: |unlearned - reference| on surrogates minus the same on forget rows, with its
    interval (None without a reference). ``flag``, of at least ``FEW_ENTITIES`` entities or rows: the gap's lower end is
    above a tenth of the distance from target to reference on the forget rows (seed noise alone makes it differ from 0);
    without a reference, rho's upper end is under one half. ``pairs`` used, ``unknown``: dropped, because the target
    does not do better on the surrogate than the reference."""

    metric: str
    forgotten: float
    surrogates: float
    rho: float | None
    low: float | None
    high: float | None
    gap: float | None
    gap_low: float | None
    gap_high: float | None
    flag: bool
    pairs: int
    unknown: int


def consistency(
    metric: str,
    on_rows: Mapping[str, Values],
    on_surrogates: Mapping[str, Values],
    source_of: Mapping[str, str],
    entities: Mapping[str, str],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Consistency:
    """Compare per-row values {role: {row id: value, larger = more knowledge}} of ``target``, ``unlearned`` and, if
    there is one, ``reference`` on forget rows and on surrogates. ``source_of`` {surrogate id: row id}; entities are
    resampled with all their pairs. ``NeedsError`` ``consistency.no-pairs`` where nothing can be compared."""
    roles = [r for r in ("target", "unlearned", "reference") if r in on_rows and r in on_surrogates]
    pairs, unknown = [], 0
    for name, source in source_of.items():
        values = [on_rows[r].get(source, np.nan) for r in roles] + [on_surrogates[r].get(name, np.nan) for r in roles]
        if not np.isfinite(values).all():
            continue
        here = dict(zip(roles, values[len(roles) :], strict=True))
        if "reference" in here and here["target"] <= here["reference"]:
            unknown += 1
            continue
        pairs.append((entities.get(source) or source, values))
    if not pairs:
        raise NeedsError(
            "consistency.no-pairs",
            f"No surrogate is known better by the target than by the reference under {metric} ({unknown} are not).",
            "make other surrogates.",
        )
    groups = group([entity for entity, _ in pairs])
    table = np.array([values for _, values in pairs])
    draws = mean_draws(table, groups, seed, resamples)
    return _compared(metric, roles, table.mean(0), draws, groups.count, len(pairs), unknown)


def _compared(
    metric: str,
    roles: Sequence[str],
    means: np.ndarray,
    draws: np.ndarray,
    groups: int,
    pairs: int,
    unknown: int,
) -> Consistency:
    """Ratio and gap of column means (roles on forget rows, then on surrogates), with intervals from their draws."""
    count, at = len(roles), {name: i for i, name in enumerate(roles)}

    def fall(values: np.ndarray, side: int) -> np.ndarray:
        return values[..., side + at["target"]] - values[..., side + at["unlearned"]]

    def share(values: np.ndarray, side: int) -> np.ndarray:
        lost = fall(values, side)
        if "reference" not in at:
            return lost
        known = values[..., side + at["target"]] - values[..., side + at["reference"]]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(known > 0, lost / known, np.nan)

    def gap(values: np.ndarray, side: int) -> np.ndarray:
        return np.abs(values[..., side + at["unlearned"]] - values[..., side + at["reference"]])

    forgotten, again = float(fall(means, 0)), float(fall(means, count))
    rho = low = high = None
    if forgotten > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            rho = float(share(means, count) / share(means, 0))
            ratios = np.where(fall(draws, 0) > 0, share(draws, count) / share(draws, 0), np.nan)
        rho = rho if np.isfinite(rho) else None
        low, high = percentile(ratios, groups) if rho is not None else (None, None)
    difference: float | None = None
    gap_low = gap_high = None
    if "reference" in at:
        difference = float(gap(means, count) - gap(means, 0))
        gap_low, gap_high = percentile(gap(draws, count) - gap(draws, 0), groups)
    matters = MARGIN * abs(float(means[at["target"]] - means[at["reference"]])) if "reference" in at else 0.0
    told = gap_low is not None and gap_low > matters if "reference" in at else high is not None and high < LIMIT
    flag = bool(told and groups >= FEW_ENTITIES)
    return Consistency(metric, forgotten, again, rho, low, high, difference, gap_low, gap_high, flag, pairs, unknown)


def of_curve(result: AttackResult, metrics: Sequence[str], *, seed: int, resamples: int) -> Iterator[Finding]:
    """What the surrogates of an attack's curve say about the metrics themselves, one finding per metric and point. It
    never flags a model: a metric that says less on surrogates than on the forget set is not to be relied on."""
    curves = result.curves
    if "unlearned" not in curves or "target" not in curves:
        return
    for at in range(1, min(len(curve.points) for curve in curves.values())):
        for metric in (name for name in metrics if METRICS.get(name).orientation == "knowledge"):
            if (found := _at(curves, at, metric, seed=seed, resamples=resamples)) is not None:
                yield _finding(result, curves["unlearned"].points[at], found)


def _at(curves: Mapping[str, Curve], at: int, metric: str, *, seed: int, resamples: int) -> Consistency | None:
    """Point ``at`` of all curves beside their start; None where no surrogate is known better by the target."""
    sides: list[dict[str, Values]] = []
    entities: Mapping[str, str] = {}
    for i in (0, at):
        scores = {role: point_score(curve.points[i], metric) for role, curve in curves.items()}
        if None in scores.values():
            return None
        sides.append({role: score["per_row"] for role, score in scores.items()})  # type: ignore[index]
        entities = scores["unlearned"]["entities"]  # type: ignore[index]
    same = {row: row for row in sides[1]["unlearned"]}
    try:
        return consistency(metric, *sides, same, entities, seed=seed, resamples=resamples)
    except NeedsError:
        return None


def _finding(result: AttackResult, point: Mapping[str, Any], found: Consistency) -> Finding:
    kind = next((name[: -len("_rows")] for name in point["supplied"] if name.endswith("_rows")), "surrogates")
    ratio = "" if found.rho is None else f" ({found.rho:.2f} of it, as far as there was as much to lose)"
    trust = "it follows sentences more than facts" if found.flag else "nothing speaks against it"
    says = (
        f"{found.metric.replace('_', ' ')} fell by {found.forgotten:.3f} on forget rows and by {found.surrogates:.3f} "
        f"on their {kind.replace('_', '-')} surrogates{ratio}, {found.pairs} pairs: {trust}."
    )
    return Finding(
        "consistency", f"{result.label}: {found.metric}, {kind}", says, False, None, found.rho, asdict(found)
    )


def _sided(metric: Metric) -> Metric:
    """The metric, if a fall of it is a loss of knowledge."""
    if metric.orientation != "knowledge":
        raise NeedsError(
            "consistency.no-side",
            f"A larger {metric.name} is no more knowledge, so its fall says nothing about forgetting.",
            "choose a metric whose larger values mean more knowledge.",
        )
    return metric


def stress(
    metrics: Sequence[str],
    roles: Mapping[str, Role],
    rows: Sequence[Row],
    surrogates: Sequence[Surrogate],
    *,
    passes: PassSettings | None = None,
    world: Any = None,
    seed: int = 0,
    resamples: int = 1000,
) -> list[Consistency]:
    """``consistency`` of every metric that scores rows one by one. ``roles``: ``target``, ``unlearned`` and, if there
    is one, ``reference``. Raises ``NeedsError`` consistency.no-side (before any pass), consistency.no-rows,
    consistency.no-pairs."""
    chosen = [_sided(METRICS.get(name)) for name in metrics]
    stood_for = {s.row.id: s.source for s in surrogates}
    entities = {r.id: r.entity for r in rows}
    sets = {"forget": list(rows), "surrogates": [replace(s.row, entity=entities[s.source]) for s in surrogates]}
    store = Store(roles, sets, passes or PassSettings(), world=world)
    for metric in chosen:
        for name in sets:
            store.plan(metric.bound_needs(name))
    out = []
    for metric in chosen:
        found: dict[str, dict[str, Values]] = {name: {} for name in sets}
        for name in sets:
            for role in roles:
                tables = Tables(
                    lambda asked, need, role=role: store.fetch(role if asked == "subject" else asked, need), name, role
                )
                value = compute(metric, tables, name, seed=seed, resamples=1)
                if not value.per_row:
                    raise NeedsError(
                        "consistency.no-rows",
                        f"{metric.name} gives no value per row on the {name} ({value.reason or 'it is one number'}).",
                        "choose a metric that scores rows one by one.",
                    )
                found[name][role] = value.per_row
        both = (found["forget"], found["surrogates"])
        out.append(consistency(metric.name, *both, stood_for, entities, seed=seed, resamples=resamples))
    return out
