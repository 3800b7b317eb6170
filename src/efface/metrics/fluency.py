"""Fluency: does the model still write text, or does it repeat itself, say the same to everyone, or say nothing?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.generation import GENERATED, score_generations
from efface.passes.tables import arrays

WORD = re.compile(r"\w+|[^\w\s]")
REPEAT, BI, TRI = 4, 2 / 3, 4 / 3
SHORT = "short answers: they cannot repeat and carry few n-grams"


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    """Word n-grams of ``text``, punctuation as words."""
    words = WORD.findall(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def entropy(text: str, n: int) -> float:
    """Entropy of the n-gram distribution of ``text`` in bits; 0 where there is no n-gram."""
    counts = np.array(list(Counter(grams(text, n)).values()), dtype=np.float64)
    shares = counts / counts.sum() if counts.size else counts
    return float(-np.sum(shares * np.log2(shares)))


def repetition(text: str) -> float:
    """Share of word 4-grams that repeat an earlier one; 0 for a text too short to have any, NaN for an empty one."""
    found = grams(text, REPEAT)
    if not found:
        return 0.0 if text.strip() else float("nan")
    return 1 - len(set(found)) / len(found)


@metric(
    "repetition_rate",
    needs=[GENERATED],
    directions={"*": "lower"},
    orientation="none",
    card=Card(
        "Repetition rate (seq-rep-4)",
        "Welleck et al. 2019 (arXiv 1908.04319)",
        "",
        "Share of word 4-grams in the greedy answer that occurred in it before; mean over rows. Empty answers are "
        "unscored and counted in `empty`.",
        fooled_by=(SHORT, "the same fluent sentence to every question: see distinct_2"),
    ),
)
def repetition_rate(tables: Tables) -> PerRow:
    """Repeated 4-grams per row."""
    result = score_generations(tables, lambda gold, text: repetition(text))
    if result.extra.get("empty") == 1.0:
        raise NotComputed("every greedy answer is empty")
    return result


@metric(
    "ngram_entropy",
    needs=[GENERATED],
    directions={"*": "higher"},
    orientation="none",
    card=Card(
        "Weighted n-gram entropy",
        "Jin et al. 2024, RWKU (arXiv 2406.10890); Meng et al. 2022 (arXiv 2202.05262)",
        "jinzhuoran/RWKU",
        "(2/3 H_2 + 4/3 H_3) / 2 per text, H_n the entropy in bits of its word n-grams; mean over rows.",
        differs=("words by a regular expression instead of a downloaded tokenizer model",),
        fooled_by=(SHORT, "word salad has the highest entropy"),
    ),
)
def ngram_entropy(tables: Tables) -> PerRow:
    """Weighted bi- and trigram entropy per row; an empty answer has 0."""
    return score_generations(tables, lambda gold, text: (BI * entropy(text, 2) + TRI * entropy(text, 3)) / 2)


@metric(
    "distinct_2",
    needs=[GENERATED],
    directions={"*": "higher"},
    orientation="none",
    card=Card(
        "Distinct bigrams over all answers",
        "Li et al. 2016 (arXiv 1510.03055)",
        "",
        "Number of different word bigrams in all greedy answers together, over their total number; `distinct_1` and "
        "`distinct_3` the same of words and trigrams. Low when every question gets the same answer. No interval: "
        "resampling repeats answers, which this counts.",
        fooled_by=("falls with the number of rows: compare on the same rows only",),
    ),
)
def distinct_2(tables: Tables) -> Score:
    """Distinct over total bigrams of the whole set."""
    table = tables.generations()
    texts = [
        text or "" for text, problem in zip(table.column("text"), table.column("problem"), strict=True) if not problem
    ]
    shares = {n: distinct(texts, n) for n in (1, 2, 3)}
    if shares[2] is None:
        raise NotComputed("no answer has two words")
    extra = {f"distinct_{n}": shares[n] for n in (1, 3)}
    return Score("", "", shares[2], n=len(texts), unscored=len(table) - len(texts), extra=extra)


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different over all word n-grams of ``texts`` together; None where there is none."""
    found = [gram for text in texts for gram in grams(text, n)]
    return len(set(found)) / len(found) if found else None


@metric(
    "base_log_prob",
    needs=[GENERATED, Need("echo", role="base")],
    directions={"*": "higher"},
    orientation="none",
    card=Card(
        "Log-probability of the answers under the base model",
        "derived (evaluation sheet 13: an offline stand-in for a gibberish classifier)",
        "",
        "Mean over answer tokens of log p_base(token), of the model's own greedy answers, in nats; mean over rows. "
        "`perplexity` is exp of minus the value. Text that a plain language model finds natural is high, broken text "
        "is low. Empty answers are unscored and counted in `unscored`.",
        derived=("the base model as judge", "the end of the answer is not counted"),
        fooled_by=(
            "repetition: a repeated phrase is easy to predict, read repetition_rate beside it",
            "true rare names are improbable too: compare with the reference's answers to the same questions",
            "a base model that was itself never trained (the tiny world) says nothing",
        ),
    ),
)
def base_log_prob(tables: Tables) -> PerRow:
    """Mean log-prob per token of each greedy answer under the base model."""
    speaker = tables.subject
    table = tables.table(Need("echo", role="base", variants=(speaker,), others=(speaker,)))
    values = np.array([lp.mean() if lp.size else np.nan for lp in arrays(table["lp"], np.float64)])
    if np.isnan(values).all():
        raise NotComputed("every greedy answer is empty")
    rows, names = table["row"].to_pylist(), table["entity"].to_pylist()
    extra = {"perplexity": float(np.exp(-np.nanmean(values)))}
    return PerRow(values, rows, [name or row for name, row in zip(names, rows, strict=True)], extra)
