"""The plain weighted sum of both gradients: one accumulation buffer, nothing computed twice."""

from __future__ import annotations

import torch

from efface.card import Card
from efface.engine.rules.base import Gradients, Rule, rule


@rule(
    "sum", Card(title="Weighted sum", source="standard practice", summary="forget_weight * g_f + retain_weight * g_r")
)
class Sum(Rule):
    """Accumulates both sides into ``.grad``."""

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """Sum of both sides."""
        for p in gradients.params:
            p.grad = None
        gradients.accumulate("forget")
        if gradients.has_retain:
            gradients.accumulate("retain")
        return {}
