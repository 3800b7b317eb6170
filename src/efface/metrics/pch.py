"""PCH's scores for many requests one after another: a geometric mean per side, and its distance from a reference line.

S = 100 (P R A)^(1/3): P answer probability, R ROUGE-L F1, A next-token accuracy on the texts. After t of T requests
S_ref(t) = S_O + (t / T) (S_R - S_O): a line from the model before any request to the one that never saw them.
"""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.metrics.base import Direction, Need, NotComputed, Score, Tables, metric
from efface.metrics.generation import rouge_l
from efface.metrics.memorisation import probability
from efface.metrics.protocols import continued, on, score_texts

PCH = "Xu et al. 2026, FIT and PCH (arXiv 2601.21682)"
PCH_CODE = "XiaoyuXU1/FIT (read at 360a77b)"
LENGTH = 128
BAD = "S is 0 when one of its three parts is: silence alone makes forgetting look complete"


def overall(p: float, r: float, a: float) -> float:
    """100 (p r a)^(1/3)."""
    return 100 * float(np.cbrt(p * r * a))


def reference_line(before: float, without: float, t: float, total: float) -> float:
    """S_ref(t): ``before`` at t = 0, ``without`` at t = ``total``, straight in between."""
    return before + (t / total) * (without - before)


def closeness(value: float, wanted: float) -> float:
    """max(0, 1 - |value / wanted - 1|); 0 where ``wanted`` is 0. Less than the reference costs as much as more."""
    return 0.0 if wanted == 0 else max(0.0, 1 - abs(value / wanted - 1))


def parts(tables: Tables, side: str) -> dict[str, float]:
    """P, R and A of one side ("forget" or "retain": its questions, and its texts in the set text_<side>)."""
    score = rouge_l(part="fmeasure", stemmer=True)
    tokens = on(tables, f"text_{side}").tokens()
    found = {
        "probability": probability(tables, side).values,
        "rouge": score_texts(tables, continued(LENGTH, rows=side), score).values,
        "accuracy": np.array([hits.mean() if hits.size else np.nan for hits in tokens.body(tokens.hit)]),
    }
    if lost := [name for name, values in found.items() if not np.isfinite(values).any()]:
        raise NotComputed(f"none of the {side} rows gives {' or '.join(lost)}")
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def needs(side: str, *roles: str) -> tuple[Need, ...]:
    """Tables behind ``parts`` for each role."""
    return tuple(
        need
        for role in roles
        for need in (
            Need("score", side, role),
            Need("continuation", side, role, (str(LENGTH),)),
            Need("score", f"text_{side}", role),
        )
    )


def _score(side: str, direction: Direction) -> None:
    def pch_score(tables: Tables) -> Score:
        found = parts(tables, side)
        return Score("", "", overall(*found.values()), n=3, extra={"parts": found})

    metric(
        f"pch_score_{side}",
        needs=needs(side, "subject"),
        directions={"*": direction},
        fixed_rows=side,
        card=Card(
            f"PCH score of the {side} side",
            PCH,
            PCH_CODE,
            "S = 100 (P R A)^(1/3): answer probability, ROUGE-L F1 (stemmed, 128 greedy tokens) and teacher-forced "
            "next-token accuracy on the texts. The three parts are in `parts`.",
            confirmed=("the three parts and their geometric mean",),
            differs=(
                "ROUGE of the answer alone; the published code scores prompt and answer together",
                "the end of the answer counts in P",
            ),
            fooled_by=(BAD,),
        ),
    )(pch_score)


def _distance(name: str, side: str, title: str) -> None:
    def distance(tables: Tables) -> Score:
        mine, theirs = parts(tables, side), parts(on(tables, side, "reference"), side)
        value, wanted = overall(*mine.values()), overall(*theirs.values())
        return Score("", "", closeness(value, wanted), n=3, extra={"score": value, "reference": wanted, "parts": mine})

    metric(
        name,
        needs=needs(side, "subject", "reference"),
        directions={"*": "higher"},
        orientation="none",
        fixed_rows=side,
        card=Card(
            title,
            PCH,
            PCH_CODE,
            f"max(0, 1 - |S / S_ref - 1|) of the {side} side, S_ref the reference's S: the end of the published "
            "line, t = T. The schedule of requests computes it at every t.",
            confirmed=("S = S_ref gives 1; S = 0 and S = 2 S_ref give 0",),
            fooled_by=(BAD, "the same distance on either side of the reference looks the same: read `score`"),
        ),
    )(distance)


_score("forget", "match")
_score("retain", "higher")
_distance("forget_degree", "forget", "Forget degree (PCH)")
_distance("retain_utility", "retain", "Retain utility (PCH)")
