"""TAR-lite: the forget gradient is taken after an adversary has fine-tuned on the forget rows for a few steps."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.rules.base import Gradients, Rule, rule
from efface.settings import Settings, setting

CARD = Card(
    title="TAR-lite: tamper-resistant unlearning by first-order meta-gradients",
    source="arXiv:2408.00761, algorithm 1",
    code="rishub-tamirisa/tamper-resistance",
    summary="u = g_r(theta) + scale * mean_k g_f(theta_k); theta_k = weights after k adversary steps that undo the "
    "forget loss.",
    confirmed=(
        "first-order meta-gradient, averaged over the inner steps",
        "scale 4.0",
        "retain gradient at the outer weights",
        "the tamper term is dropped where the loss after tampering is below its bound (11.76 = ln of the vocabulary)",
    ),
    derived=("the adversary takes sign steps: what AdamW's first step is, and free of the gradient's scale",),
    differs=(
        "lite: 4 inner steps instead of 64, one adversary instead of several",
        "adversary and meta step use the same rows",
        "the tamper loss is the method's forget loss, not the entropy",
        "no start from randomly mapped representations",
    ),
)


@rule("tar", CARD)
class TAR(Rule):
    """``steps`` + 1 forget passes and one retain pass a step. The adversary climbs the forget loss, whatever it is:
    with gradient ascent (method ``tar``) this is next-token fine-tuning on the forget rows."""

    class Settings(Settings):
        steps: int = setting(4, "adversary steps", source="sheet M2-7: 4-8 on this scale (paper 64)", ge=1)
        lr: float = setting(
            2e-5, "change of every weight per adversary step", source="paper: adversary lr 2e-6 to 1e-4", gt=0
        )
        scale: float = setting(
            4.0, "weight of the tamper-resistance gradient", source="code, tar_tamper_resistance_grad_scale", gt=0
        )
        bound: float = setting(
            11.76,
            "no tamper gradient while the mean forget loss after tampering is below minus this",
            source="code, tar_tamper_resistance_loss_lower_bound",
            gt=0,
        )

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """Accumulate the forget gradient along the adversary's path, then add the retain gradient."""
        towards = gradients.forget()
        offset = [torch.zeros_like(p) for p in gradients.params]
        total, loss = [torch.zeros_like(p) for p in gradients.params], 0.0
        for _ in range(self.settings.steps):
            self._tamper(offset, towards)
            with gradients.at(offset):
                towards = gradients.forget()
            loss += gradients.losses["forget"] / self.settings.steps
            for t, g in zip(total, towards, strict=True):
                t.add_(g, alpha=self.settings.scale / self.settings.steps)
        kept = loss >= -self.settings.bound
        gradients.write(total if kept else [t.zero_() for t in total])
        if gradients.has_retain:
            gradients.accumulate("retain")
        return {"loss_after_tampering": loss, "tamper_term": float(kept)}

    def _tamper(self, offset: list[Tensor], gradient: list[Tensor]) -> None:
        for o, g in zip(offset, gradient, strict=True):
            o.add_(g.sign(), alpha=self.settings.lr)
