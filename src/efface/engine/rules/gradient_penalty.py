"""Gradient-norm penalty: the step also lowers ||grad of the forget loss||."""

from __future__ import annotations

import torch

from efface.card import Card
from efface.engine.rules.base import Gradients, Rule, norm, rule
from efface.settings import Settings, setting

CARD = Card(
    title="Gradient-norm penalty on the forget loss (GP)",
    source="arXiv:2502.05374, section 5",
    code="OPTML-Group/Unlearn-Smooth",
    summary="Minimises l_f + weight * ||g_f|| + l_r. The gradient of the norm is H_f g_f / ||g_f||.",
    confirmed=("penalty on the global L2 norm of the forget gradient, weight 0.01",),
    derived=("H_f v by a forward difference of the forget gradient along v: one more pass, no double backward",),
    differs=("the released code adds the norm as a detached number, so its penalty never reaches the weights",),
)


@rule("gradient_penalty", CARD)
class GradientPenalty(Rule):
    """Two forget passes and one retain pass a step."""

    class Settings(Settings):
        weight: float = setting(0.01, "weight of the penalty; 0 = plain sum", source="Unlearn-Smooth code", ge=0)
        probe: float = setting(
            1e-2, "length of the finite-difference step (L2 over all trained weights)", source="derived", gt=0
        )

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """g_f + weight * (g_f(theta + probe * v) - g_f(theta)) / probe + g_r with v = g_f / ||g_f||."""
        first = gradients.forget()
        size = norm(first)
        if self.settings.weight > 0 and size > 0:
            with gradients.at([g * (self.settings.probe / size) for g in first]):
                moved = gradients.forget()
            share = self.settings.weight / self.settings.probe
            first = [g + share * (m - g) for g, m in zip(first, moved, strict=True)]
        gradients.write(first)
        if gradients.has_retain:
            gradients.accumulate("retain")
        return {"forget_gradient": float(size)}
