"""Privacy leakage: membership of the forget set beside what a model that never saw it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, Score, Tables, metric
from efface.metrics.generation import MUSE
from efface.metrics.membership import min_k
from efface.metrics.memorisation import CODE
from efface.metrics.privacy import (
    ATTACKS,
    SHIFT,
    SIDES,
    Familiarity,
    Sides,
    both_scored,
    common,
    controls_of,
    difference_draws,
    sides,
)
from efface.metrics.stats import auc, auc_draws, group, percentile, smallest_seen, unit

PAIRED = (*SIDES, Need("score", role="reference"), Need("score", "holdout", "reference"))
WORST_OF = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus", "mia_reference")


def privacy_leak(a: float, a_reference: float) -> float:
    """PrivLeak in percent from conventional AUCs (1: visible members): ((1 - a) - (1 - a_R)) / (1 - a_R) * 100.

    -100: members in full view, 0: like the reference, positive: less familiar than unseen text. Infinite at a_R = 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a_reference - a) / (np.float64(1.0) - a_reference) * 100


def paired(tables: Tables, attack: Familiarity) -> tuple[float, float, np.ndarray, np.ndarray, Sides]:
    """A of the subject and of the reference over rows scored under both, and their bootstrap draws, paired."""
    mine, theirs = sides(tables, attack), sides(tables, attack, "reference")
    found, draws = both_scored(mine, theirs), difference_draws(tables, mine, theirs)
    if found is None or draws is None:
        raise NotComputed("no row of one side was scored under both the model and the reference")
    pairs, _ = found
    return auc(*pairs[0]), auc(*pairs[1]), draws[0], draws[1], common(mine, theirs)


@metric(
    "privleak",
    needs=PAIRED,
    directions={"*": "match"},
    orientation="none",
    fixed_rows="forget",
    card=Card(
        "PrivLeak (MUSE C3)",
        MUSE,
        f"jaechan-repo/muse_bench; {CODE}",
        "((1-A) - (1-A_R)) / (1-A_R) * 100 with A, A_R the min-k (k = .4) AUC of the model and of the reference, "
        "conventional orientation. -100: members in full view; 0: as the reference; above 0: forget rows look less "
        "familiar than unseen text. `rel_diff` is (A - A_R)/A_R * 100, `difference` A - A_R.",
        differs=(
            "no reference: not computed (the common harness assumes A_R = .5: privleak_half, privleak_compat)",
            "the end token is kept in min-k",
        ),
        fooled_by=("A_R far from .5: the division blows up, read `difference`", SHIFT),
    ),
)
def privleak(tables: Tables) -> Score:
    """PrivLeak against the reference, target 0."""
    a, b, draws_a, draws_b, both = paired(tables, min_k)
    if b >= 1.0:
        raise NotComputed(
            "the reference separates forget from holdout rows perfectly (AUC 1), so PrivLeak divides by "
            "zero; the sets differ by themselves"
        )
    extra = {"auc": a, "auc_reference": b, "difference": a - b, "rel_diff": (a - b) / b * 100 if b > 0 else None}
    if (size := smallest_seen(draws_a - draws_b, both.smaller)) is not None:
        extra["detectable_difference"] = size
    extra |= controls_of(tables, min_k, ("base",))
    return _score(float(privacy_leak(a, b)), privacy_leak(draws_a, draws_b), both, extra)


@metric(
    "privleak_half",
    needs=SIDES,
    directions={"*": "match"},
    orientation="none",
    fixed_rows="forget",
    card=Card(
        "PrivLeak against an assumed AUC of one half",
        MUSE,
        CODE,
        "(.5 - A) / .5 * 100: PrivLeak as if a model that never saw the forget set could not tell it from the holdout "
        "set. For use without a reference.",
        fooled_by=("the assumption: a clean model need not sit at .5", SHIFT),
    ),
)
def privleak_half(tables: Tables) -> Score:
    """PrivLeak with A_R = .5 assumed, target 0."""
    both = sides(tables, min_k)
    forget, holdout, mine, theirs = both.scored()
    draws = auc_draws(forget, holdout, group(mine), group(theirs), seed=tables.seed, resamples=tables.resamples)
    a = auc(forget, holdout)
    return _score(
        float(privacy_leak(a, 0.5)),
        privacy_leak(draws, np.float64(0.5)),
        both,
        {"auc": a, "assumed_reference_auc": 0.5, **controls_of(tables, min_k, ("base",))},
    )


@metric(
    "mia_worst",
    needs=PAIRED,
    directions={"*": "lower"},
    orientation="none",
    fixed_rows="forget",
    card=Card(
        "Worst membership gap",
        "derived",
        "",
        "max_i |A_i - A_R,i| over the loss, zlib, min-k, min-k++ and reference attacks (`gaps` has each): how far the "
        "most telling attack is from what it says of the reference. `mia_worst_six` adds the gradient norm.",
        derived=("the maximum over attacks, taken with the reference's AUC subtracted",),
        fooled_by=("a maximum of noisy gaps is biased upwards on few rows: compare with a reference of another seed",),
    ),
)
def mia_worst(tables: Tables) -> Score:
    """Largest distance of an attack's AUC from the reference's; ``extra`` names the attack and gives every gap."""
    return _worst(tables, WORST_OF)


@metric(
    "mia_worst_six",
    needs=(*PAIRED, *(replace(need, kind="gradient") for need in PAIRED)),
    directions={"*": "lower"},
    orientation="none",
    fixed_rows="forget",
    card=Card(
        "Worst membership gap, six attacks",
        "derived",
        "",
        "As mia_worst, over the gradient norm too: one backward per row and model.",
        derived=("the maximum over attacks, taken with the reference's AUC subtracted",),
        fooled_by=("as mia_worst",),
    ),
)
def mia_worst_six(tables: Tables) -> Score:
    """``mia_worst`` over all six attacks."""
    return _worst(tables, (*WORST_OF, "mia_gradnorm"))


def _worst(tables: Tables, attacks: Sequence[str]) -> Score:
    gaps, draws, both = {}, [], None
    for name in attacks:
        a, b, draws_a, draws_b, both = paired(tables, ATTACKS[name])
        gaps[name] = a - b
        draws.append(np.abs(draws_a - draws_b))
    assert both is not None
    worst = max(gaps, key=lambda name: abs(gaps[name]))
    return _score(abs(gaps[worst]), np.max(draws, axis=0), both, {"attack": worst, "gaps": gaps})


def _score(value: float, draws: np.ndarray, both: Sides, extra: dict[str, Any]) -> Score:
    forget, holdout, mine, theirs = both.scored()
    low, high = percentile(draws, both.smaller) if min(len(forget), len(holdout)) > 1 else (None, None)
    return Score(
        "",
        "",
        value,
        low,
        high,
        len(forget),
        len(both.forget.values) - len(forget),
        target=0.0,
        extra={**extra, "n_holdout": len(holdout), "interval_over": unit(mine, theirs)},
    )
