"""PISTOL's scores of contract facts: ROUGE-1 recall of the answer, and whether its tokens are still near the top."""

from __future__ import annotations

import re

import numpy as np

from efface.card import Card
from efface.metrics.base import PerRow, Tables, metric
from efface.metrics.generation import GENERATED, SILENT, score_generations
from efface.metrics.memorisation import ANSWER, per_row
from efface.metrics.protocols import DIRECTIONS

PISTOL = "Qiu et al. 2024, PISTOL (arXiv 2406.16810)"
PISTOL_CODE = "bill-shen-BS/PISTOL (read at 9851fb5)"
TOP = 100


@metric(
    "rouge1_recall",
    needs=[GENERATED],
    directions=DIRECTIONS,
    card=Card(
        "ROUGE-1 recall",
        PISTOL,
        PISTOL_CODE,
        "Share of the gold answer's words, stemmed, that the greedy answer holds in any order.",
        confirmed=("recall, stemmer, greedy",),
        fooled_by=(SILENT, "recall rewards long answers", "word order does not count"),
    ),
)
def rouge1_recall(tables: Tables) -> PerRow:
    """ROUGE-1 recall with stemmer per row."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"], use_stemmer=True)

    def score(gold: str, text: str) -> float:
        if not re.search(r"[a-z0-9]", gold.lower()):
            return float("nan")
        return float(scorer.score(gold, text)["rouge1"].recall)

    return score_generations(tables, score)


@metric(
    "top_hit",
    needs=[ANSWER],
    directions=DIRECTIONS,
    card=Card(
        "Top hits of the answer tokens",
        PISTOL,
        PISTOL_CODE,
        "Share of gold answer tokens among the 100 most likely ones, end token not counted. With `gold_rank`, the mean "
        "reciprocal rank, PISTOL's pair of rank scores.",
        confirmed=("rank up to 100 counts as a hit",),
        differs=(
            "ranks after the gold tokens before; the published code reads the i-th step of free generation, so one "
            "token more or less at the start shifts every rank",
        ),
        fooled_by=(
            "depends on the tokenizer: compare inside one model only",
            "a hundred of some thirty thousand is generous: function words are always among them",
        ),
    ),
)
def top_hit(tables: Tables) -> PerRow:
    """Share of ranks below ``TOP`` per row; empty answers are unscored."""
    tokens = tables.tokens()
    return per_row(tokens, [np.mean(ranks < TOP) if ranks.size else np.nan for ranks in tokens.body(tokens.rank)])
