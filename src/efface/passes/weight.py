"""Weight pass: two models of one lineage, tensor by tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa
import torch
from torch import Tensor

from efface.models.rounding import codes
from efface.passes.tables import WEIGHTS

GROUP = 64


def weight(a: Mapping[str, Tensor], b: Mapping[str, Tensor], rounded: Collection[str]) -> pa.Table:
    """One line per tensor of ``a`` (before) and ``b`` (after): how much moved, how far, and how many of the weights
    that moved still differ once both are rounded to 8 and 4 bits (symmetric groups of 64). ``rounded`` names the
    tensors that rounding touches; the others have null there, for they keep their change whatever it does."""
    lines = []
    for name, before in a.items():
        if not before.is_floating_point():
            continue
        x, y = before.detach().float(), b[name].detach().to(before.device).float()
        lines.append(
            {
                "name": name,
                "size": x.numel(),
                "changed": int((x != y).sum()),
                "norm_a": float(x.norm()),
                "norm_b": float(y.norm()),
                "norm_diff": float((y - x).norm()),
                "cosine": _cosine(x, y),
                **{f"buckets_{bits}": _buckets(x, y, bits) if name in rounded else None for bits in (8, 4)},
            }
        )
    return pa.Table.from_pylist(lines, schema=WEIGHTS)


def _cosine(x: Tensor, y: Tensor) -> float:
    size = float(x.norm() * y.norm())
    return 1.0 if torch.equal(x, y) else float((x * y).sum()) / size if size else 0.0


def _buckets(x: Tensor, y: Tensor, bits: int) -> int:
    """Weights that moved and whose rounding code changed, each model with its own steps. The code of a weight that
    stayed changes too where the largest weight of its group moved; that is not counted."""
    moved = (x != y).flatten(1)
    if not moved.any():
        return 0
    left = codes(x, bits, GROUP)[0] != codes(y, bits, GROUP)[0]
    return int((left.flatten(1)[:, : moved.shape[1]] & moved).sum())
