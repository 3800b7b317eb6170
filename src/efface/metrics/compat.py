"""The common harness's own forms of its metrics, quirks included, for comparison with published tables. Never a
default.

They reproduce locuslab/open-unlearning (read at d3d7cf9): 1e-10 added in ratios, the last label dropped whether or not
it is an end token, 1/n where nothing can be extracted, stemmed ROUGE throughout. An empty answer has an extraction
strength of 0, as there; where it became NaN there (probabilities, ratios) or was left out (exact memorisation), it is
unscored here. ``compat_privacy`` has the membership metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from efface.card import Card
from efface.metrics.base import NotComputed, PerRow, Score, Tables, metric
from efface.metrics.generation import GENERATED, STOPS, rouge_l, score_generations
from efface.metrics.knowledge import CHOICES, RATIO, correct_lp, wrong_lp
from efface.metrics.memorisation import ANSWER, CODE, per_row, strength
from efface.metrics.utility import RATIO_NEEDS, UTILITY_NEEDS, part_means, utility_parts
from efface.passes.tables import Tokens

TINY = 1e-10
EMPTY = "empty answer"  # problem of a row without an answer, to which the harness gives 0 in some metrics
REPORT = "arXiv 2506.12618"


def card(title: str, summary: str, quirk: str) -> Card:
    """Card of a compatibility form."""
    return Card(
        f"{title} (common harness)",
        REPORT,
        CODE,
        summary,
        differs=(f"reproduced on purpose: {quirk}",),
        fooled_by=("the quirk above",),
    )


def without_last(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each row's values without its last one, end token or not."""
    return [v[:-1] for v in values]


def lost(tokens: Tokens) -> np.ndarray:
    """Bool[rows]: rows that could not be scored, other than for an empty answer."""
    return np.array([problem not in ("", EMPTY) for problem in tokens.problems])


@metric(
    "extraction_strength_compat",
    needs=[ANSWER],
    version=2,
    card=card(
        "Extraction strength",
        "1 - k/n as the harness prints it.",
        "1/n instead of 0 where the last token misses; 0 for an empty answer; the last label is always dropped",
    ),
)
def extraction_strength_compat(tables: Tables) -> PerRow:
    """ES with the harness's floor of 1/n; 0 for an empty answer."""
    tokens = tables.tokens()
    values = [max(strength(hits), 1 / hits.size) if hits.size else 0.0 for hits in without_last(tokens.hit)]
    return per_row(tokens, np.where(lost(tokens), np.nan, values))


@metric(
    "exact_memorisation_compat",
    needs=[ANSWER],
    card=card("Exact memorisation", "Share of argmax hits.", "the last label is always dropped"),
)
def exact_memorisation_compat(tables: Tables) -> PerRow:
    """EM without the last label."""
    tokens = tables.tokens()
    return per_row(tokens, [hits.mean() if hits.size else np.nan for hits in without_last(tokens.hit)])


@metric(
    "knowmem_compat",
    needs=[GENERATED],
    card=card(
        "Knowledge memorisation",
        "ROUGE-L F1 of the answer cut at the next question.",
        "words are stemmed; MUSE does not",
    ),
)
def knowmem_compat(tables: Tables) -> PerRow:
    """MUSE's answer score with stemmed words."""
    score = rouge_l(part="fmeasure", stemmer=True)
    return score_generations(tables, lambda gold, text: score(gold, STOPS.split(text, maxsplit=1)[0]))


@metric(
    "verbmem_compat",
    needs=[GENERATED],
    card=card("Verbatim memorisation", "ROUGE-L F1 of the continuation.", "words are stemmed; MUSE does not"),
)
def verbmem_compat(tables: Tables) -> PerRow:
    """MUSE's continuation score with stemmed words."""
    return score_generations(tables, rouge_l(part="fmeasure", stemmer=True))


def _ratio(tables: Tables, rows: str = "*", role: str = "subject") -> PerRow:
    """r = exp(mean log P(wrong)) / (P(correct) + 1e-10)."""
    tokens = tables.tokens(rows, role=role)
    correct, _ = correct_lp(tables, rows, role)
    wrong = np.array([lps.mean() if lps.size else np.nan for lps in wrong_lp(tables, rows, role)])
    return per_row(tokens, np.exp(wrong) / (np.exp(correct) + TINY))


@metric(
    "truth_ratio_compat",
    needs=RATIO,
    card=card(
        "Truth ratio, prob_mean", "Mean of P(correct) / (P(correct) + P(wrong) + 1e-10).", "1e-10 in the denominator"
    ),
)
def truth_ratio_compat(tables: Tables) -> PerRow:
    """Extent of knowledge with the added constant."""
    tokens, (correct, _) = tables.tokens(), correct_lp(tables)
    wrong = np.array([lps.mean() if lps.size else np.nan for lps in wrong_lp(tables)])
    return per_row(tokens, np.exp(correct) / (np.exp(correct) + np.exp(wrong) + TINY))


@metric(
    "truth_ratio_tofu_compat",
    needs=RATIO,
    directions={"*": "match"},
    orientation="none",
    card=card(
        "Truth ratio, closer to 1 is better",
        "Mean of min(r, 1/(r + 1e-10)), r = P(wrong) / (P(correct) + 1e-10).",
        "1e-10 in both ratios",
    ),
)
def truth_ratio_tofu_compat(tables: Tables) -> PerRow:
    """min(r, 1/(r + 1e-10)) per row."""
    ratio = _ratio(tables)
    return replace(ratio, values=np.minimum(ratio.values, 1 / (ratio.values + TINY)))


@metric(
    "truth_ratio_true_better_compat",
    needs=RATIO,
    card=card(
        "Truth ratio, true is better",
        "Mean of max(0, 1 - r), r = P(wrong) / (P(correct) + 1e-10).",
        "1e-10 in the ratio",
    ),
)
def truth_ratio_true_better_compat(tables: Tables, rows: str = "*") -> PerRow:
    """max(0, 1 - r) per row."""
    ratio = _ratio(tables, rows)
    return replace(ratio, values=np.maximum(0.0, 1 - ratio.values))


@metric(
    "options_probability_compat",
    needs=CHOICES,
    card=card("Options probability", "P(answer) / (P(answer) + sum P(wrong) + 1e-10).", "1e-10 in the denominator"),
)
def options_probability_compat(tables: Tables, rows: str = "*") -> PerRow:
    """Options probability with the added constant."""
    tokens = tables.tokens(rows)
    own, wrong = np.exp(tokens.mean_lp), wrong_lp(tables, rows)
    return per_row(
        tokens, [p / (p + np.exp(lps).sum() + TINY) if lps.size else np.nan for p, lps in zip(own, wrong, strict=True)]
    )


@metric(
    "forget_quality_compat",
    needs=RATIO_NEEDS,
    directions={"*": "higher"},
    orientation="none",
    fixed_rows="forget",
    card=card(
        "Forget quality", "p-value of scipy's two-sample KS test on r.", "r with 1e-10; the p-value underflows to 0"
    ),
)
def forget_quality_compat(tables: Tables) -> Score:
    """scipy's p-value on the harness's truth ratios."""
    from scipy.stats import ks_2samp

    a, b = (_scored(_ratio(tables, "forget", role)) for role in ("subject", "reference"))
    return Score("", "", float(ks_2samp(a, b).pvalue), n=len(a), extra={"n_reference": len(b)})


def _scored(side: PerRow) -> np.ndarray:
    values = side.values[~np.isnan(side.values)]
    if not values.size:
        raise NotComputed("none of the forget rows has a truth ratio")
    return values


@metric(
    "model_utility_compat",
    needs=UTILITY_NEEDS,
    directions={"*": "higher"},
    fixed_rows="retain",
    card=card("Model utility", "scipy's harmonic mean of the nine parts in the harness's forms.", "1e-10 in ratios"),
)
def model_utility_compat(tables: Tables) -> Score:
    """Harmonic mean of the harness's nine parts."""
    from scipy.stats import hmean

    parts = utility_parts(tables, options_probability_compat, truth_ratio_true_better_compat)
    means = part_means(parts)
    return Score(
        "",
        "",
        float(hmean(list(means.values()))),
        n=sum(len(p.values) for n, p in parts.items() if n.endswith("rouge")),
        extra={"parts": means},
    )
