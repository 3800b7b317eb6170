"""The similarity evaluator of gradient ascent on copyrighted text: how close is the continuation to the true one?

Rows hold the first 64 characters of a passage as the question and the next 512 as the answer (benchmark ``book``). The
paper's text says BLEU and its code a cosine of sentence embeddings; both are here, and ROUGE-L is ``rouge_f1``.
"""

from __future__ import annotations

import math
from collections import Counter

from efface.card import Card
from efface.metrics.base import PerRow, Tables, metric
from efface.metrics.fluency import grams
from efface.metrics.generation import GENERATED, SILENT, score_generations

LONGEST = 512  # characters compared
ORDERS = 4
SOURCE = "arXiv 2405.15152, section 5 (copyright evaluator)"
CODE = "shreya1313/llm-unlearning"
CUT = f"both texts are cut to {LONGEST} characters"


def bleu(gold: str, text: str) -> float:
    """Sentence BLEU-4 with add-one counts for orders above 1; NaN for a gold text without words.

    min(1, e^(1 - |gold| / |text|)) * (prod_n p_n)^(1/4), p_1 = matches / total, p_n = (matches + 1) / (total + 1).
    """
    want, got = _words(gold), _words(text)
    if not want:
        return float("nan")
    shares = [_precision(want, got, n) for n in range(1, ORDERS + 1)]
    if min(shares) == 0:
        return 0.0
    brevity = min(1.0, math.exp(1 - len(want) / len(got)))
    return brevity * math.exp(sum(map(math.log, shares)) / ORDERS)


def _precision(want: list[str], got: list[str], n: int) -> float:
    mine, theirs = (Counter(tuple(w[i : i + n]) for i in range(len(w) - n + 1)) for w in (got, want))
    add = int(n > 1)
    total = sum(mine.values()) + add
    return (sum((mine & theirs).values()) + add) / total if total else 0.0


def cosine(gold: str, text: str) -> float:
    """Cosine of the counts of words and word pairs; 0 for an empty text, NaN for a gold text without words."""
    a, b = (Counter(grams(t.lower(), 1) + grams(t.lower(), 2)) for t in (gold, text))
    if not a:
        return float("nan")
    size = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return sum(a[key] * b[key] for key in a.keys() & b.keys()) / size if size else 0.0


def _words(text: str) -> list[str]:
    return [word for (word,) in grams(text.lower(), 1)]


@metric(
    "bleu",
    needs=[GENERATED],
    card=Card(
        "BLEU-4 of the continuation",
        SOURCE,
        CODE,
        "Sentence BLEU-4 of the greedy answer against the gold text; mean over rows.",
        confirmed=(f"continuation of 64 characters, compared with the next {LONGEST}",),
        derived=("words and punctuation marks in lower case; add-one counts for orders above 1 (Lin and Och 2004)",),
        fooled_by=(SILENT, "a paraphrase scores low although it tells everything", CUT),
        systems=("S27",),
    ),
)
def bleu_score(tables: Tables) -> PerRow:
    """BLEU-4 per row."""
    return score_generations(tables, lambda gold, text: bleu(gold[:LONGEST], text[:LONGEST]))


@metric(
    "text_cosine",
    needs=[GENERATED],
    card=Card(
        "Cosine similarity of the continuation",
        SOURCE,
        CODE,
        "Cosine of the counts of words and word pairs of the greedy answer and the gold text; mean over rows.",
        differs=(
            "the released code takes MiniLM sentence embeddings, which have to be downloaded; this is the offline form "
            "and knows words, not meanings",
        ),
        fooled_by=(SILENT, "common words alone make it positive: compare with the reference", CUT),
        systems=("S27",),
    ),
)
def text_cosine(tables: Tables) -> PerRow:
    """Cosine per row."""
    return score_generations(tables, lambda gold, text: cosine(gold[:LONGEST], text[:LONGEST]))
