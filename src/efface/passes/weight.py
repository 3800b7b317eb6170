"""Weight pass: two models of one lineage, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import torch
from torch import Tensor

from efface.models.rounding import codes
from efface.passes.tables import WEIGHTS

GROUP = 64


def weight(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> pa.Table:
    """One line per tensor of ``a`` (before) and ``b`` (after): how much moved, how far, and how many weights are still
    different once both are rounded to 8 and 4 bits (matrices only; symmetric groups of 64)."""
    lines = []
    for name, before in a.items():
        if not before.is_floating_point():
            continue
        x, y = before.detach().float(), b[name].detach().to(before.device).float()
        moved = int((x != y).sum())
        lines.append(
            {
                "name": name,
                "size": x.numel(),
                "changed": moved,
                "norm_a": float(x.norm()),
                "norm_b": float(y.norm()),
                "norm_diff": float((y - x).norm()),
                "cosine": _cosine(x, y),
                "buckets_8": _buckets(x, y, 8, moved),
                "buckets_4": _buckets(x, y, 4, moved),
            }
        )
    return pa.Table.from_pylist(lines, schema=WEIGHTS)


def _cosine(x: Tensor, y: Tensor) -> float:
    size = float(x.norm() * y.norm())
    return 1.0 if torch.equal(x, y) else float((x * y).sum()) / size if size else 0.0


def _buckets(x: Tensor, y: Tensor, bits: int, moved: int) -> int:
    """Weights whose rounding code changed, each model with its own steps (padding of a short group: code 0 in both)."""
    if x.dim() < 2 or not moved:
        return 0
    return int((codes(x, bits, GROUP)[0] != codes(y, bits, GROUP)[0]).sum())
