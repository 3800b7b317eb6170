"""The common harness's own forms of its metrics, quirks included, for comparison with published tables. Never a
default.

They reproduce locuslab/open-unlearning (read at d3d7cf9): its labels and its attention mask (``passes.compat_score``),
1e-10 added in ratios, the last label dropped whether or not it is an end token, 1/n where nothing can be extracted,
stemmed ROUGE throughout. An answer without labels has an extraction strength of 0, as there; where it became NaN there
(probabilities, ratios) or was left out (exact memorisation), it is unscored here. What is not reproduced stands as a
difference on each Card. ``compat_privacy`` has the membership metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.generation import GENERATED, STOPS, rouge_l, score_generations
from efface.metrics.memorisation import ANSWER, CODE, per_row, strength
from efface.metrics.protocols import DIRECTIONS, continued, in_full, score_texts
from efface.metrics.utility import UTILITY_SETS, part_means
from efface.passes.tables import Tokens

TINY = 1e-10
EMPTY = "empty answer"  # problem of a row without a label, to which the harness gives 0 in some metrics
REPORT = "arXiv 2506.12618"
INPUTS = (
    "its labels (with an end token that is not its own, and what the chat template writes behind the answer) and its "
    "mask (a token that equals padding is hidden: with ChatML every end of turn)"
)
DIFFERS = (
    "no system prompt and no date but what the chat template writes by itself; the harness's model files may set both",
    "an answer without a single label, NaN there, is unscored",
    "precision: float32 log-probs of the run's own compute dtype",
)
GENERATED_DIFFERS = ("generated under the true mask; where padding equals the end of a turn, the harness hides those",)


def card(title: str, summary: str, quirk: str, *, inputs: bool = True, differs: Sequence[str] = ()) -> Card:
    """Card of a compatibility form. ``inputs``: it reads the harness's labels under the harness's mask."""
    reproduced = f"{quirk}; {INPUTS}" if inputs else quirk
    return Card(
        f"{title} (common harness)",
        REPORT,
        CODE,
        summary,
        differs=(f"reproduced on purpose: {reproduced}", *(DIFFERS if inputs else ()), *differs),
        fooled_by=("the quirk above",),
    )


def labels(rows: str = "*", role: str = "subject", variant: str = "answer") -> Need:
    """The need for log-probs of the harness's labels."""
    return Need("compat_score", rows, role, (variant,))


def harness_tokens(tables: Tables, rows: str = "*", role: str = "subject", variant: str = "answer") -> Tokens:
    """Log-probs and hits of the harness's labels, the last one included."""
    return Tokens(tables.table(labels(rows, role, variant)))


def harness_wrong(tables: Tables, rows: str = "*", role: str = "subject") -> dict[str, np.ndarray]:
    """{row: mean log-prob Float[candidates] of each wrong answer}; rows without one are left out."""
    tokens = harness_tokens(tables, rows, role, "wrong")
    found: dict[str, list[float]] = {}
    for row, mean in zip(tokens.rows, tokens.mean_lp, strict=True):
        found.setdefault(row, []).append(mean)
    if not found:
        raise NotComputed(f"the {tables.default_rows if rows == '*' else rows} rows carry no wrong")
    return {row: np.array(means) for row, means in found.items()}


def harness_correct(tables: Tables, rows: str = "*", role: str = "subject") -> tuple[Tokens, np.ndarray]:
    """(answers, mean log-prob Float[rows] of the correct option: the paraphrase, or the answer where there is none)."""
    answer, other = (harness_tokens(tables, rows, role, name) for name in ("answer", "answer_paraphrase"))
    lacking = np.array([problem.startswith("no ") for problem in other.problems], dtype=bool)
    return answer, np.where(lacking, answer.mean_lp, other.mean_lp)


def without_last(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each row's values without its last one, end token or not."""
    return [v[:-1] for v in values]


def lost(tokens: Tokens) -> np.ndarray:
    """Bool[rows]: rows that could not be scored, other than for having no label."""
    return np.array([problem not in ("", EMPTY) for problem in tokens.problems])


RATIO = tuple(labels(variant=name) for name in ("answer", "answer_paraphrase", "wrong"))
RATIO_NEEDS = tuple(replace(need, rows="forget", role=role) for role in ("subject", "reference") for need in RATIO)
UTILITY_NEEDS = tuple(
    need
    for rows in UTILITY_SETS
    for need in (*(replace(need, rows=rows) for need in RATIO), replace(GENERATED, rows=rows))
)


@metric(
    "probability_compat",
    needs=[labels()],
    card=card("Answer probability", "exp(mean log p) over every label, mean over rows.", "all labels count"),
)
def probability_compat(tables: Tables, rows: str = "*") -> PerRow:
    """exp of the mean log-prob of the harness's labels."""
    tokens = harness_tokens(tables, rows)
    return per_row(tokens, np.exp(tokens.mean_lp))


@metric(
    "probability_paraphrased_answer_compat",
    needs=[labels(variant="answer_paraphrase")],
    card=card("Probability of the paraphrased answer", "exp(mean log p) over every label.", "all labels count"),
)
def probability_paraphrased_answer_compat(tables: Tables) -> PerRow:
    """``probability_compat`` of ``answer_paraphrase``."""
    tokens = harness_tokens(tables, variant="answer_paraphrase")
    return per_row(tokens, np.exp(tokens.mean_lp))


@metric(
    "extraction_strength_compat",
    needs=[labels()],
    version=3,
    directions=DIRECTIONS,
    card=card(
        "Extraction strength",
        "1 - k/n as the harness prints it.",
        "1/n instead of 0 where the last token misses; 0 for an empty answer; the last label is always dropped",
    ),
)
def extraction_strength_compat(tables: Tables) -> PerRow:
    """ES with the harness's floor of 1/n; 0 for an empty answer."""
    tokens = harness_tokens(tables)
    values = [max(strength(hits), 1 / hits.size) if hits.size else 0.0 for hits in without_last(tokens.hit)]
    return per_row(tokens, np.where(lost(tokens), np.nan, values))


@metric(
    "exact_memorisation_compat",
    needs=[labels()],
    version=2,
    directions=DIRECTIONS,
    card=card("Exact memorisation", "Share of argmax hits.", "the last label is always dropped"),
)
def exact_memorisation_compat(tables: Tables) -> PerRow:
    """EM without the last label."""
    tokens = harness_tokens(tables)
    return per_row(tokens, [hits.mean() if hits.size else np.nan for hits in without_last(tokens.hit)])


SHORT, LONG = continued(32), continued(128)
NO_WORDS = "a gold text without a letter a-z or a digit scores 0"


def stemmed(part: str) -> Callable[[str, str], float]:
    """ROUGE-L ``part`` of (gold, text) with stemmed words; 0 where the gold text has no words."""
    score = rouge_l(part=part, stemmer=True)
    return lambda gold, text: float(np.nan_to_num(score(gold, text)))


@metric(
    "knowmem_compat",
    needs=[SHORT, ANSWER],
    version=2,
    directions=DIRECTIONS,
    card=card(
        "Knowledge memorisation",
        "ROUGE-L F1 of at most 32 greedy tokens, cut at the next question, against the whole answer.",
        f"words are stemmed (MUSE does not); {NO_WORDS}",
        inputs=False,
        differs=GENERATED_DIFFERS,
    ),
)
def knowmem_compat(tables: Tables) -> PerRow:
    """MUSE's answer score with stemmed words."""
    score = stemmed("fmeasure")
    return score_texts(tables, SHORT, lambda gold, text: score(gold, STOPS.split(text, maxsplit=1)[0]), in_full(tables))


@metric(
    "verbmem_compat",
    needs=[LONG, ANSWER],
    version=2,
    directions=DIRECTIONS,
    card=card(
        "Verbatim memorisation",
        "ROUGE-L F1 of 128 greedy tokens against the whole continuation.",
        f"words are stemmed, and the gold text is not cut to 128 tokens (MUSE does the opposite); {NO_WORDS}",
        inputs=False,
        differs=GENERATED_DIFFERS,
    ),
)
def verbmem_compat(tables: Tables) -> PerRow:
    """MUSE's continuation score with stemmed words."""
    return score_texts(tables, LONG, stemmed("fmeasure"), in_full(tables))


@metric(
    "rouge_compat",
    needs=[GENERATED],
    card=card(
        "ROUGE-L recall",
        "ROUGE-L recall, stemmed, of the greedy answer; mean over rows.",
        NO_WORDS,
        inputs=False,
        differs=GENERATED_DIFFERS,
    ),
)
def rouge_compat(tables: Tables, rows: str = "*") -> PerRow:
    """Recall of the longest common subsequence."""
    return score_generations(tables, stemmed("recall"), rows)


def _both(tables: Tables, rows: str = "*", role: str = "subject") -> tuple[Tokens, np.ndarray, np.ndarray]:
    """(answers, P(correct) Float[rows], P(wrong) Float[rows], the geometric mean over wrong answers)."""
    tokens, correct = harness_correct(tables, rows, role)
    wrong = harness_wrong(tables, rows, role)
    means = [wrong[row].mean() if row in wrong else np.nan for row in tokens.rows]
    return tokens, np.exp(correct), np.exp(np.array(means))


def _ratio(tables: Tables, rows: str = "*", role: str = "subject") -> PerRow:
    """r = exp(mean log P(wrong)) / (P(correct) + 1e-10)."""
    tokens, correct, wrong = _both(tables, rows, role)
    return per_row(tokens, wrong / (correct + TINY))


@metric(
    "truth_ratio_compat",
    needs=RATIO,
    version=2,
    card=card(
        "Truth ratio, prob_mean", "Mean of P(correct) / (P(correct) + P(wrong) + 1e-10).", "1e-10 in the denominator"
    ),
)
def truth_ratio_compat(tables: Tables) -> PerRow:
    """Extent of knowledge with the added constant."""
    tokens, correct, wrong = _both(tables)
    return per_row(tokens, correct / (correct + wrong + TINY))


@metric(
    "truth_ratio_tofu_compat",
    needs=RATIO,
    version=2,
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
    version=2,
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
    needs=[labels(), labels(variant="wrong")],
    version=2,
    card=card("Options probability", "P(answer) / (P(answer) + sum P(wrong) + 1e-10).", "1e-10 in the denominator"),
)
def options_probability_compat(tables: Tables, rows: str = "*") -> PerRow:
    """Options probability with the added constant."""
    tokens, wrong = harness_tokens(tables, rows), harness_wrong(tables, rows)
    sums = np.array([np.exp(wrong[row]).sum() if row in wrong else np.nan for row in tokens.rows])
    own = np.exp(tokens.mean_lp)
    return per_row(tokens, own / (own + sums + TINY))


@metric(
    "forget_quality_compat",
    needs=RATIO_NEEDS,
    version=2,
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
    version=2,
    directions={"*": "higher"},
    fixed_rows="retain",
    card=card(
        "Model utility",
        "scipy's harmonic mean of the nine parts in the harness's forms.",
        "1e-10 in ratios",
        differs=GENERATED_DIFFERS,
    ),
)
def model_utility_compat(tables: Tables) -> Score:
    """Harmonic mean of the harness's nine parts."""
    from scipy.stats import hmean

    parts: dict[str, PerRow] = {}
    for rows in UTILITY_SETS:
        own = probability_compat if rows == "retain" else options_probability_compat
        parts[f"{rows}.probability"] = own(tables, rows)
        parts[f"{rows}.rouge"] = rouge_compat(tables, rows)
        parts[f"{rows}.truth_ratio"] = truth_ratio_true_better_compat(tables, rows)
    means = part_means(parts)
    return Score(
        "",
        "",
        float(hmean(list(means.values()))),
        n=sum(len(p.values) for n, p in parts.items() if n.endswith("rouge")),
        extra={"parts": means},
    )
