"""SAM: the forget gradient is taken where the forget loss is locally worst, so that it ends in a flat region."""

from __future__ import annotations

import torch

from efface.card import Card
from efface.engine.rules.base import Gradients, Rule, norm, rule
from efface.settings import Settings, setting

CARD = Card(
    title="Sharpness-aware unlearning (SAM)",
    source="arXiv:2502.05374, section 4; SAM arXiv:2010.01412",
    code="OPTML-Group/Unlearn-Smooth",
    summary="u = g_f(theta + e) + g_r(theta) with e = rho * g_f(theta) / ||g_f(theta)||: one ascent step, then the "
    "gradient there.",
    confirmed=(
        "e from the forget gradient only, one global norm",
        "retain gradient at unperturbed weights",
        "plain sum of the two afterwards",
    ),
    derived=("a forget gradient of exactly zero is left unperturbed instead of dividing by zero",),
    differs=("weights are restored from a copy, so to the same bits; the released code subtracts e again",),
)


@rule("sam", CARD)
class SAM(Rule):
    """Two forget passes and one retain pass a step."""

    class Settings(Settings):
        rho: float = setting(
            0.01,
            "length of the perturbation (L2 over all trained weights); 0 = plain sum",
            source="Unlearn-Smooth MUSE script 0.01; its WMDP configs 0.1; paper grid 0.001-0.1",
            ge=0,
        )

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """Forget gradient at theta + e, then the retain gradient at theta is added."""
        first = gradients.forget()
        size = norm(first)
        report = {"forget_gradient": float(size)}
        if self.settings.rho > 0 and size > 0:
            with gradients.at([g * (self.settings.rho / size) for g in first]):
                first = gradients.forget()
        gradients.write(first)
        if gradients.has_retain:
            gradients.accumulate("retain")
        return report
