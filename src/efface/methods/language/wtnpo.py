"""WTNPO: token-wise NPO whose weight also fades as a token is forgotten."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Needs, method
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="Weighted token-wise NPO",
    source="arXiv:2502.19301",
    code="tmlr-group/G-effect (wtnpo)",
    summary="Gradient ascent with the constant weight 2 p^(a+b) / (p^b + ref^b) at each token.",
    confirmed=("weight detached", "beta 4 when none is given", "mean over answer tokens"),
    derived=(
        "a = 1.5 is taken from our notes on the paper; the code reads it from the name of the loss",
        "the weight is computed as 2 sigmoid(b (log p - log ref)) exp(a log p)",
    ),
    differs=("no 1e-5 in the denominator",),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .009 (retrained .010), retain .995",),
)


@method("wtnpo", CARD)
class WTNPO(WithRetain):
    """mean_tokens sg(2 p^(a+b) / (p^b + ref^b)) log p + retain term; a = 0 is TNPO."""

    class Settings(RetainSettings):
        beta: float = setting(4.0, "inverse temperature b", source="G-effect code", ge=0)
        alpha: float = setting(1.5, "extra exponent a of p; 0 = TNPO", source="sheet M2-9", ge=0)

    needs = Needs(retain=True, logp=("forget",))
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """Weighted log-likelihood, to be minimised."""
        logp = view.logp.detach()
        weight = 2 * torch.sigmoid(self.settings.beta * (logp - view.ref_logp)) * torch.exp(self.settings.alpha * logp)
        return view.mean_tokens(weight * view.logp)
