"""What a model can still do otherwise, as RWKU measures it: facts, truthfulness, reasoning and fluency.

General ability (MMLU) is ``letter_accuracy`` on its questions.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from efface.card import Card
from efface.metrics.base import PerRow, Tables, metric
from efface.metrics.fluency import BI, TRI, entropy
from efface.metrics.generation import SILENT, normal
from efface.metrics.knowledge import CHOICES
from efface.metrics.protocols import DIRECTIONS, continued, score_texts
from efface.metrics.rwku import RWKU, RWKU_CODE


def word_f1(gold: str, text: str) -> float:
    """F1 of normalised words, the best over the gold answers (one a line); NaN where none has a word."""
    answers = [normal(line).split() for line in gold.split("\n") if normal(line)]
    said = normal(text).split()
    if not answers:
        return float("nan")
    return max(_f1(answer, said) for answer in answers)


def _f1(answer: list[str], said: list[str]) -> float:
    common = sum((Counter(answer) & Counter(said)).values())
    return 2 * common / (len(answer) + len(said)) if common else 0.0


FACTS = continued(30, "A:")


@metric(
    "factuality_f1",
    needs=[FACTS],
    directions=DIRECTIONS,
    card=Card(
        "Factuality (TriviaQA F1)",
        RWKU,
        RWKU_CODE,
        "Word F1 of at most 30 greedy tokens against the best of the accepted answers (one a line in the gold text), "
        "lower case, without punctuation and articles.",
        fooled_by=(SILENT, "a right answer inside a long one"),
    ),
)
def factuality_f1(tables: Tables) -> PerRow:
    """Best F1 per row."""
    return score_texts(tables, FACTS, lambda gold, text: word_f1(gold, text))


@metric(
    "truthfulness_mc1",
    needs=CHOICES,
    directions=DIRECTIONS,
    card=Card(
        "Truthfulness (TruthfulQA MC1)",
        RWKU,
        RWKU_CODE,
        "1 if the true answer has a higher summed log-prob than every false one, end token not counted.",
        fooled_by=("summed log-probs favour short answers",),
    ),
)
def truthfulness_mc1(tables: Tables) -> PerRow:
    """Whether the true answer wins; rows without false answers are unscored."""
    tokens = tables.tokens()
    own = [body.sum() if body.size else np.nan for body in tokens.body(tokens.lp)]
    values = []
    for mine, others, end in zip(own, tables.variants(), tokens.eos, strict=True):
        false = [lp[: lp.size - int(end)].sum() for lp in others]
        values.append(float(mine > max(false)) if false and not np.isnan(mine) else np.nan)
    return PerRow(np.array(values, dtype=np.float64), tokens.rows, tokens.entities)


REASONING = continued(256, "A:")
CONCLUDED = re.compile(r"[tT]he answer is (.*?)\.")


@metric(
    "reasoning_exact",
    needs=[REASONING],
    directions=DIRECTIONS,
    card=Card(
        "Reasoning (BBH exact match)",
        RWKU,
        RWKU_CODE,
        "1 if what follows `the answer is` in at most 256 greedy tokens (all of the text where nothing does) equals "
        "the gold answer, lower case, without punctuation.",
        differs=("articles stay: the published normalisation drops them, and with them the option (A)",),
        fooled_by=(SILENT, "another way of concluding"),
    ),
)
def reasoning_exact(tables: Tables) -> PerRow:
    """Exact match of the concluded answer per row."""

    def score(gold: str, text: str) -> float:
        found = CONCLUDED.search(text)
        return float(_words(found[1] if found else text) == _words(gold)) if _words(gold) else float("nan")

    return score_texts(tables, REASONING, score)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


ESSAY = continued(256)


@metric(
    "fluency_entropy",
    needs=[ESSAY],
    directions={"*": "higher"},
    orientation="none",
    card=Card(
        "Fluency (RWKU)",
        RWKU,
        RWKU_CODE,
        "(2/3 H_2 + 4/3 H_3) / 2 of at most 256 greedy tokens, H_n the entropy in bits of the word n-grams.",
        differs=("words by a regular expression instead of a downloaded tokenizer model",),
        fooled_by=("word salad has the highest entropy", "short answers carry few n-grams"),
    ),
)
def fluency_entropy(tables: Tables) -> PerRow:
    """Weighted bi- and trigram entropy per row; an empty answer has 0."""
    return score_texts(tables, ESSAY, lambda gold, text: (BI * entropy(text, 2) + TRI * entropy(text, 3)) / 2)
