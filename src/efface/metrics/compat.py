"""The common harness's own forms of its metrics, quirks included, for comparison with published tables. Never a
default.

They reproduce locuslab/open-unlearning (snapshot d3d7cf9): added 1e-10 in ratios, the end token dropped from min-k, 1/n
where nothing can be extracted, an assumed reference AUC of .5. Rows that it turned into NaN (empty answers) are
unscored here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.hidden_states import shared_layers, states
from efface.metrics.knowledge import CHOICES, RATIO, correct_lp, wrong_lp
from efface.metrics.memorisation import ANSWER, CODE, per_row, strength
from efface.metrics.privacy import SIDES, Familiarity, K, report, separation, smallest_mean, standardised
from efface.metrics.representation import BATCH, MIRAGE, linear_cka_biased
from efface.metrics.utility import RATIO_NEEDS, UTILITY_NEEDS, part_means, utility_parts

TINY = 1e-10
REPORT = "arXiv 2506.12618"


def card(title: str, summary: str, quirk: str) -> Card:
    """Card of a compatibility form."""
    return Card(f"{title} (common harness)", REPORT, CODE, summary, differs=(f"reproduced on purpose: {quirk}",),
                fooled_by=("the quirk above",))


@metric("extraction_strength_compat", needs=[ANSWER], card=card(
    "Extraction strength", "1 - k/n as the harness prints it.",
    "1/n instead of 0 where the last token misses; 0 for an empty answer"))
def extraction_strength_compat(tables: Tables) -> PerRow:
    """ES with the harness's floor of 1/n."""
    tokens = tables.tokens()
    return per_row(tokens, [max(strength(hits), 1 / hits.size) if hits.size else 0.0
                            for hits in tokens.body(tokens.hit)])


def _ratio(tables: Tables, rows: str = "*", role: str = "subject") -> PerRow:
    """r = exp(mean log P(wrong)) / (P(correct) + 1e-10)."""
    tokens = tables.tokens(rows, role=role)
    correct, _ = correct_lp(tables, rows, role)
    wrong = np.array([lps.mean() if lps.size else np.nan for lps in wrong_lp(tables, rows, role)])
    return per_row(tokens, np.exp(wrong) / (np.exp(correct) + TINY))


@metric("truth_ratio_tofu_compat", needs=RATIO, directions={"*": "match"}, orientation="none", card=card(
    "Truth ratio, closer to 1 is better", "Mean of min(r, 1/(r + 1e-10)), r = P(wrong) / (P(correct) + 1e-10).",
    "1e-10 in both ratios"))
def truth_ratio_tofu_compat(tables: Tables) -> PerRow:
    """min(r, 1/(r + 1e-10)) per row."""
    ratio = _ratio(tables)
    return replace(ratio, values=np.minimum(ratio.values, 1 / (ratio.values + TINY)))


@metric("truth_ratio_true_better_compat", needs=RATIO, card=card(
    "Truth ratio, true is better", "Mean of max(0, 1 - r), r = P(wrong) / (P(correct) + 1e-10).",
    "1e-10 in the ratio"))
def truth_ratio_true_better_compat(tables: Tables, rows: str = "*") -> PerRow:
    """max(0, 1 - r) per row."""
    ratio = _ratio(tables, rows)
    return replace(ratio, values=np.maximum(0.0, 1 - ratio.values))


@metric("options_probability_compat", needs=CHOICES, card=card(
    "Options probability", "P(answer) / (P(answer) + sum P(wrong) + 1e-10).", "1e-10 in the denominator"))
def options_probability_compat(tables: Tables, rows: str = "*") -> PerRow:
    """Options probability with the added constant."""
    tokens = tables.tokens(rows)
    own, wrong = np.exp(tokens.mean_lp), wrong_lp(tables, rows)
    return per_row(tokens, [p / (p + np.exp(lps).sum() + TINY) if lps.size else np.nan
                            for p, lps in zip(own, wrong, strict=True)])


@metric("forget_quality_compat", needs=RATIO_NEEDS, directions={"*": "higher"}, orientation="none",
        fixed_rows="forget", card=card(
    "Forget quality", "p-value of scipy's two-sample KS test on r.", "r with 1e-10; the p-value underflows to 0"))
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


@metric("model_utility_compat", needs=UTILITY_NEEDS, directions={"*": "higher"}, fixed_rows="retain", card=card(
    "Model utility", "scipy's harmonic mean of the nine parts in the harness's forms.", "1e-10 in ratios"))
def model_utility_compat(tables: Tables) -> Score:
    """Harmonic mean of the harness's nine parts."""
    from scipy.stats import hmean

    parts = utility_parts(tables, options_probability_compat, truth_ratio_true_better_compat)
    means = part_means(parts)
    return Score("", "", float(hmean(list(means.values()))),
                 n=sum(len(p.values) for n, p in parts.items() if n.endswith("rouge")), extra={"parts": means})


def _min_k(tables: Tables, rows: str, role: str, *, plus: bool) -> PerRow:
    tokens = tables.tokens(rows, role=role)
    lp = tokens.body(tokens.lp)
    values = standardised(lp, tokens.body(tokens.mu), tokens.body(tokens.sigma)) if plus else lp
    broken = np.array([bool(problem) for problem in tokens.problems])
    scores = np.where(broken, np.nan, np.nan_to_num(smallest_mean(values, K), nan=0.0))
    return PerRow(scores, tokens.rows, tokens.entities)


def min_k_compat(tables: Tables, rows: str, role: str) -> PerRow:
    """Min-k without the end token; 0 for an empty answer."""
    return _min_k(tables, rows, role, plus=False)


def min_k_plus_compat(tables: Tables, rows: str, role: str) -> PerRow:
    """Min-k++ without the end token; 0 for an empty answer."""
    return _min_k(tables, rows, role, plus=True)


def _register(name: str, attack: Familiarity, title: str) -> None:
    metric(name, needs=SIDES, directions={"*": "match"}, fixed_rows="forget", card=card(
        title, "AUC forget against holdout.", "the end token is dropped and an empty answer scores 0"))(
            lambda tables: report(tables, attack, controls=("reference", "base")))


_register("mia_min_k_compat", min_k_compat, "Min-k attack, k = .4")
_register("mia_min_k_plus_compat", min_k_plus_compat, "Min-k++ attack, k = .4")


def _against(tables: Tables, *, flip: bool) -> Score:
    a = separation(tables, min_k_compat)
    try:
        b, assumed = separation(tables, min_k_compat, "reference"), False
    except NotComputed:
        b, assumed = 0.5, True
    x, y = (1 - a, 1 - b) if flip else (a, b)
    return Score("", "", (x - y) / (y + TINY) * 100, target=0.0,
                 extra={"auc": a, "auc_reference": b, "reference_assumed": assumed})


@metric("privleak_compat", needs=SIDES, directions={"*": "match"}, orientation="none", fixed_rows="forget", card=card(
    "PrivLeak", "((1-A) - (1-A_R)) / (1-A_R + 1e-10) * 100.",
    "A_R = .5 without a reference (`reference_assumed`); min-k without the end token"))
def privleak_compat(tables: Tables) -> Score:
    """PrivLeak as the harness prints it."""
    return _against(tables, flip=True)


@metric("rel_diff_compat", needs=SIDES, directions={"*": "match"}, orientation="none", fixed_rows="forget", card=card(
    "Relative AUC difference", "(A - A_R) / (A_R + 1e-10) * 100.",
    "A_R = .5 without a reference (`reference_assumed`)"))
def rel_diff_compat(tables: Tables) -> Score:
    """Relative difference of AUCs as the harness prints it."""
    return _against(tables, flip=False)


@metric("cka_reference_compat", needs=(Need("hidden"), Need("hidden", role="reference")), directions={"*": "higher"},
        orientation="none", card=Card(
    "CKA to the reference (released code)", MIRAGE, "yongwookim1/UUEF",
    "Biased linear CKA of the last layer, averaged over batches of 512 rows.",
    differs=("reproduced on purpose: biased upwards unless rows far outnumber features",),
    fooled_by=("independent features read .53 at width 576",)))
def cka_reference_compat(tables: Tables) -> Score:
    """Batch-averaged biased CKA of the last layer."""
    found = states(tables, shared_layers(tables, "subject", "reference")[-1], "subject", "reference")
    starts = range(0, len(found.rows), BATCH)
    values = [linear_cka_biased(*(x[s:s + BATCH] for x in found.vectors)) for s in starts]
    if np.isnan(values).any():
        raise NotComputed("the hidden states of one model are the same for every row of a batch")
    return Score("", "", float(np.mean(values)), n=len(found.rows))
