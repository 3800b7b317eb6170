"""Curvature penalty: the step also lowers how fast the forget gradient changes along itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.rules.base import Gradients, Rule, norm, rule
from efface.settings import Settings, setting

CARD = Card(
    title="Curvature regularisation of the forget loss (CR)",
    source="arXiv:2502.05374, section 5",
    code="OPTML-Group/Unlearn-Smooth",
    summary="Minimises l_f + weight * ||g_f(theta + e) - g_f(theta)|| + l_r with e = rho * g_f / ||g_f||.",
    confirmed=("e of length 0.01 along the forget gradient, held constant", "norm of the gradient difference"),
    derived=(
        "gradient of the penalty = (H(theta + e) - H(theta)) v, v the unit difference, by forward differences: "
        "four forget passes, no double backward",
    ),
    differs=("the released code adds the norm as a detached number, so its penalty never reaches the weights",),
)


@rule("curvature", CARD)
class Curvature(Rule):
    """Four forget passes and one retain pass a step."""

    class Settings(Settings):
        weight: float = setting(0.01, "weight of the penalty; 0 = plain sum", source="sheet M2-9", ge=0)
        rho: float = setting(0.01, "length of e (L2 over all trained weights)", source="Unlearn-Smooth code", gt=0)
        probe: float = setting(1e-2, "length of the finite-difference step", source="derived", gt=0)

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """g_f + weight * gradient of the penalty + g_r."""
        first = gradients.forget()
        size, bend = norm(first), torch.zeros(())
        if self.settings.weight > 0 and size > 0:
            first, bend = self._penalised(gradients, first, [g * (self.settings.rho / size) for g in first])
        gradients.write(first)
        if gradients.has_retain:
            gradients.accumulate("retain")
        return {"forget_gradient": float(size), "curvature": float(bend) / self.settings.rho}

    def _penalised(self, gradients: Gradients, here: list[Tensor], e: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        with gradients.at(e):
            there = gradients.forget()
        change = [a - b for a, b in zip(there, here, strict=True)]
        bend = norm(change)
        if not bend > 0:
            return here, bend
        step = [d * (self.settings.probe / bend) for d in change]
        with gradients.at(step):
            here_moved = gradients.forget()
        with gradients.at([a + b for a, b in zip(e, step, strict=True)]):
            there_moved = gradients.forget()
        share = self.settings.weight / self.settings.probe
        columns = zip(here, here_moved, there, there_moved, strict=True)
        return [h + share * ((tm - t) - (hm - h)) for h, hm, t, tm in columns], bend
