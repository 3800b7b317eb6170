"""Metrics of greedy generations against the gold text: ROUGE and exact match. MUSE's two are in ``muse``."""

from __future__ import annotations

import re
import string
from collections.abc import Callable

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, PerRow, Tables, metric
from efface.metrics.memorisation import CODE, TOFU

MUSE = "Shi et al. 2024, MUSE (arXiv 2407.06460)"
GENERATED = Need("generate", variants=())
STOPS = re.compile(r"\n\n|\nQuestion|Question:")
SILENT = "an empty answer scores 0 like a forgotten one: see `empty` beside it"


def score_generations(
    tables: Tables, score: Callable[[str, str], float], rows: str = "*", prompt: str = "prompt"
) -> PerRow:
    """``score(gold, text)`` per row; rows that were not generated are unscored. ``extra["empty"]``: share of empty
    texts."""
    table = tables.generations(rows, prompt)
    texts, broken = table.column("text"), table.column("problem")
    values = [
        np.nan if problem else score(gold or "", text or "")
        for gold, text, problem in zip(table.column("gold"), texts, broken, strict=True)
    ]
    done = [text for text, problem in zip(texts, broken, strict=True) if not problem]
    empty = sum(not (text or "").strip() for text in done) / len(done) if done else float("nan")
    return PerRow(np.asarray(values, dtype=np.float64), table.rows, table.entities, {"empty": empty} if done else {})


def rouge_l(*, part: str, stemmer: bool) -> Callable[[str, str], float]:
    """ROUGE-L ``part`` ("recall" or "fmeasure") of (gold, text); NaN where the tokenizer leaves nothing of the gold
    text."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=stemmer)

    def score(gold: str, text: str) -> float:
        if not re.search(r"[a-z0-9]", gold.lower()):
            return float("nan")
        return float(getattr(scorer.score(gold, text)["rougeL"], part))

    return score


def normal(text: str) -> str:
    """Lower case, no punctuation or articles, single spaces (the normalisation of SQuAD)."""
    bare = "".join(" " if c in string.punctuation else c for c in text.lower())
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))


@metric(
    "rouge",
    needs=[GENERATED],
    card=Card(
        "ROUGE-L recall",
        TOFU,
        CODE,
        "Longest common subsequence of the greedy answer and the gold answer over the gold length, words stemmed (the "
        "form TOFU uses).",
        fooled_by=(
            SILENT,
            "a refusal scores near 0 while the weights hold everything",
            "recall rewards long answers that wander past the gold words",
            "letters outside a-z are dropped; a gold answer with none left is unscored",
        ),
    ),
)
def rouge(tables: Tables, rows: str = "*") -> PerRow:
    """ROUGE-L recall with stemmer per row."""
    return score_generations(tables, rouge_l(part="recall", stemmer=True), rows)


@metric(
    "rouge_paraphrased_question",
    needs=[Need("generate", variants=(), prompt="paraphrase")],
    card=Card(
        "ROUGE-L recall under a reworded question",
        TOFU,
        "",
        "As rouge, asked with the paraphrased question.",
        fooled_by=(SILENT,),
    ),
)
def rouge_paraphrased_question(tables: Tables) -> PerRow:
    """``rouge`` with the prompt replaced by its paraphrase."""
    return score_generations(tables, rouge_l(part="recall", stemmer=True), prompt="paraphrase")


@metric(
    "rouge_f1",
    needs=[GENERATED],
    card=Card(
        "ROUGE-L F1",
        MUSE,
        "jaechan-repo/muse_bench",
        "ROUGE-L F1 of the greedy answer, words not stemmed (the form MUSE uses).",
        fooled_by=(SILENT, "a right answer inside a long sentence scores low"),
    ),
)
def rouge_f1(tables: Tables) -> PerRow:
    """ROUGE-L F1 without stemmer per row."""
    return score_generations(tables, rouge_l(part="fmeasure", stemmer=False))


@metric(
    "exact_match",
    needs=[GENERATED],
    card=Card(
        "Exact match",
        "Rajpurkar et al. 2016 (normalisation); LUME, arXiv 2502.15097 (use)",
        "",
        "1 if the greedy answer equals the gold answer after lower-casing and dropping punctuation and articles.",
        fooled_by=(SILENT, "any extra word makes it 0: meant for short answers"),
    ),
)
def exact_match(tables: Tables) -> PerRow:
    """Normalised equality; a gold answer that normalises to nothing is unscored."""
    return score_generations(
        tables, lambda gold, text: float(normal(gold) == normal(text)) if normal(gold) else float("nan")
    )
