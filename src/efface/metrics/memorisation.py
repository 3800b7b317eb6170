"""Memorisation: how much of the gold answer the model would still give, from one teacher-forced pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, PerRow, Tables, metric
from efface.passes.tables import Tokens

TOFU = "Maini et al. 2024, TOFU (arXiv 2401.06121)"
OPEN = "Dorna et al. 2025 (arXiv 2506.12618)"
UWC = "Wang et al. 2024, Towards Effective Evaluations and Comparisons (arXiv 2406.09179)"
CODE = "locuslab/open-unlearning"
ANSWER = Need("score")
REWORDED = Need("score", prompt="paraphrase")
SCAN = Need("prefix_scan", variants=("similar",))


def per_row(tokens: Tokens, values: Sequence[float] | np.ndarray) -> PerRow:
    """``values`` with the ids and entities of a token table."""
    return PerRow(np.asarray(values, dtype=np.float64), tokens.rows, tokens.entities)


def strength(hits: np.ndarray) -> float:
    """Extraction strength of one answer from its argmax hits Bool[tokens]: the share of the answer that follows the
    last miss (1: all hits, 0: the last token misses). NaN for an empty answer."""
    if not hits.size:
        return float("nan")
    misses = np.flatnonzero(~hits)
    return 1.0 - (misses[-1] + 1) / hits.size if misses.size else 1.0


@metric(
    "probability",
    needs=[ANSWER],
    card=Card(
        "Answer probability",
        TOFU,
        CODE,
        "exp(mean_t log p(y_t | x, y_<t)) of the gold answer, end token included: the geometric mean probability of a "
        "token. Mean over rows.",
        fooled_by=(
            "refusal training or a logit bias lowers it while later tokens stay predictable",
            "long answers look more probable: their later tokens follow from the earlier ones",
            "another chat template changes every value",
        ),
    ),
)
def probability(tables: Tables, rows: str = "*") -> PerRow:
    """exp of the mean log-prob of the answer; empty answers are unscored."""
    tokens = tables.tokens(rows)
    return per_row(tokens, np.exp(tokens.mean_lp))


@metric(
    "probability_paraphrased_answer",
    needs=[Need("score", variants=("answer_paraphrase",))],
    card=Card(
        "Probability of the paraphrased answer",
        OPEN,
        CODE,
        "exp(mean log p) of the paraphrased gold answer: knowledge of the fact rather than of its wording.",
        fooled_by=("a model that lost all fluency scores low without having been made to forget",),
    ),
)
def probability_paraphrased_answer(tables: Tables) -> PerRow:
    """``probability`` of ``answer_paraphrase``."""
    tokens = tables.tokens(variant="answer_paraphrase")
    return per_row(tokens, np.exp(tokens.mean_lp))


@metric(
    "probability_paraphrased_question",
    needs=[REWORDED],
    card=Card(
        "Probability under a reworded question",
        UWC,
        "",
        "exp(mean log p) of the gold answer after the paraphrased question.",
        fooled_by=("unlearning that also saw the paraphrase",),
    ),
)
def probability_paraphrased_question(tables: Tables) -> PerRow:
    """``probability`` with the prompt replaced by its paraphrase."""
    tokens = tables.tokens(prompt="paraphrase")
    return per_row(tokens, np.exp(tokens.mean_lp))


@metric(
    "exact_memorisation",
    needs=[ANSWER],
    card=Card(
        "Exact memorisation (EM)",
        OPEN,
        CODE,
        "Share of answer tokens that are the argmax given the gold tokens before them; the end token is not counted. "
        "Never below extraction strength.",
        fooled_by=(
            "high in any fluent model: function words are predictable without the fact; compare with the reference",
        ),
    ),
)
def exact_memorisation(tables: Tables) -> PerRow:
    """Mean argmax hits without the end token; empty answers are unscored."""
    tokens = tables.tokens()
    return per_row(tokens, [hits.mean() if hits.size else np.nan for hits in tokens.body(tokens.hit)])


@metric(
    "extraction_strength",
    needs=[ANSWER],
    card=Card(
        "Extraction strength (ES)",
        f"{UWC}; Carlini et al. 2021",
        "tmlr-group/Unlearning-with-Control",
        "1 - k/n, k the shortest prefix of the gold answer (n tokens, end token not counted) after which greedy "
        "decoding gives the rest exactly; 0 if none does. Read off the argmax hits of one pass, which equals free "
        "decoding after each prefix.",
        differs=(
            "the common harness gives 1/n instead of 0 when the last token misses: see extraction_strength_compat",
        ),
        fooled_by=(
            "one wrong last token makes it 0",
            "a bias against a few gold tokens lowers it without removing anything",
        ),
    ),
)
def extraction_strength(tables: Tables) -> PerRow:
    """``strength`` per row, without the end token; empty answers are unscored."""
    tokens = tables.tokens()
    return per_row(tokens, [strength(hits) for hits in tokens.body(tokens.hit)])


@metric(
    "extraction_strength_paraphrased_question",
    needs=[REWORDED],
    card=Card(
        "Extraction strength under a reworded question",
        UWC,
        "tmlr-group/Unlearning-with-Control",
        "Extraction strength of the gold answer after the paraphrased question.",
        fooled_by=("as extraction_strength",),
    ),
)
def extraction_strength_paraphrased_question(tables: Tables) -> PerRow:
    """``extraction_strength`` with the prompt replaced by its paraphrase."""
    tokens = tables.tokens(prompt="paraphrase")
    return per_row(tokens, [strength(hits) for hits in tokens.body(tokens.hit)])


@metric(
    "extraction_strength_similar",
    needs=[SCAN],
    card=Card(
        "Extraction strength, similar text",
        UWC,
        "tmlr-group/Unlearning-with-Control",
        "1 - k/n, k the fewest tokens of the gold answer (n tokens, end token not counted) after which greedy decoding "
        "of n - k more gives at least half of the rest in order (longest common subsequence of tokens); 0 if none "
        "does. Sees an answer that is still told in other words. Every k from 0 on is tried: a longer prefix may do "
        "worse.",
        confirmed=("the first prefix whose continuation is similar enough counts, from the empty one on",),
        differs=(
            "tokens, and prefixes of token ids; the authors compare stemmed words and cut the text between words",
            "half of the gold text: their code takes rouge's recall with its two texts exchanged, which is the share "
            "of what was said, so that a short answer passes easily",
            "no more is said than is left of the answer; their code lets the model say up to 150 tokens",
            "exactly half counts",
        ),
        fooled_by=(
            "an answer that repeats the question: half of its tokens follow without the fact, so compare with the "
            "reference",
            "the last token alone is half of what is left with luck: values just above 0 mean little",
        ),
    ),
)
def extraction_strength_similar(tables: Tables) -> PerRow:
    """1 - k/n per row from the scan of prefixes; empty answers are unscored."""
    table = tables.table(SCAN)
    rows, entities, tokens, prefix = (table[name].to_pylist() for name in ("row", "entity", "tokens", "prefix"))
    values = [1 - k / n if n else np.nan for k, n in zip(prefix, tokens, strict=True)]
    return PerRow(np.array(values, dtype=np.float64), rows, [e or r for e, r in zip(entities, rows, strict=True)])


@metric(
    "gold_rank",
    needs=[ANSWER],
    card=Card(
        "Mean reciprocal rank of the answer tokens",
        "Qiu et al. 2024, PISTOL (arXiv 2406.16810)",
        "bill-shen-BS/PISTOL",
        "Mean of 1/(rank + 1) of the gold tokens, rank 0 = argmax; the end token is not counted. Sees a fact that fell "
        "to second place.",
        fooled_by=("depends on the tokenizer: compare inside one model only",),
    ),
)
def gold_rank(tables: Tables) -> PerRow:
    """Mean reciprocal rank per row; empty answers are unscored."""
    tokens = tables.tokens()
    return per_row(tokens, [np.mean(1.0 / (ranks + 1)) if ranks.size else np.nan for ranks in tokens.body(tokens.rank)])
