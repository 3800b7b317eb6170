"""What representation methods share: which layer, which positions, where to steer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from efface.engine.seeds import derive
from efface.engine.settings import Select
from efface.engine.view import View
from efface.errors import NeedsError
from efface.models.base import ModelAdapter


def at_depth(adapter: ModelAdapter, share: float) -> int:
    """The layer (output of block 1..n) at a share of the depth: a published layer number, carried to another model."""
    return min(len(adapter.blocks), max(1, round(share * len(adapter.blocks))))


def check_layers(adapter: ModelAdapter, select: Select, layers: Sequence[int], name: str) -> None:
    """Refuse layers that the model does not have, and a deepest layer that no trained weight can reach."""
    count = len(adapter.blocks)
    for layer in layers:
        if not 1 <= layer <= count:
            raise NeedsError(
                "method.bad-layer",
                f"{name} is to read layer {layer} of a model with layers 1..{count}.",
                "set method.layer to one the model has, or leave it out.",
            )
    first, last = (
        (0, count - 1) if select.kind == "full" else (select.first, count - 1 if select.last is None else select.last)
    )
    before = {id(p) for block in list(adapter.blocks)[first : min(last + 1, max(layers))] for p in block.parameters()}
    named = [n for n, p in adapter.module.named_parameters() if id(p) in before]
    if not any(not select.modules or any(part in n for part in select.modules) for n in named):
        raise NeedsError(
            "method.layer-before-training",
            f"{name} reads layer {max(layers)}, but train.select trains nothing at or before it "
            f"({select.kind}, blocks {first}..{last}, modules={list(select.modules)}).",
            "train a block before the layer, or read a deeper layer.",
        )


def positions(view: View, where: Literal["all", "answer"]) -> Tensor:
    """Bool[B, T]: true positions without padding and without position 0; ``answer``: those inside the answer only."""
    return view.mask & view.batch.answer_mask if where == "answer" else view.mask


def mean_positions(values: Tensor, mask: Tensor) -> Tensor:
    """Float[B, T] -> Float[B]: mean over each row's masked positions (0 for a row without any).

    With ``view.mean_rows`` this adds over micro-batches: a row's value depends on that row alone.
    """
    return values.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)


class Steering:
    """A fixed unit direction, drawn once per run from the run's seed, and the two squared errors of RMU.

    ``coefficient`` is the length of the target c * u; ``scale`` divides both errors (squared reference norm, or the
    width, which is what a plain mean squared error divides by).
    """

    def __init__(
        self, seed: int, direction: Literal["gaussian", "positive"], coefficient: float, scale: float | None
    ) -> None:
        self.coefficient, self.scale = coefficient, scale
        self._seed, self._kind = derive(seed, "control vector"), direction
        self._unit: Tensor | None = None

    def unit(self, like: Tensor) -> Tensor:
        """Float32[width] of length 1, on the device of ``like`` (whose last dimension is the width)."""
        if self._unit is None or self._unit.device != like.device:
            draw = torch.rand if self._kind == "positive" else torch.randn
            vector = draw(like.shape[-1], generator=torch.Generator().manual_seed(self._seed))
            self._unit = (vector / vector.norm()).to(like.device)
        return self._unit

    def away(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Float[B]: ||h - c u||^2 / scale, mean over positions."""
        return self._error(hidden - self.coefficient * self.unit(hidden), mask)

    def keep(self, hidden: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        """Float[B]: ||h - h_ref||^2 / scale, mean over positions."""
        return self._error(hidden - reference, mask)

    def _error(self, difference: Tensor, mask: Tensor) -> Tensor:
        scale = difference.shape[-1] if self.scale is None else self.scale
        return mean_positions(difference.float().pow(2).sum(-1), mask) / scale
