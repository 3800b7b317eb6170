"""Attacks of a run: what each does, what came of it in words, its charts, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from pydantic import ValidationError

from efface.report import doses
from efface.report.charts import Plot, Series
from efface.report.glossary import ATTACKS, PRICES, THREATS, title
from efface.report.model import AttackView
from efface.report.text import amount, budget, duration, interval, number, role_title, set_title, visible, words
from efface.runs.loading import LoadedRun
from efface.runs.results import Curve, Finding, Gap, Point

SHOWN = ("recovery", "disclosure")  # kinds of findings that are about the excess of a curve
ORDER = {"unlearned": 0, "reference": 1, "target": 2}


def attacks(run: LoadedRun) -> tuple[AttackView, ...]:
    """One view for each attack, those with results first."""
    found = run.conclusion.findings if run.conclusion else []
    by_attack = groupby(sorted(run.curves, key=lambda c: c.attack), key=lambda c: c.attack)
    views = [_view(run, name, list(curves), found) for name, curves in by_attack]
    return tuple(sorted(views, key=lambda view: not view.rows))


def _view(run: LoadedRun, name: str, curves: Sequence[Curve], found: Sequence[Finding]) -> AttackView:
    head = curves[0]
    evidence = next((f for f in found if f.kind in SHOWN and f.name.split(": ")[-1] == name), None)
    sentences = tuple(_sentences(head, evidence)) + tuple(
        visible(f.says) for f in found if f.kind == "power" and f.name.split(": ")[-1] == name
    )
    reason = visible(head.reason, 400)
    if not _measured(head):
        reason = reason or "no point of its curve was recorded"
        return AttackView(words(name), _about(name), _threat(head), (), reason=reason, partial=head.partial)
    drawn = [c for c in curves if len(_budgets(c)) > 1 and _measured(c)]
    plots = tuple(_plot(run, c, small=i > 0) for i, c in enumerate(drawn))
    top, rows = _table(head)
    return AttackView(words(name), _about(name), _threat(head), sentences, plots, top, rows, reason, head.partial)


def _measured(curve: Curve) -> bool:
    return any(p.value is not None for p in curve.points)


def _about(name: str) -> str:
    return ATTACKS.get(name) or next((text for key, text in ATTACKS.items() if name.startswith(key)), "")


def _threat(curve: Curve) -> str:
    return f"{curve.threat}, {THREATS[curve.threat]}" if curve.threat in THREATS else visible(curve.threat, 60)


# -- in words ----------------------------------------------------------------------------------------------------
def _sentences(curve: Curve, found: Finding | None) -> Iterator[str]:
    """Excess over the reference under the same attack (the only evidence of residue) at its clearest and over the whole
    curve, then the highest value, what share of the loss it undoes, and what it cost."""
    measure = title(curve.metric).lower()
    gap = _gap(found)
    if found is not None and gap is not None:
        yield _excess(measure, gap, found.p)
    elif curve.excess is not None and curve.excess.value is not None:
        yield _excess(measure, curve.excess, None)
    else:
        why = visible(curve.reason, 300) or "there is no control"
        yield f"Excess over the reference: not computed, because {why}."
    if curve.area_excess is not None and curve.area_excess.value is not None:
        yield _area(measure, curve.area_excess)
    start = next((p for p in curve.points if p.role == "unlearned" and p.value is not None), None)
    if start is not None and curve.recovered is not None and curve.recovered.value is not None:
        most, where = number(curve.recovered.value), _where(curve.recovered.at).lower()
        yield f"The unlearned model reached at most {most}, {where}; without an attack it is at {number(start.value)}."
        if curve.rec is not None and curve.rec.value is not None:
            yield _rec(curve.rec.value)
        yield from filter(None, [doses.told(curve.points)])
        yield from _price(curve, curve.recovered)


def _area(measure: str, gap: Gap) -> str:
    spread = interval(gap.low, gap.high, sign=True)
    return (
        f"Over the whole curve, from no attack to the strongest, {measure} was on average {_above(gap)} the reference's"
        + (f" (95% interval {spread})." if spread else ".")
    )


def _rec(share: float) -> str:
    if share <= 0:
        return "Even at its highest it brought back nothing of what unlearning had taken."
    return (
        f"That is {share:.0%} of the way from the unlearned model back to the one before; the reference may rise too, "
        "so only what lies above it is a residue."
    )


def _price(curve: Curve, highest: Gap) -> Iterator[str]:
    """What the attacker had spent and put in by the highest point; nothing where neither was recorded."""
    line = [p for p in curve.points if p.role == "unlearned"]
    top = next((k for k, p in enumerate(line) if k and (p.value, p.budget) == (highest.value, highest.at)), None)
    if top is None:
        return
    spent = line[: top + 1]
    parts = [
        f"{duration(sum(seconds))} of {what}"
        for what, seconds in (
            ("computing", [p.seconds for p in spent if p.seconds is not None]),
            ("asking the model", [p.measuring_seconds for p in spent if p.measuring_seconds is not None]),
        )
        if seconds
    ]
    if parts := parts + list(_put_in(line[top])):
        yield f"Price of reaching it: {', '.join(parts)}."
    if line[top].this_try is not None:
        yield (
            "An attacker who keeps the best of all tries has this; the last try alone gave "
            f"{number(line[top].this_try)} on average."
        )


def _put_in(point: Point) -> Iterator[str]:
    put: Mapping[str, float | None] = point.supplied | {"bits": point.bits}
    for name, unit in PRICES.items():
        if value := put.get(name):
            yield f"{amount(value)} {unit}"


def _above(gap: Gap) -> str:
    side = "above" if gap.value is not None and gap.value >= 0 else "below"
    return f"{number(abs(gap.value or 0.0))} {side}"


def _gap(found: Finding | None) -> Gap | None:
    """The gap that a finding is about; None where its evidence is not made of numbers."""
    if found is None or not isinstance(found.evidence.get("value"), int | float):
        return None
    try:
        return Gap.model_validate({**found.evidence, "at": found.evidence.get("budget") or {}})
    except ValidationError:
        return None


def _excess(measure: str, gap: Gap, p: float | None) -> str:
    text = f"{_where(gap.at)}, {measure} was {_above(gap)} the reference's under the same attack"
    if not (spread := interval(gap.low, gap.high, sign=True)):
        return f"{text}, the largest gap along the curve."
    chance = "" if p is None else f"; p {f'= {p:.3f}' if p >= 0.001 else '< 0.001'} after correcting for every attack"
    return f"{text} (95% interval {spread}{chance})."


def _where(at: dict[str, float]) -> str:
    text = budget(at)
    return "Without an attack" if text == "no attack" else f"At {text}"


# -- charts ------------------------------------------------------------------------------------------------------
def _plot(run: LoadedRun, curve: Curve, *, small: bool) -> Plot:
    budgets = _budgets(curve)
    place, scaled = _places(budgets)
    series = []
    for role in sorted({p.role for p in curve.points}, key=lambda r: (ORDER.get(r, 9), r)):
        points = tuple((place[_key(p)], p.value, p.low, p.high) for p in curve.points if p.role == role)
        series.append(Series(role, role_title(role), tuple(sorted(points, key=lambda p: p[0]))))
    axis = words(curve.axis or next(iter(budgets[-1]), "budget")).lower()
    x = f"{axis} of the attack" + ("" if scaled else " (not to scale)")
    name, on = title(curve.metric), set_title(curve.rows).lower()
    return Plot(
        f"{name} on the {on}",
        f"{name} on the {on} as the attack grows, for "
        + ", ".join(s.title for s in series)
        + ". The numbers are in the table below.",
        x,
        name,
        tuple((place[_budget_key(b)], budget_tick(b)) for b in budgets),
        tuple(series),
        _level(run, curve),
        *((240, 470, 152) if small else ()),
    )


def _level(run: LoadedRun, curve: Curve) -> tuple[float, str] | None:
    """The target's own score, where the attack was not run on the target."""
    if any(p.role == "target" for p in curve.points) or run.scores is None:
        return None
    found = next(
        (s.value for s in run.scores.scores if (s.role, s.name, s.rows) == ("target", curve.metric, curve.rows)), None
    )
    return None if found is None else (found, "Before, no attack")


def budget_tick(at: dict[str, float]) -> str:
    """A label on the axis."""
    return "none" if not any(at.values()) else ", ".join(amount(v) for v in at.values() if v)


def _budget_key(at: dict[str, float]) -> tuple:
    return tuple(sorted((k, v) for k, v in at.items() if v))


def _key(point: Point) -> tuple:
    return _budget_key(point.budget)


def _budgets(curve: Curve) -> list[dict[str, float]]:
    """Budgets in the order they were run, the same one once."""
    return list({_key(p): p.budget for p in curve.points}.values())


def _places(budgets: Sequence[dict[str, float]]) -> tuple[dict[tuple, float], bool]:
    """Places on the x axis: to scale where one rising number leaves room for every tick, else evenly spaced."""
    values = [sum(b.values()) for b in budgets]
    rising = len({k for b in budgets for k in b}) == 1 and all(a < b for a, b in zip(values, values[1:], strict=False))
    gaps = [b - a for a, b in zip(values, values[1:], strict=False)]
    scaled = rising and min(gaps) >= 0.05 * (values[-1] - values[0])
    places = values if scaled else [float(i) for i in range(len(budgets))]
    return {_budget_key(b): place for b, place in zip(budgets, places, strict=True)}, scaled


# -- table ---------------------------------------------------------------------------------------------------------
def _table(curve: Curve) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Budget, each role's value with interval, and what the attacker put in."""
    roles = sorted({p.role for p in curve.points}, key=lambda r: (ORDER.get(r, 9), r))
    supplied = any(p.supplied for p in curve.points)
    rows = []
    for at in _budgets(curve):
        here = {p.role: p for p in curve.points if _key(p) == _budget_key(at)}
        line = [budget(at), *(_cell(here.get(role)) for role in roles)]
        rows.append(tuple(line + ([_supplied(here.get("unlearned"))] if supplied else [])))
    return ("Attack", *(role_title(r) for r in roles), *(("Attacker put in",) if supplied else ())), tuple(rows)


def _cell(point: Point | None) -> str:
    if point is None or point.value is None:
        return "not measured"
    spread = interval(point.low, point.high)
    return f"{number(point.value)} ({spread})" if spread else number(point.value)


def _supplied(point: Point | None) -> str:
    put = point.supplied if point else {}
    return ", ".join(f"{words(k).lower()} {amount(v)}" for k, v in put.items()) or "nothing"
