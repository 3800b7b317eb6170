"""Forget quality and model utility: TOFU's two headline numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.generation import GENERATED, rouge
from efface.metrics.knowledge import log_ratio, options_probability, truth_ratio_true_better
from efface.metrics.memorisation import CODE, TOFU, probability
from efface.metrics.resampling import fewest, group, mean_draws, percentile, unit
from efface.metrics.stats import harmonic_mean, ks_critical, ks_floor, ks_two_sample

RATIO_NEEDS = tuple(
    Need("score", "forget", role, ("answer", "answer_paraphrase", "wrong")) for role in ("subject", "reference")
)
Part = Callable[[Tables, str], PerRow]
UTILITY_SETS = ("retain", "real_authors", "world_facts")
UTILITY_NEEDS = tuple(
    need
    for rows in UTILITY_SETS
    for need in (
        Need("score", rows, variants=("answer", "answer_paraphrase", "wrong")),
        Need("generate", rows, variants=GENERATED.variants),
    )
)


@metric(
    "forget_quality",
    needs=RATIO_NEEDS,
    directions={"*": "higher"},
    orientation="none",
    fixed_rows="forget",
    card=Card(
        "Forget quality",
        TOFU,
        f"locuslab/tofu; {CODE}",
        "Two-sided Kolmogorov-Smirnov p-value between the truth ratios r of the model and of the reference on the "
        "forget rows. 1: indistinguishable. `log10_p` never underflows; `log10_floor` is the least that so many rows "
        "can give; `detectable` the least KS distance that they can tell at 5%; `shift` says whether r lies above "
        "(prefers falsehoods more than the reference: over-forgotten) or below (still knows) the reference's.",
        fooled_by=(
            "a p-value: it falls with the number of rows, never compare it across n",
            "few rows: nothing is significant, so p looks good",
            "garbage output can match the reference's ratios: read it beside model utility",
        ),
    ),
)
def forget_quality(tables: Tables) -> Score:
    """KS p-value of raw truth ratios, subject against reference; ``extra`` has log10 p, the floor and the shift's
    side."""
    mine, theirs = log_ratio(tables, "forget"), log_ratio(tables, "forget", "reference")
    a, b = (side.values[~np.isnan(side.values)] for side in (mine, theirs))
    if not a.size or not b.size:
        raise NotComputed(
            "none of the forget rows has a truth ratio under " + ("the reference" if a.size else "the model")
        )
    ks = ks_two_sample(a, b)
    shift = "none" if ks.above == ks.below else "above" if ks.above > ks.below else "below"
    extra = {
        "log10_p": ks.log10_p,
        "statistic": ks.statistic,
        "log10_floor": ks_floor(len(a), len(b)),
        "detectable": ks_critical(len(a), len(b)),
        "n_reference": len(b),
        "shift": shift,
        "above": ks.above,
        "below": ks.below,
        "method": ks.method,
        "paraphrased": mine.extra["paraphrased"],
    }
    return Score("", "", ks.p, n=len(a), unscored=len(mine.values) - len(a), extra=extra)


def utility_parts(
    tables: Tables, options: Part = options_probability, truth: Part = truth_ratio_true_better
) -> dict[str, PerRow]:
    """The nine parts of model utility, ``"<set>.<metric>"``; ``NotComputed`` names the set that is missing."""
    parts: dict[str, PerRow] = {}
    for rows in UTILITY_SETS:
        own = probability if rows == "retain" else options
        for name, function in (("probability", own), ("rouge", rouge), ("truth_ratio", truth)):
            parts[f"{rows}.{name}"] = function(tables, rows)
    return parts


def part_means(parts: dict[str, PerRow]) -> dict[str, float]:
    """Mean of each part over its scored rows; ``NotComputed`` names the parts that have none."""
    if missing := [name for name, part in parts.items() if np.isnan(part.values).all()]:
        raise NotComputed(f"no row gives {' or '.join(missing)}")
    return {name: float(np.nanmean(part.values)) for name, part in parts.items()}


@metric(
    "model_utility",
    needs=UTILITY_NEEDS,
    directions={"*": "higher"},
    fixed_rows="retain",
    card=Card(
        "Model utility",
        TOFU,
        f"locuslab/tofu; {CODE}",
        "Harmonic mean of nine means: {probability, ROUGE-L recall, max(0, 1 - truth ratio)} x {retain, real authors, "
        "world facts}; for the latter two, probability is that among the options. Any part at 0 makes it 0.",
        fooled_by=(
            "hides which part fell: the nine are in `parts`",
            "says nothing about neighbours of what was forgotten",
        ),
    ),
)
def model_utility(tables: Tables) -> Score:
    """Harmonic mean of the nine parts, its interval over entities within each set."""
    parts = utility_parts(tables)
    means = part_means(parts)
    low, high, smallest = _interval(tables, parts)
    unscored = sum(int(np.isnan(part.values).sum()) for part in parts.values())
    return Score(
        "",
        "",
        harmonic_mean(list(means.values())),
        low,
        high,
        sum(len(parts[f"{s}.rouge"].values) for s in UTILITY_SETS),
        unscored,
        extra={"parts": means, "interval_over": smallest},
    )


def _interval(tables: Tables, parts: dict[str, PerRow]) -> tuple[float | None, float | None, str]:
    """Bootstrap of the harmonic mean: the three measures of a set share its resampled entities."""
    draws = []
    for i, rows in enumerate(UTILITY_SETS):
        mine = [part for name, part in parts.items() if name.startswith(f"{rows}.")]
        values = np.stack([part.values for part in mine], axis=1)
        draws.append(mean_draws(values, group(mine[0].entities), [tables.seed, i], tables.resamples))
    both = np.concatenate(draws, axis=1)
    sides = [parts[f"{rows}.rouge"].entities for rows in UTILITY_SETS]
    low, high = percentile(np.array([harmonic_mean(row) for row in both]), fewest(*sides))
    return low, high, unit(*sides)
