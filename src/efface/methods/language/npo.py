"""NPO: negative preference optimisation, with and without a retain term."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Needs, method
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="Negative Preference Optimization",
    source="arXiv:2404.05868, eq. 3",
    code="licong-lin/negative-preference-optimization",
    summary="Pushes answers below the likelihood they had before unlearning; the gradient fades as a row is forgotten.",
    confirmed=("per-sequence SUMMED log-probs", "beta = 0.1", "beta -> 0 is gradient ascent plus a constant"),
    differs=("MUSE's baseline works on raw logits; this is the paper's log-ratio",),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> below .001 (retrained .010), retain .986",
    ),
    systems=("S08",),
)


@method("npo", CARD)
class NPO(WithRetain):
    """(2/beta) * mean_rows softplus(beta * (log pi(y|x) - log ref(y|x))) + retain term."""

    class Settings(RetainSettings):
        beta: float = setting(0.1, "inverse temperature; -> 0 is gradient ascent", source="paper section 4, TOFU", gt=0)
        retain: Literal["none", "nll", "kl"] = setting(
            "nll", "retain term: none (NPO), nll (NPO-RT) or kl (NPO-KL)", source="paper section 4"
        )

    needs = Needs(retain=True, nll=("forget",))
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """Eq. 3; -log sigmoid(-z) = softplus(z) with z = beta * (ref_nll - nll)."""
        beta = self.settings.beta
        return view.mean_rows(2 / beta * F.softplus(beta * (view.ref_nll - view.nll)))
