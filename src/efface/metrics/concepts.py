"""Parametric traces of concepts: did the parameters that encode them move, or only the outputs?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from efface.card import Card
from efface.metrics.base import Direction, Need, NotComputed, PerRow, Score, Tables, metric

PAPER = "Hong et al. 2024, ConceptVectors (arXiv 2406.11614)"
CODE = "yihuaihong/ConceptVectors"
NEEDS = (Need("concept_traces", variants=(), others=("target",)),)
LIMITS = (
    "a method that rotates the vector and writes the concept elsewhere: read it with an attack, never alone",
    "models of another seed: their vectors are others from the start (`layer_cosine` is then far from 1)",
    "few concepts sit in one vector of a small model: `located` says how many were found and confirmed, the others are "
    "the ten vectors of the largest activation x gradient",
)
TESTED = (
    "a direction planted as the sum of a concept's token embeddings, in either sign, is the top candidate; an edited "
    "vector moves its own concept only; a changed head moves the overlap with the own head only",
    "tiny ladder, seed 0: one of five concepts sits in a confirmed vector, four fall back to attribution; cosine of "
    "HeadOnly .99, of Guard and Bias 1, of R2 .67 (all from one initialisation: `layer_cosine` .68)",
)
DERIVED = (
    "concepts are entities; their tokens are those of their answers that the question, the wrong answers and the other "
    "entities lack",
    "no judge: a vector is a candidate above the 99.9th percentile of token sets drawn by chance, in either sign, and "
    "confirmed if noise on it alone costs the concept three times what noise on random vectors of the layer does",
    "noise three times as large as the vector (published: a standard deviation of .1, whatever the scale)",
    "fallback: the ten vectors of the largest activation x gradient",
)


def traces(tables: Tables, column: str, missing: str = "") -> PerRow:
    """One value per vector; ``extra``: how the vectors were found and how far the blocks moved at large."""
    table = tables.table(NEEDS[0])
    if not table.num_rows:
        raise NotComputed("no value vector was found for any concept")
    lines = table.to_pylist()
    values = np.array([np.nan if line[column] is None else line[column] for line in lines], dtype=np.float64)
    if np.isnan(values).all():
        raise NotComputed(missing)
    extra: dict[str, Any] = {kind: sum(line[kind] for line in lines) for kind in ("located", "given")}
    extra |= {
        "attributed": len(lines) - extra["located"] - extra["given"],
        "concepts": len({line["entity"] for line in lines}),
        "layer_cosine": float(np.median([line["layer_cosine"] for line in lines])),
    }
    return PerRow(values, [line["row"] for line in lines], [line["entity"] for line in lines], extra)


def mean_of(tables: Tables, *columns: str) -> dict[str, float | None]:
    """Means of further columns over the vectors that have them."""
    table = tables.table(NEEDS[0])
    found = {name: [v for v in table[name].to_pylist() if v is not None] for name in columns}
    return {name: float(np.mean(v)) if v else None for name, v in found.items()}


def _register(
    name: str, title: str, summary: str, direction: Direction, untouched: float, *fooled_by: str
) -> Callable[[Callable[[Tables], PerRow]], Callable[[Tables], PerRow]]:
    """Register a function of tables; the target held against itself is ``untouched``, without looking."""
    card = Card(title, PAPER, CODE, summary, derived=DERIVED, tested=TESTED, fooled_by=(*fooled_by, *LIMITS))
    orientation = "knowledge" if untouched else "none"

    def add(function: Callable[[Tables], PerRow]) -> Callable[[Tables], PerRow]:
        def measured(tables: Tables) -> PerRow | Score:
            if tables.subject == "target":
                return Score("", "", untouched, untouched, untouched, extra={"note": "the target held against itself"})
            return function(tables)

        metric(name, needs=NEEDS, card=card, directions={"*": direction}, orientation=orientation)(measured)  # type: ignore[arg-type]
        return function

    return add


@_register(
    "concept_cosine",
    "Cosine of concept vectors",
    "cos(v, v') of the value vectors (columns of the MLP down-projection) that hold the forgotten concepts, before and "
    "after; mean over vectors. 1: untouched. `layer_cosine`: median over all vectors of their blocks.",
    "lower",
    1.0,
)
def concept_cosine(tables: Tables) -> PerRow:
    """Cosine per vector."""
    return traces(tables, "cosine")


@_register(
    "concept_distance",
    "Distance of concept vectors",
    "||v - v'||_2 of the value vectors that hold the forgotten concepts; mean over vectors.",
    "higher",
    0.0,
    "depends on the scale of the weights: compare inside one lineage",
)
def concept_distance(tables: Tables) -> PerRow:
    """Euclidean distance per vector."""
    return traces(tables, "l2")


@_register(
    "concept_jaccard",
    "Vocabulary overlap of concept vectors",
    "Jaccard index of the 200 tokens that a concept's value vector raises most before, and after with the model's own "
    "head; mean over vectors. `jaccard_original`: with the original's head on both sides, so what the vector did; "
    "`jaccard_own_folded`: with the final norm's scale in the head. `rate_before`, `rate_after`: share of the "
    "concept's tokens among the 200.",
    "lower",
    1.0,
    "a tied head changes with the input embeddings: compare `jaccard_original`",
)
def concept_jaccard(tables: Tables) -> PerRow:
    """Jaccard index per vector, the model's own head after."""
    found = traces(tables, "jaccard_own")
    more = mean_of(tables, "jaccard_original", "jaccard_own_folded", "rate_before", "rate_after")
    return PerRow(found.values, found.rows, found.entities, {**found.extra, **more})


@_register(
    "concept_jaccard_refined",
    "Vocabulary overlap of concept vectors, concept tokens only",
    "concept_jaccard restricted to tokens of the concept. Not computed where neither side has one (the released code "
    "then divides by zero).",
    "lower",
    1.0,
    "few tokens: one more or less moves it far",
)
def concept_jaccard_refined(tables: Tables) -> PerRow:
    """Jaccard index of the concept's tokens per vector; vectors without any are unscored."""
    missing = "no concept vector has a token of its concept among its 200, before or after"
    found = traces(tables, "refined_own", missing)
    return PerRow(found.values, found.rows, found.entities, {**found.extra, **mean_of(tables, "refined_original")})
