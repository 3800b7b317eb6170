"""TNPO: NPO token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Needs, method
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="Token-wise NPO",
    source="arXiv:2502.19301",
    code="tmlr-group/G-effect (tnpo)",
    summary="Gradient ascent with the constant weight 2 p^b / (p^b + ref^b) at each token: NPO applied to tokens, "
    "not rows.",
    confirmed=("weight detached", "beta 4 when none is given", "mean over answer tokens"),
    derived=("the weight is computed as 2 sigmoid(b (log p - log ref)), which is the same and cannot overflow",),
    differs=("no 1e-5 in the denominator, which in the code turns the weight off where both probabilities are tiny",),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .006 (retrained .010), retain .993",),
)


@method("tnpo", CARD)
class TNPO(WithRetain):
    """mean_tokens sg(2 p^b / (p^b + ref^b)) log p + retain term.

    Its gradient is that of (2/b) softplus(b log(p/ref)) = -(2/b) log sigmoid(-b log(p/ref)) per token.
    """

    class Settings(RetainSettings):
        beta: float = setting(4.0, "inverse temperature b; -> 0 is gradient ascent", source="G-effect code", ge=0)

    needs = Needs(retain=True, logp=("forget",))
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """Weighted log-likelihood, to be minimised."""
        weight = 2 * torch.sigmoid(self.settings.beta * (view.logp.detach() - view.ref_logp))
        return view.mean_tokens(weight * view.logp)
