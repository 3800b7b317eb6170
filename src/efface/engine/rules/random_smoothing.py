"""Randomised smoothing: the forget gradient is the mean over Gaussian copies of the weights."""

from __future__ import annotations

import torch

from efface.card import Card
from efface.engine.rules.base import Gradients, Rule, rule
from efface.settings import Settings, setting

CARD = Card(
    title="Randomised smoothing of the forget loss (RS)",
    source="arXiv:2502.05374, section 5",
    code="OPTML-Group/Unlearn-Smooth",
    summary="u = mean_k g_f(theta + n_k) + g_r(theta), n_k Gaussian.",
    confirmed=("3 noise copies, same standard deviation for every weight", "retain gradient at unperturbed weights"),
    derived=(
        "by default the noise of a tensor is scaled by its root mean square: one absolute width (0.1 in the released "
        "configs) is far larger than the weights of a small model",
    ),
    differs=("the released trainer steps the optimizer inside the rule and once more outside; here there is one step",),
)


@rule("random_smoothing", CARD)
class RandomSmoothing(Rule):
    """``copies`` forget passes and one retain pass a step."""

    class Settings(Settings):
        sigma: float = setting(
            0.01,
            "standard deviation of the noise (a share of each tensor's root mean square, or absolute)",
            source="derived; released configs use 0.1 absolute on a 7B model",
            ge=0,
        )
        relative: bool = setting(True, "scale the noise by each tensor's root mean square", source="derived")
        copies: int = setting(3, "noise copies averaged", source="Unlearn-Smooth code, n_samples", ge=1)

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """Mean forget gradient over noisy copies plus the retain gradient."""
        total: list[torch.Tensor] | None = None
        for _ in range(self.settings.copies):
            with gradients.at([self._noise(p, generator) for p in gradients.params]):
                found = gradients.forget()
            total = found if total is None else [t.add_(g) for t, g in zip(total, found, strict=True)]
        assert total is not None
        gradients.write([t.div_(self.settings.copies) for t in total])
        if gradients.has_retain:
            gradients.accumulate("retain")
        return {}

    def _noise(self, weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        width = self.settings.sigma * (weight.detach().pow(2).mean().sqrt() if self.settings.relative else 1.0)
        return torch.randn(weight.shape, generator=generator).to(weight) * width
