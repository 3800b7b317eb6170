"""WGA: gradient ascent in which every token weighs as much as it is still known."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Needs, method
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="Weighted Gradient Ascent",
    source="arXiv:2502.19301",
    code="tmlr-group/G-effect; locuslab/open-unlearning (WGA)",
    summary="mean_t p_t^beta log p_t with the weight p_t^beta held constant: the push vanishes on forgotten tokens.",
    confirmed=("weight detached", "mean over answer tokens", "beta 1 (5 in the G-effect code), lr 1e-5, 5 epochs"),
    differs=("open-unlearning's version copies a reference model that it never uses; none is held here",),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .001 (retrained .010), retain .988",),
)


@method("wga", CARD)
class WGA(WithRetain):
    """mean_tokens sg(p^beta) log p + retain term; beta = 0 is gradient difference."""

    class Settings(RetainSettings):
        beta: float = setting(
            1.0, "exponent of the weight; 0 = plain gradient ascent", source="open-unlearning; 5 in G-effect", ge=0
        )

    needs = Needs(retain=True)
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """Weighted log-likelihood, to be minimised."""
        weight = torch.exp(self.settings.beta * view.logp.detach())
        return view.mean_tokens(weight * view.logp)
