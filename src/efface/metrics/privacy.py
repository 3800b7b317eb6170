"""Membership inference: do the forget rows still look like training data beside rows that never were?

Every attack gives a familiarity per row, larger for more member-like text. The value is A = P(forget row looks more
familiar than a holdout row): 1 visible members, .5 indistinguishable, below .5 over-unlearned. Log-probs include the
end token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.memorisation import CODE
from efface.metrics.stats import (
    Groups,
    auc,
    auc_draws,
    auc_interval,
    fewest,
    group,
    placements,
    smallest_seen,
    tpr_at_fpr,
    tpr_interval,
    unit,
)

K = 0.4  # share of tokens of min-k in the TOFU and MUSE configurations
SHIFTED = 0.1  # a never-trained model this far from .5 shows that the two sets differ by themselves
SHIFT = "forget and holdout rows that differ by themselves: `auc_base` and `auc_reference` show how far"
SMALL = "few rows: 40 against 40 leave an interval of about .12 either way"
SIDES = (Need("score"), Need("score", "holdout"))

Familiarity = Callable[[Tables, str, str], PerRow]
ATTACKS: dict[str, Familiarity] = {}


@dataclass(frozen=True)
class Sides:
    """Familiarity Float[rows] of forget and holdout rows, NaN where unscored."""

    forget: PerRow
    holdout: PerRow

    def scored(self) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
        """Scored values of both sides and their entities."""
        out: list[Any] = []
        for side in (self.forget, self.holdout):
            ok = ~np.isnan(side.values)
            out.append((side.values[ok], [e for e, kept in zip(side.entities, ok, strict=True) if kept]))
        return out[0][0], out[1][0], out[0][1], out[1][1]

    @property
    def smaller(self) -> int:
        """Resampled groups of the side that has fewest."""
        _, _, mine, theirs = self.scored()
        return fewest(mine, theirs)


def sides(tables: Tables, attack: Familiarity, role: str = "subject") -> Sides:
    """Both sides under one attack: the set asked for and its holdout (``forget`` and ``holdout``, ``passages_forget``
    and ``passages_holdout``). ``NotComputed`` when one is missing or none of its rows could be scored."""
    members = tables.default_rows
    if "forget" not in members:
        raise NotComputed(f"membership compares forget rows with holdout rows, and {members} are neither")
    found = {name: attack(tables, name, role) for name in (members, members.replace("forget", "holdout"))}
    for name, side in found.items():
        if np.isnan(side.values).all():
            raise NotComputed(f"none of the {name} rows could be scored")
    return Sides(*found.values())


def separation(tables: Tables, attack: Familiarity, role: str = "subject") -> float:
    """A of one role."""
    forget, holdout, _, _ = sides(tables, attack, role).scored()
    return auc(forget, holdout)


def report(tables: Tables, attack: Familiarity, *, controls: Sequence[str]) -> Score:
    """A with its interval; ``extra``: TPR at 1% and 10% FPR with intervals, A of the control roles at hand, and the
    smallest difference to the reference's A that these rows would show (``detectable``).
    ``per_row``: the share of holdout rows each forget row looks more familiar than (mean: A)."""
    both = sides(tables, attack)
    forget, holdout, mine, theirs = both.scored()
    draws = {"seed": tables.seed, "resamples": tables.resamples}
    low, high = auc_interval(forget, holdout, mine, theirs, **draws)
    extra: dict[str, Any] = {"n_holdout": len(holdout), "interval_over": unit(mine, theirs)}
    for name, rate in (("1", 0.01), ("10", 0.1)):
        bounds = tpr_interval(forget, holdout, mine, theirs, rate, **draws)
        extra |= {
            f"tpr_at_{name}": tpr_at_fpr(forget, holdout, rate),
            f"tpr_at_{name}_low": bounds[0],
            f"tpr_at_{name}_high": bounds[1],
        }
    values = np.full(len(both.forget.values), np.nan)
    ok = ~np.isnan(both.forget.values)
    values[ok] = placements(forget, holdout)
    return Score(
        "",
        "",
        auc(forget, holdout),
        low,
        high,
        len(forget),
        int((~ok).sum()),
        extra=extra | controls_of(tables, attack, controls) | _power(tables, attack, both),
        per_row=dict(zip(both.forget.rows, values.tolist(), strict=True)),
        entities=dict(zip(both.forget.rows, both.forget.entities, strict=True)),
    )


def controls_of(tables: Tables, attack: Familiarity, roles: Sequence[str]) -> dict[str, Any]:
    """A of models that never saw the forget set, where they are at hand; ``shifted``: the never-trained base separates
    the two sets by more than ``SHIFTED``, so membership cannot be read off them."""
    extra: dict[str, Any] = {}
    for role in roles:
        try:
            extra[f"auc_{role}"] = separation(tables, attack, role)
        except NotComputed:
            continue
    if "auc_base" in extra:
        extra["shifted"] = bool(abs(extra["auc_base"] - 0.5) > SHIFTED)
    return extra


def _power(tables: Tables, attack: Familiarity, mine: Sides) -> dict[str, Any]:
    """{"detectable": ...} from paired bootstrap draws of A - A_reference; nothing without a reference or spread."""
    try:
        theirs = sides(tables, attack, "reference")
    except NotComputed:
        return {}
    draws = difference_draws(tables, mine, theirs)
    size = None if draws is None else smallest_seen(draws[0] - draws[1], common(mine, theirs).smaller)
    return {} if size is None else {"detectable": size}


def difference_draws(tables: Tables, mine: Sides, theirs: Sides) -> tuple[np.ndarray, np.ndarray] | None:
    """Bootstrap draws of A under two roles, over the rows scored under both and resampled together; None where a side
    has no such row."""
    found = both_scored(mine, theirs)
    if found is None:
        return None
    (pair, other), groups = found
    options = {"seed": tables.seed, "resamples": tables.resamples}
    return auc_draws(*pair, *groups, **options), auc_draws(*other, *groups, **options)


def common(mine: Sides, theirs: Sides) -> Sides:
    """``mine`` with the rows that are scored under both roles only."""
    pairs = ((mine.forget, theirs.forget), (mine.holdout, theirs.holdout))
    return Sides(*(replace(a, values=np.where(np.isnan(b.values), np.nan, a.values)) for a, b in pairs))


def both_scored(mine: Sides, theirs: Sides) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[Groups]] | None:
    """((forget, holdout) familiarity of each role over rows scored under both, groups of forget and holdout rows)."""
    kept = [~np.isnan(getattr(mine, s).values) & ~np.isnan(getattr(theirs, s).values) for s in ("forget", "holdout")]
    if not all(k.any() for k in kept):
        return None
    groups = [
        group([e for e, ok in zip(getattr(mine, s).entities, k, strict=True) if ok])
        for s, k in zip(("forget", "holdout"), kept, strict=True)
    ]
    return [(both.forget.values[kept[0]], both.holdout.values[kept[1]]) for both in (mine, theirs)], groups


def membership(
    name: str,
    title: str,
    source: str,
    summary: str,
    *,
    fooled_by: Sequence[str] = (),
    needs: Sequence[Need] = SIDES,
    controls: Sequence[str] = ("reference", "base"),
) -> Callable[[Familiarity], Familiarity]:
    """Register a familiarity function as the metric ``name``."""

    def add(attack: Familiarity) -> Familiarity:
        ATTACKS[name] = attack
        card = Card(
            title, source, CODE, f"AUC forget against holdout of {summary}", fooled_by=(SHIFT, SMALL, *fooled_by)
        )
        metric(name, needs=needs, card=card, directions={"*": "match"}, fixed_rows="forget")(
            lambda tables: report(tables, attack, controls=controls)
        )
        return attack

    return add
