"""Unlearning that stays inside the rounding buckets: the weights move, the rounded weights do not. Planted in the
ladder as the case that rounding attacks exist for (arXiv 2410.16454: Q(w_U) = Q(w_O)), made as arXiv 2405.18137 makes
models whose behaviour changes when they are quantised."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.errors import SpecError
from efface.methods.base import Context
from efface.methods.general.grad_diff import GradDiff
from efface.models.rounding import roundable

GROUP = 64  # inputs of a step: the default of round_weights, and the block of NF4
EDGE = 1e-3  # of the distance between two levels: how far from a bucket's border weights are kept
NF4 = (
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)
"""Levels of NF4 (arXiv 2305.14314, appendix E), as shares of the largest weight of a block."""


def levels(bits: int) -> Tensor:
    """Float[2^bits]: levels of symmetric round-to-nearest, as shares of the largest weight of a group."""
    half = 2 ** (bits - 1)
    return torch.arange(-half, half) / half


def bounds(weight: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """(lowest, highest) Float[out, in] that each weight may become and still be stored as the same level of ``grid``
    (Float, rising). The largest weights of a group set its scale and may not move."""
    if weight.shape[1] % GROUP:
        raise SpecError(
            "testing.bucket-width",
            f"A layer has {weight.shape[1]} inputs, which is no multiple of {GROUP}.",
            "choose a model whose widths are.",
        )
    parts = weight.detach().float().reshape(-1, GROUP)
    top = parts.abs().amax(1, keepdim=True)
    grid = grid.to(parts.device)
    place = ((parts / top)[..., None] - grid).abs().argmin(-1)
    middle, slack = (grid[1:] + grid[:-1]) / 2, EDGE * (grid[1:] - grid[:-1])
    ends = grid.new_tensor([1.0])
    low = torch.cat([-ends, middle + slack])[place] * top
    high = torch.cat([middle - slack, ends])[place] * top
    fixed = parts.abs() == top
    low, high = torch.where(fixed, parts, low), torch.where(fixed, parts, high)
    return torch.minimum(low, parts).reshape(weight.shape), torch.maximum(high, parts).reshape(weight.shape)


class InsideBuckets(GradDiff):
    """GradDiff whose weights go back into the buckets they started in after every step: of 4 and 3 bits and of NF4, all
    at once. Train matrices only (``train.select.modules``): norms and embeddings are not rounded and would carry it.

    Of the small updates that unlearning makes by itself, rounding brings none back on the tiny model, because the few
    weights that change their bucket carry on average the whole update; here none does.
    """

    name = "inside-buckets"
    families = ("causal_lm",)
    grids = (levels(4), levels(3), torch.tensor(NF4))

    def start(self, context: Context) -> None:
        """Note the buckets of every weight that is rounded."""
        super().start(context)
        self._weights = roundable(context.adapter)
        self._bounds: dict[str, tuple[Tensor, Tensor]] = {}
        for name, p in self._weights.items():
            lows, highs = zip(*(bounds(p, grid) for grid in self.grids), strict=True)
            self._bounds[name] = torch.stack(lows).amax(0), torch.stack(highs).amin(0)

    def after_step(self, step: int, report: dict[str, float]) -> None:
        """Back into the buckets."""
        with torch.no_grad():
            for name, p in self._weights.items():
                p.clamp_(*self._bounds[name])
