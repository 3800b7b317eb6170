"""Parametric traces: how much of the weights moved, and whether rounding would undo it."""

from __future__ import annotations

from typing import Any

import numpy as np

from efface.card import Card
from efface.metrics.base import Direction, Need, NotComputed, Score, Tables, metric

WEIGHT = (Need("weight", rows="", others=("target",)),)
FAMILIES = ("text", "image")


def columns(tables: Tables, *names: str) -> list[np.ndarray]:
    """Columns of the weight table as Float64[tensors], rows with a null left out."""
    table = tables.weights()
    found = np.array([table[name].to_pylist() for name in names], dtype=np.float64)
    kept = found[:, ~np.isnan(found).any(axis=0)]
    if not kept.size:
        raise NotComputed("the weight table has no tensor with these statistics")
    return list(kept)


def share(part: np.ndarray, whole: np.ndarray) -> Score:
    """Sum of ``part`` over that of ``whole``, both counts of weights Float64[tensors]."""
    return Score("", "", float(part.sum() / whole.sum()), n=int(whole.sum()), extra={"weights": float(part.sum())})


def _parametric(name: str, title: str, source: str, summary: str, direction: Direction, *fooled_by: str) -> Any:
    card = Card(title, source, "", summary, fooled_by=fooled_by)
    return metric(
        name,
        needs=WEIGHT,
        card=card,
        directions={"*": direction},
        version=2,
        orientation="none",
        families=FAMILIES,
    )


@_parametric(
    "weights_moved",
    "Share of weights that moved",
    "derived",
    "Weights whose stored value differs from the target's, over all weights (tied ones once, buffers not). Near 0: the "
    "updates vanished in rounding, as with pure bf16 training at a small learning rate.",
    "higher",
    "the smallest change counts: read it with update_norm",
    "edits that move few weights on purpose",
)
def weights_moved(tables: Tables) -> Score:
    """Share of weights that differ from the target."""
    size, changed = columns(tables, "size", "changed")
    return share(changed, size)


@_parametric(
    "update_norm",
    "Relative update norm",
    "derived",
    "||W - W_target|| / ||W_target|| over all tensors together (tied ones once).",
    "match",
    "a large update is not a large effect, nor the reverse",
    "a reference of another seed is far away without having forgotten more",
)
def update_norm(tables: Tables) -> Score:
    """Frobenius norm of the difference over that of the target."""
    difference, original = columns(tables, "norm_diff", "norm_a")
    scale = float(np.sqrt(np.sum(original**2)))
    if scale == 0:
        raise NotComputed("all weights of the target are zero")
    return Score("", "", float(np.sqrt(np.sum(difference**2))) / scale, n=len(difference))


def left_buckets(tables: Tables, bits: int) -> Score:
    """Of the weights that moved, in the tensors that are rounded, the share with another code at ``bits`` bits."""
    changed, left = columns(tables, "changed", f"buckets_{bits}")
    if not changed.any():
        raise NotComputed("no rounded weight differs from the target's")
    return share(left, changed)


def _bucket(bits: int) -> None:
    @_parametric(
        f"buckets_changed_{bits}",
        f"Bucket change at {bits} bits",
        "Zhang et al. 2024, Catastrophic Failure of LLM Unlearning via Quantization (arXiv 2410.16454)",
        "Of the weights that differ from the target's and are rounded (matrices; not embeddings, head and norms), the "
        f"share that still differ after rounding to {bits} bits (symmetric, groups of 64). Near 0: rounding gives the "
        "target back.",
        "higher",
        "a few weights can matter more than all others: measure with the attack round_weights",
        "few weights moved: read it with weights_moved",
    )
    def changed(tables: Tables) -> Score:
        return left_buckets(tables, bits)


for _bits in (8, 4):
    _bucket(_bits)
