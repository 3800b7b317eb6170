"""Rule: receives the forget and the retain gradient before any sum and writes the composed one.

Most methods use ``sum``. Bi-level, projection and sharpness-aware methods need the two gradients apart, or need them
again at perturbed weights; they are rules, so that any loss can be combined with any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.card import Card
from efface.registry import Registry
from efface.settings import Settings, parse

RULES: Registry[type[Rule]] = Registry("rule", "efface.engine.rules")


class Gradients:
    """The two gradients of the current effective batch, computed when asked for, at the weights as they are then.

    ``forget`` and ``retain`` already carry ``forget_weight`` and ``retain_weight``. Each call is a full pass over the
    effective batch (all micro-batches, all processes); the same rows are used at every call within one step.
    """

    def __init__(self, params: Sequence[nn.Parameter], backward: Callable[[str], float], has_retain: bool) -> None:
        self.params, self.has_retain = list(params), has_retain
        self._backward = backward
        self.losses: dict[str, float] = {}

    def forget(self) -> list[Tensor]:
        """Fresh forget gradient, one tensor per parameter."""
        return self._collect("forget")

    def retain(self) -> list[Tensor]:
        """Fresh retain gradient, one tensor per parameter (zeros when the method has no retain term)."""
        return self._collect("retain") if self.has_retain else [torch.zeros_like(p) for p in self.params]

    def accumulate(self, side: str) -> None:
        """Add one side's gradient into ``.grad`` without a second buffer."""
        self.losses[side] = self._backward(side)

    def write(self, grads: Sequence[Tensor]) -> None:
        """Make ``grads`` the gradient the optimizer sees."""
        for parameter, grad in zip(self.params, grads, strict=True):
            parameter.grad = grad

    @contextmanager
    def at(self, offset: Sequence[Tensor]) -> Iterator[None]:
        """Weights moved by ``offset`` inside the block; afterwards restored to the same bits."""
        saved = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            for p, d in zip(self.params, offset, strict=True):
                p.add_(d)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, s in zip(self.params, saved, strict=True):
                    p.copy_(s)

    def _collect(self, side: str) -> list[Tensor]:
        for p in self.params:
            p.grad = None
        self.losses[side] = self._backward(side)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        for p in self.params:
            p.grad = None
        return grads


class Rule:
    """Base of update rules. ``compose`` must leave the gradient to apply in ``.grad`` and the weights unchanged.

    ``state`` / ``load_state``: tensors and figures a checkpoint must carry. ``after_update`` runs after every optimizer
    step, ``finish`` once at the end (weight averaging).
    """

    name: ClassVar[str]
    card: ClassVar[Card]

    class Settings(Settings):
        """Settings of the rule."""

    def __init__(self, **settings: Any) -> None:
        self.settings = parse(self.Settings, settings, "train.rule_settings")

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """Write the composed gradient; returns figures for the log."""
        raise NotImplementedError

    def after_update(self, params: Sequence[nn.Parameter]) -> None:
        """Called after each optimizer step."""

    def finish(self, params: Sequence[nn.Parameter]) -> None:
        """Called once when training is over."""

    def state(self) -> dict[str, Tensor]:
        """Tensors a checkpoint must carry."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state`` gave."""


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Global inner product over all parameters, float32 scalar."""
    return torch.stack([(x.float() * y.float()).sum() for x, y in zip(a, b, strict=True)]).sum()


def norm(a: Sequence[Tensor]) -> Tensor:
    """Global L2 norm, float32 scalar."""
    return dot(a, a).sqrt()


def rule(name: str, card: Card) -> Callable[[type[Rule]], type[Rule]]:
    """Register a rule class under ``name`` with its Card."""

    def add(cls: type[Rule]) -> type[Rule]:
        cls.name, cls.card = name, card
        return RULES.register(name, cls)

    return add
