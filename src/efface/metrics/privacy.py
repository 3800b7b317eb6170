"""Membership inference: do the forget rows still look like training data beside rows that never were?

Every attack gives a familiarity per row, larger for more member-like text. The value is A = P(forget row looks more
familiar than a holdout row): 1 visible members, .5 indistinguishable, below .5 over-unlearned. Log-probs include the
end token.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.memorisation import CODE
from efface.metrics.power import detectable_from
from efface.metrics.stats import (
    Groups,
    auc,
    auc_draws,
    auc_interval,
    group,
    placements,
    tpr_at_fpr,
    tpr_interval,
    unit,
)

K = 0.4  # share of tokens of min-k in the TOFU and MUSE configurations
VARIANCE_FLOOR = 1e-6  # of min-k++, so that a uniform distribution stays finite
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
        extra=extra | _controls(tables, attack, controls) | _power(tables, attack, both),
        per_row=dict(zip(both.forget.rows, values.tolist(), strict=True)),
        entities=dict(zip(both.forget.rows, both.forget.entities, strict=True)),
    )


def _controls(tables: Tables, attack: Familiarity, roles: Sequence[str]) -> dict[str, Any]:
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
    size = None if draws is None else detectable_from(draws[0] - draws[1])
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


def smallest_mean(values: Sequence[np.ndarray], k: float) -> np.ndarray:
    """Float[rows]: mean of the max(1, floor(k n)) smallest of each row's n values; NaN for an empty row. k = 1: the
    mean."""
    return np.array(
        [np.sort(v)[: max(1, int(np.floor(k * v.size + 1e-9)))].mean() if v.size else np.nan for v in values]
    )


def standardised(lp: Sequence[np.ndarray], mu: Sequence[np.ndarray], sigma: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(lp - mu) / sigma per token, with the variance floored: min-k++'s z."""
    return [(a - b) / np.sqrt(np.maximum(c * c, VARIANCE_FLOOR)) for a, b, c in zip(lp, mu, sigma, strict=True)]


@membership(
    "mia_loss",
    "Loss attack",
    "Yeom et al. 2018 (arXiv 1709.01604)",
    "the mean log-prob of the answer.",
    fooled_by=("texts that are easy by themselves",),
)
def loss(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob."""
    tokens = tables.tokens(rows, role=role)
    return PerRow(tokens.mean_lp, tokens.rows, tokens.entities)


@membership(
    "mia_zlib",
    "Zlib attack",
    "Carlini et al. 2021 (arXiv 2012.07805)",
    "minus the mean negative log-prob divided by the answer's size in bytes after zlib.",
    fooled_by=("short answers: about 8 bytes of header dominate their size",),
)
def zlib_ratio(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob per compressed byte."""
    tokens = tables.tokens(rows, role=role)
    sizes = np.array([len(zlib.compress((text or "").encode())) for text in tokens.texts], dtype=np.float64)
    return PerRow(tokens.mean_lp / sizes, tokens.rows, tokens.entities)


LOWER = (Need("lowercase"), Need("lowercase", "holdout"))


@membership(
    "mia_lowercase",
    "Lower-case attack",
    "Carlini et al. 2021 (arXiv 2012.07805); column of MUSE (arXiv 2407.06460)",
    "minus the mean negative log-prob divided by that of the lower-cased answer.",
    needs=(*SIDES, *LOWER),
    fooled_by=("answers without capitals: the ratio is 1 whatever the model knows",),
)
def lower_case_ratio(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob over that of the lower-cased answer, turned so that larger is more familiar."""
    tokens = tables.tokens(rows, role=role)
    lower = tables.table(replace(LOWER[0], rows=rows, role=role))["mean_lp"].to_pylist()
    found = np.array([np.nan if lp is None else lp for lp in lower], dtype=np.float64)
    return PerRow(-tokens.mean_lp / found, tokens.rows, tokens.entities)


@membership(
    "mia_min_k",
    "Min-k attack, k = .4",
    "Shi et al. 2024 (arXiv 2310.16789)",
    "the mean of the lowest 40% token log-probs (at least one).",
    fooled_by=("answers shorter than three tokens: it is then the single least likely token",),
)
def min_k(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean of the lowest ``K`` share of log-probs."""
    tokens = tables.tokens(rows, role=role)
    return PerRow(smallest_mean(tokens.lp, K), tokens.rows, tokens.entities)


@membership(
    "mia_min_k_plus",
    "Min-k++ attack, k = .4",
    "Zhang et al. 2024 (arXiv 2404.02936)",
    "the mean of the lowest 40% of (lp - mu)/sigma, mu and sigma the mean and spread of log p under the "
    "model's own distribution.",
    fooled_by=("near-certain tokens: sigma meets its floor",),
)
def min_k_plus(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean of the lowest ``K`` share of standardised log-probs."""
    tokens = tables.tokens(rows, role=role)
    return PerRow(smallest_mean(standardised(tokens.lp, tokens.mu, tokens.sigma), K), tokens.rows, tokens.entities)


@membership(
    "mia_reference",
    "Reference attack",
    "Carlini et al. 2021 (arXiv 2012.07805)",
    "the mean log-prob minus that under the reference model.",
    needs=(*SIDES, Need("score", role="reference"), Need("score", "holdout", "reference")),
    controls=("base",),
)
def against_reference(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob of the role minus the reference's; .5 for the reference itself."""
    tokens = tables.tokens(rows, role=role)
    with np.errstate(invalid="ignore"):
        return PerRow(tokens.mean_lp - tables.tokens(rows, role="reference").mean_lp, tokens.rows, tokens.entities)


@membership(
    "mia_gradnorm",
    "Gradient norm attack",
    "Nasr et al. 2019 (arXiv 1812.00910); form of the common harness",
    "minus the mean over parameter tensors of the 2-norm of the gradient of the row's mean negative log-prob.",
    controls=(),
    needs=(Need("gradient"), Need("gradient", "holdout")),
)
def gradient_norm(tables: Tables, rows: str, role: str) -> PerRow:
    """Minus the gradient norm."""
    table = tables.gradients(rows, role)
    broken = table["problem"].to_pylist()
    norms = [
        -norm if norm is not None and not problem else np.nan
        for norm, problem in zip(table["norm"].to_pylist(), broken, strict=True)
    ]
    ids = table["row"].to_pylist()
    return PerRow(np.asarray(norms), ids, [e or row for e, row in zip(table["entity"].to_pylist(), ids, strict=True)])
