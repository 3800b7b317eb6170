"""Rounding that looks at what a layer is given: GPTQ and AWQ, written from the papers. Our own code: of the libraries,
gptqmodel has no wheels and autoawq is no longer maintained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.attacks.layer_inputs import linear_layers, read_inputs
from efface.data.rows import Rows
from efface.errors import NeedsError
from efface.models.base import ModelAdapter
from efface.models.rounding import round_tensor

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
STEP_FLOOR = 1e-12  # as in models.rounding


@dataclass
class Inputs:
    """What is kept of a layer's inputs x: sum of x x^T, Float32[in, in]; sum of |x|, Float32[in]; how many."""

    products: Tensor
    sizes: Tensor
    count: int = 0

    @classmethod
    def none(cls, width: int, device: torch.device) -> Inputs:
        """Nothing seen yet."""
        return cls(torch.zeros(width, width, device=device), torch.zeros(width, device=device))

    def add(self, x: Tensor) -> None:
        """Take in Float32[n, in]."""
        self.products += x.T @ x
        self.sizes += x.abs().sum(0)
        self.count += len(x)

    def error(self, change: Tensor) -> float:
        """sum over inputs of ||change x||^2, ``change`` Float[out, in]."""
        return float(torch.einsum("oi,ij,oj->", change, self.products, change))


Rounder = Callable[[Tensor, Inputs, int, int], Tensor]


def gptq(weight: Tensor, inputs: Inputs, bits: int, group: int, damp: float = 0.01) -> Tensor:
    """GPTQ (arXiv:2210.17323): columns are rounded one after the other, and what each rounding does to the outputs is
    made up for by the columns that are still free.

    H = 2 X X^T + damp * mean(diag) I. With U the upper Cholesky factor of H^-1 and e = (w_j - q_j) / U_jj, the free
    columns become w_k - e U_jk. Steps are those of round-to-nearest (``models.rounding``); a group's step is taken when
    its first column is reached. ``weight`` Float[out, in]; the result has its shape and dtype.
    """
    w = weight.detach().double()
    factor = _factor(inputs.products, damp)
    half, width = 2 ** (bits - 1), w.shape[1]
    step = _step(w, half)
    if group < 0:
        step = step.amax().expand_as(step)
    out = torch.empty_like(w)
    for j in range(width):
        if group > 0 and j % group == 0:
            step = _step(w[:, j : j + group], half)
        out[:, j] = step * (w[:, j] / step).round().clamp(-half, half - 1)
        error = (w[:, j] - out[:, j]) / factor[j, j]
        w[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return out.to(weight.dtype)


def _factor(products: Tensor, damp: float) -> Tensor:
    """Upper Cholesky factor of the inverse damped Hessian; an input that is never there gets the mean curvature."""
    h = 2 * products.double()
    mean = h.diagonal().mean().clamp(min=1e-12)
    h = h + torch.diag(damp * mean + mean * (h.diagonal() == 0))
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)


def _step(part: Tensor, half: int) -> Tensor:
    """Float[out]: max|w| / 2^(bits - 1) of each row."""
    return part.abs().amax(1).clamp(min=STEP_FLOOR) / half


def awq(weight: Tensor, inputs: Inputs, bits: int, group: int) -> Tensor:
    """AWQ (arXiv:2306.00978): channel c is scaled by s_c = mean|x_c|^alpha before rounding and back after it, so that
    channels with large inputs are rounded finely. alpha of ``ALPHAS`` with the least output error; alpha 0 is
    round-to-nearest. Scales are divided by sqrt(max s min s), as in the authors' code."""
    w = weight.detach().float()
    mean = (inputs.sizes / max(1, inputs.count)).clamp(min=1e-4)
    best, least = w, float("inf")
    for alpha in ALPHAS:
        scale = mean**alpha
        scale = scale / (scale.max() * scale.min()).sqrt() if alpha else torch.ones_like(scale)
        tried = round_tensor(w * scale, bits, group) / scale
        if (error := inputs.error(tried - w)) < least:
            best, least = tried, error
    return best.to(weight.dtype)


ROUNDERS: dict[str, Rounder] = {"gptq": gptq, "awq": awq}


def round_calibrated(adapter: ModelAdapter, rows: Rows, kind: str, bits: int, group: int) -> None:
    """Round the linear layers of every block in place, first block first, each on the inputs that the rounded blocks
    before it give. ``NeedsError`` attack.no-linear-layers where the blocks hold none."""
    if not any(linear_layers(block) for block in adapter.blocks):
        raise NeedsError(
            "attack.no-linear-layers",
            "The blocks of this model hold no linear layers that calibrated rounding knows.",
            "set round_weights.calibrate to none.",
        )
    for depth, block in enumerate(adapter.blocks, start=1):
        layers = linear_layers(block)
        seen = {n: Inputs.none(m.in_features, m.weight.device) for n, m in layers.items()}
        read_inputs(adapter, rows, layers, lambda name, x, seen=seen: seen[name].add(x), depth=depth)
        for name, layer in layers.items():
            with torch.no_grad():
                layer.weight.copy_(ROUNDERS[kind](layer.weight, seen[name], bits, group))
