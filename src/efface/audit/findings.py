"""Findings: what the scores and curves say, each as one sentence with its evidence. No judgement yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from efface.audit.attacks import AttackResult, Curve
from efface.metrics.base import Score
from efface.metrics.power import with_power
from efface.metrics.stats import Difference, bootstrap_difference

P_RESAMPLES = 20_000  # at least: many attacks are corrected for, and 1 / (resamples + 1) is the least p there is
MARGIN = 0.1  # share of the target-reference gap below which a residue does not matter in practice
NAMES = "names"  # rows whose answer is who was forgotten: to learn that is not to learn what was forgotten
MARGINS = {"rouge": 0.25}  # measured: two references that differ in their seed alone were .24 of the gap apart


@dataclass(frozen=True)
class Finding:
    """``kind``: residue, utility, recovery, disclosure (of who was forgotten), consistency, power. ``flag``: it speaks
    against erasure (or against utility, for kind utility). ``share``: size relative to the gap between target and
    reference, where there is one."""

    kind: str
    name: str
    says: str
    flag: bool
    p: float | None = None
    share: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return asdict(self)


def difference(
    a: Mapping[str, float], b: Mapping[str, float], entities: Mapping[str, str], *, seed: int, resamples: int
) -> Difference | None:
    """Two models row by row; None when no row is scored under both (``metrics.stats.bootstrap_difference``)."""
    rows = [r for r in a if r in b and a[r] is not None and b[r] is not None]
    if not rows:
        return None
    mine, theirs = (np.array([values[r] for r in rows], dtype=float) for values in (a, b))
    names = [entities.get(r) or r for r in rows]
    return bootstrap_difference(mine, theirs, names, seed=seed, resamples=max(resamples, P_RESAMPLES))


def residue(
    unlearned: Sequence[Score],
    references: Sequence[Sequence[Score]],
    target: Sequence[Score],
    names: Sequence[str],
    *,
    seed: int,
    resamples: int,
) -> list[Finding]:
    """What the outputs still show of the forget set, beyond the reference; with several of them, beyond the one that
    comes closest (what two references differ in is noise of the seed)."""
    out = []
    for name in names:
        u, o = (_find(s, name, "forget") for s in (unlearned, target))
        there = [r for r in (_find(s, name, "forget") for s in references) if r and r.value is not None]
        if not (u and o and there) or None in (u.value, o.value):
            continue
        r = max(there, key=lambda score: score.value)  # type: ignore[arg-type,return-value]
        found = difference(u.per_row, r.per_row, u.entities, seed=seed, resamples=resamples)
        gap = o.value - r.value  # type: ignore[operator]
        if found is None or gap <= 0:
            continue
        share = found.value / gap
        flag = found.low is not None and found.low > 0 and share > MARGINS.get(name, MARGIN)
        says = (
            f"{_label(name)} on the forget set: unlearned {u.value:.3f}, reference {r.value:.3f}, "
            f"target {o.value:.3f}; {_of_several(there)}"
            f"difference to the reference {found.value:+.3f} {_interval(found)}."
        )
        evidence = asdict(found) | {"gap": gap, "detectable": _detectable(u, r, seed=seed, resamples=resamples)}
        out.append(Finding("residue", name, says, flag, found.p, share, evidence))
    return out


def utility(
    unlearned: Sequence[Score], target: Sequence[Score], sets: Sequence[str], names: Sequence[str]
) -> list[Finding]:
    """What was lost on rows that were to be kept: (after - chance) / (before - chance), chance being what guessing
    gives (0 where the metric knows none). Flagged when less than half is left; where the target itself was not above
    chance, nothing can be lost, which is said."""
    out = []
    for rows in sets:
        for name in names:
            u, o = _find(unlearned, name, rows), _find(target, name, rows)
            if not (u and o) or u.value is None or not o.value:
                continue
            chance = float(o.extra.get("chance", 0.0))
            guess = f", guessing gives {chance:.3f}" if chance else ""
            says = f"{_label(name)} on {rows} rows: {o.value:.3f} before, {u.value:.3f} after"
            evidence = {"before": o.value, "after": u.value, "chance": chance}
            if chance and (o.value if o.low is None else o.low) <= chance:
                says = f"{says}{guess}: it was not above that before, so what was lost cannot be said."
                out.append(Finding("utility", f"{name}.{rows}", says, False, None, None, evidence))
                continue
            kept = max(0.0, (u.value - chance) / (o.value - chance))
            says = f"{says}{guess} ({kept:.0%} kept)."
            out.append(Finding("utility", f"{name}.{rows}", says, kept < 0.5, None, 1 - kept, evidence))
    return out


def recovery(result: AttackResult, metric: str, gap: float | None, *, seed: int, resamples: int) -> list[Finding]:
    """The clearest point of one attack's curve, corrected for having looked at every point.

    Two things must hold at it: under the attack the model shows more than the reference does (the excess, whose p is
    the finding's), and the attack raised it, by more than it raised the reference (the gain). Without the second, what
    the outputs show anyway would count as brought back; without the first, an attack that harms the reference would.
    A model that never knew has no excess, so the p that is corrected for many attacks is that of the excess alone.
    """
    u, r = result.curves.get("unlearned"), result.curves.get("reference")
    if not u or not r or len(u.points) < 2:
        return []
    # an attacker who gives the answer away measures copying, which is never recovery
    both = zip(u.points[1:], r.points[1:], strict=False)
    pairs = [(a, b) for a, b in both if not a["supplied"].get("contains_answer")]
    rows = next((name for name in ("forget", "two_hop", NAMES) if point_score(u.points[0], metric, name)), None)
    if not pairs or rows is None:
        return []
    start = [point_score(curve.points[0], metric, rows) or {} for curve in (u, r)]
    scored = [
        (point_score(a, metric, rows), point_score(b, metric, rows), a["budget"])
        for a, b in pairs
        if _has_power(result, metric, a["budget"], rows)
    ]
    tried = [
        point
        for a, b, budget in scored
        if a and b and (point := _point(a, b, start, budget, seed=seed, resamples=resamples))
    ]
    if not tried:
        says = f"{result.label}: no point of the curve has power (the target itself loses the facts there)."
        return [Finding("power", result.label, says, False)]
    best = min(tried, key=lambda point: (not point.gained(len(tried)), point.excess.p, -point.least))
    p = min(1.0, best.excess.p * len(tried))
    share = best.least / gap if gap and gap > 0 and rows != NAMES else None
    flag = p < 0.05 and best.gained(len(tried)) and (share is None or share > MARGINS.get(metric, MARGIN))
    what = f"{_label(metric)} of the forgotten names" if rows == NAMES else _label(metric)
    says = f"{result.label} at {best.told(what)}, p = {p:.3f} after correcting for {len(tried)} points."
    evidence = asdict(best.excess) | {"gain": asdict(best.gain), "budget": best.budget}
    return [Finding("disclosure" if rows == NAMES else "recovery", result.label, says, flag, p, share, evidence)]


@dataclass(frozen=True)
class _Point:
    """One point of a curve. ``excess``: unlearned above reference under the attack; ``gain``: how far the attack raised
    the unlearned model, or how much further than the reference, whichever is less."""

    excess: Difference
    gain: Difference
    budget: Mapping[str, float]

    def gained(self, looked: int) -> bool:
        """Whether the attack raised the model, and by more than the reference, corrected for ``looked`` points."""
        return self.gain.value > 0 and self.gain.p * looked < 0.05

    @property
    def least(self) -> float:
        """The smaller of the two: what was brought back, as far as the reference does not show it."""
        return min(self.excess.value, self.gain.value)

    def told(self, what: str) -> str:
        """Where, how far above the reference, and how much of that the attack brought."""
        where = ", ".join(f"{k} {v:g}" for k, v in self.budget.items())
        return (
            f"{where}: {what} {self.excess.value:+.3f} above the reference under the same attack "
            f"{_interval(self.excess)}, of which the attack brought {self.gain.value:+.3f} {_interval(self.gain)}"
        )


def _point(
    mine: Mapping[str, Any],
    theirs: Mapping[str, Any],
    start: Sequence[Mapping[str, Any]],
    budget: Mapping[str, float],
    *,
    seed: int,
    resamples: int,
) -> _Point | None:
    """None where no row was scored under both, before and under the attack."""
    options = {"seed": seed, "resamples": resamples}
    raised = [
        _raised(after["per_row"], was.get("per_row", {})) for after, was in zip((mine, theirs), start, strict=True)
    ]
    excess = difference(mine["per_row"], theirs["per_row"], mine["entities"], **options)
    rise = difference(mine["per_row"], start[0].get("per_row", {}), mine["entities"], **options)
    gain = difference(*raised, mine["entities"], **options)
    return _Point(excess, min(gain, rise, key=lambda g: g.value), budget) if excess and gain and rise else None


def _raised(after: Mapping[str, float | None], before: Mapping[str, float | None]) -> dict[str, float]:
    return {row: v - w for row, v in after.items() if v is not None and (w := before.get(row)) is not None}


def point_score(point: Mapping[str, Any], metric: str, rows: str = "forget") -> dict[str, Any] | None:
    """The stored score of one curve point, None if it was not computed."""
    found = next((s for s in point["scores"] if s["name"] == metric and s["rows"] == rows), None)
    return found if found and found["value"] is not None else None


def _has_power(result: AttackResult, metric: str, budget: Mapping[str, float], rows: str) -> bool:
    """Where the target is a control: it must keep at least half of its own knowledge under the same attack."""
    control: Curve | None = result.curves.get("target")
    if control is None:
        return True
    start = point_score(control.points[0], metric, rows)
    here = next((point_score(p, metric, rows) for p in control.points if p["budget"] == budget), None)
    return bool(start and here and here["value"] >= 0.5 * start["value"])


def _find(scores: Sequence[Score], name: str, rows: str) -> Score | None:
    return next((s for s in scores if s.name == name and s.rows == rows), None)


def _detectable(score: Score, control: Score, *, seed: int, resamples: int) -> float | None:
    """The smallest difference that these rows would show four times in five; None where it cannot be said."""
    return with_power(score, control, seed=seed, resamples=resamples).extra.get("detectable")


def _of_several(references: Sequence[Score]) -> str:
    if len(references) < 2:
        return ""
    values = sorted(r.value for r in references if r.value is not None)
    return f"references of different seeds lie between {values[0]:.3f} and {values[-1]:.3f}; "


def _interval(found: Difference) -> str:
    return (
        "(one row, no interval)"
        if found.low is None or found.high is None
        else f"[{found.low:+.3f}, {found.high:+.3f}]"
    )


def _label(name: str) -> str:
    return name.replace("_", " ")
