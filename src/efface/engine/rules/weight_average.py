"""Weight averaging: the model that is handed over is an average over the last steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from efface.card import Card
from efface.engine.rules.base import Gradients, Rule, rule
from efface.settings import Settings, setting

CARD = Card(
    title="Weight averaging (WA)",
    source="arXiv:2502.05374, section 5; SWA arXiv:1803.05407",
    code="OPTML-Group/Unlearn-Smooth",
    summary="Plain sum of both gradients; at the end the weights become an average over the steps.",
    derived=(
        "exponential average by default (0.9, about the last ten steps): an equal average from the first step on "
        "(decay 1, SWA) "
        "gives back half of what a short run has forgotten",
    ),
)


@rule("weight_average", CARD)
class WeightAverage(Rule):
    """One extra copy of the trained weights in float32; no extra pass."""

    class Settings(Settings):
        decay: float = setting(
            0.9,
            "share of the old average kept at each step; 0 = last weights, 1 = equal weights (SWA)",
            source="derived",
            ge=0,
            le=1,
        )
        start: int = setting(
            0, "steps before averaging begins; a shorter run keeps its last weights", source="derived", ge=0
        )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.step = 0
        self.average: list[Tensor] = []

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """Sum of both sides."""
        for p in gradients.params:
            p.grad = None
        gradients.accumulate("forget")
        if gradients.has_retain:
            gradients.accumulate("retain")
        return {"averaged_steps": float(max(0, self.step - self.settings.start))}

    def after_update(self, params: Sequence[nn.Parameter]) -> None:
        """Fold the new weights into the average."""
        self.step += 1
        count = self.step - self.settings.start
        if count < 1:
            return
        if count == 1:
            self.average = [p.detach().float().clone() for p in params]
            return
        share = 1 / count if self.settings.decay == 1 else 1 - self.settings.decay
        self.average = [
            a.to(p.device).lerp_(p.detach().float(), share) for a, p in zip(self.average, params, strict=True)
        ]

    def finish(self, params: Sequence[nn.Parameter]) -> None:
        """Put the average into the weights."""
        if not self.average:
            return
        with torch.no_grad():
            for a, p in zip(self.average, params, strict=True):
                p.copy_(a)

    def state(self) -> dict[str, Tensor]:
        """Step count and average."""
        return {"step": torch.tensor(self.step)} | {f"average.{i}": a for i, a in enumerate(self.average)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore both; the average goes to the device of the weights at the next update."""
        self.step = int(state["step"])
        self.average = [state[f"average.{i}"].clone() for i in range(len(state) - 1)]
