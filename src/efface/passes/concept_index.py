"""Concept index: which value vectors of a model hold which concept (ConceptVectors, arXiv 2406.11614, without a judge).

For each concept c with token set S_c a vector scores |top-20(E v) and S_c| / min(20, |S_c|); it is a candidate above
the 99.9th percentile of sets drawn by chance, and confirmed if noise on it alone costs the concept at least three times
what noise on matched random vectors does. Where nothing is confirmed, the ``R_FALLBACK`` vectors of the largest
activation x gradient stand in, and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from efface.data.rows import Row
from efface.engine.seeds import derive
from efface.metrics.base import NotComputed
from efface.passes.attribution_of_values import attributed
from efface.passes.concept_tokens import Concepts, concepts
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import score
from efface.passes.value_vectors import head, noised, top_tokens, values

TOP, PERMUTATIONS, PERCENTILE = 20, 200, 99.9
CANDIDATES, CONTROLS, FACTOR, NOISE = 5, 3, 3.0, 3.0  # noise in units of the vector's root mean square
LEAST = 1e-3  # nats: what a random vector's noise costs at least, so that nothing is three times nothing
R_FALLBACK = 10
_S = pa.string()
INDEX = pa.schema(
    [
        ("row", _S),  # number of the concept / layer / column
        ("entity", _S),  # the concept
        ("layer", pa.int32()),  # block, from 1
        ("column", pa.int32()),
        ("sign", pa.int32()),  # -1: minus the vector raises the concept's tokens
        ("located", pa.bool_()),  # found by its tokens; neither this nor the next: by attribution
        ("given", pa.bool_()),  # brought by the benchmark
        ("score", pa.float32()),  # share of the concept's tokens among the 20 raised (or lowered) most
        ("threshold", pa.float32()),  # 99.9th percentile by chance
        ("drop", pa.float32()),  # nats per answer token that noise on this vector costs the concept
        ("drop_others", pa.float32()),  # ... and the other concepts (null here and below: not worked out, too little)
        ("drop_random", pa.float32()),  # ... noise on random vectors of the layer costs the concept
        ("used", pa.bool_()),
        ("ids", pa.list_(pa.int32())),  # the concept's tokens
    ]
)


@dataclass(frozen=True)
class Found:
    """One vector of one concept; fields as in ``INDEX``."""

    entity: str
    layer: int
    column: int
    located: bool = False
    given: bool = False
    score: float | None = None
    threshold: float | None = None
    drop: float | None = None
    drop_others: float | None = None
    drop_random: float | None = None
    used: bool = True
    sign: int = 1


@table_pass("concept_index", version=3)
def concept_index(given: PassInput) -> pa.Table:
    """The vectors of the model at hand, one line per candidate. A benchmark that brings its own records
    (``world.concept_vectors``: {concept, layer, column}) is taken at its word."""
    known = concepts(given.adapter, given.rows)  # type: ignore[arg-type]
    if not known.sets:
        raise NotComputed("no answer has a token of its own that its question and the other answers lack")
    brought = getattr(given.world, "concept_vectors", None)
    if brought:
        found = [Found(r["concept"], int(r["layer"]), int(r["column"]), given=True) for r in brought]
    else:
        found = locate(given.adapter, given.rows, known, seed=given.seed)  # type: ignore[arg-type]
    number = {name: i for i, name in enumerate(dict.fromkeys(one.entity for one in found))}
    lines = [
        asdict(one)
        | {"row": f"{number[one.entity]}/{one.layer}/{one.column}", "ids": sorted(known.sets.get(one.entity, ()))}
        for one in found
    ]
    return pa.Table.from_pylist(lines, schema=INDEX)


def locate(adapter: Any, rows: Sequence[Row], known: Concepts, *, seed: int = 0) -> list[Found]:
    """Candidates of every concept with what noise on them costs; for a concept without a confirmed one, the
    ``R_FALLBACK`` vectors of the largest attribution."""
    raised = _tops(adapter)
    width = [v.shape[1] for v in values(adapter)]
    before, found = _by_row(adapter, rows), []
    for name, tokens in known.sets.items():
        scores, signs, threshold = _scores(raised, tokens, known.pool, adapter, derive(seed, "concept sets", name))
        best = [int(i) for i in np.argsort(-scores, kind="stable")[:CANDIDATES] if scores[i] > threshold]
        mine = []
        for i in best:
            layer, column = _place(i, width)
            drop, others, chance = _costs(adapter, rows, before, known.rows[name], layer, column, width, seed)
            used = chance is not None and drop >= FACTOR * max(chance, LEAST)
            mine.append(
                Found(
                    name,
                    layer,
                    column,
                    True,
                    False,
                    float(scores[i]),
                    threshold,
                    drop,
                    others,
                    chance,
                    used,
                    int(signs[i]),
                )
            )
        if not any(one.used for one in mine):
            own = [rows[i] for i in known.rows[name]]
            mine += [Found(name, layer, column) for layer, column in attributed(adapter, own, R_FALLBACK)]
        found += mine
    return found


def _tops(adapter: Any) -> tuple[np.ndarray, np.ndarray]:
    """Int[vectors, 20] of all blocks after one another: the tokens that each vector raises most, and lowers most (a
    gated MLP writes a vector with either sign)."""
    embedding = head(adapter)
    up, down = zip(*(top_tokens(v.T, embedding, TOP) for v in values(adapter)), strict=True)
    return np.concatenate(up), np.concatenate(down)


def _scores(
    tops: tuple[np.ndarray, np.ndarray], tokens: frozenset[int], pool: Sequence[int], adapter: Any, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """(score of every vector, the better of its two signs; that sign; what 99.9% of scores by chance do not exceed).
    Sets by chance have the concept's size; they come from the pool, or from all tokens where it is less than twice as
    large."""
    size = head(adapter).shape[0]
    rng = np.random.default_rng(seed)
    source = np.asarray(pool) if len(pool) >= 2 * len(tokens) else np.arange(size)

    def against(chosen: np.ndarray) -> np.ndarray:
        member = np.zeros(size, dtype=bool)
        member[chosen] = True
        return np.stack([member[side].sum(1) for side in tops]) / min(TOP, len(tokens))

    draws = [against(rng.choice(source, len(tokens), replace=False)).max(0) for _ in range(PERMUTATIONS)]
    up, down = against(np.fromiter(tokens, dtype=np.int64))
    return np.maximum(up, down), np.where(up >= down, 1, -1), float(np.percentile(np.concatenate(draws), PERCENTILE))


def _place(index: int, width: Sequence[int]) -> tuple[int, int]:
    """(layer from 1, column) of a vector's number over all blocks."""
    for layer, count in enumerate(width, 1):
        if index < count:
            return layer, index
        index -= count
    raise IndexError(index)


def _by_row(adapter: Any, rows: Sequence[Row]) -> np.ndarray:
    """Mean log-prob of each row's answer."""
    return np.array([np.mean(lp) if lp else np.nan for lp in score(adapter, rows).tokens["lp"].to_pylist()])


def _costs(
    adapter: Any,
    rows: Sequence[Row],
    before: np.ndarray,
    own: Sequence[int],
    layer: int,
    column: int,
    width: Sequence[int],
    seed: int,
) -> tuple[float, float | None, float | None]:
    """Nats per token lost by (the concept, the other rows, the concept under noise on random vectors of the layer). The
    last two are not worked out where the first is too small to count whatever they are."""
    mine = np.zeros(len(rows), dtype=bool)
    mine[list(own)] = True
    own_rows, other_rows = ([r for r, m in zip(rows, mine, strict=True) if bool(m) is side] for side in (True, False))
    drop = float(np.nanmean(before[mine] - _under_noise(adapter, own_rows, layer, column, seed)))
    if not drop >= FACTOR * LEAST:
        return drop, None, None
    order = np.random.default_rng(derive(seed, "controls", layer)).permutation(width[layer - 1])
    random = [int(c) for c in order if c != column][:CONTROLS]
    chance = [np.nanmean(before[mine] - _under_noise(adapter, own_rows, layer, c, seed)) for c in random]
    gone = before[~mine] - _under_noise(adapter, other_rows, layer, column, seed) if other_rows else np.array([np.nan])
    return drop, float(np.nanmean(gone)), float(np.mean(chance))


def _under_noise(adapter: Any, rows: Sequence[Row], layer: int, column: int, seed: int) -> np.ndarray:
    with noised(adapter, layer, column, gaussian(adapter, layer, column, seed)):
        return _by_row(adapter, rows)


def gaussian(adapter: Any, layer: int, column: int, seed: int, scale: float = NOISE) -> Tensor:
    """Noise Float[width] for one vector, ``scale`` times as large as it (root mean square)."""
    vector = values(adapter)[layer - 1][:, column]
    generator = torch.Generator().manual_seed(derive(seed, "noise", layer, column))
    return scale * vector.pow(2).mean().sqrt().cpu() * torch.randn(len(vector), generator=generator)
