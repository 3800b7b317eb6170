"""SimNPO: NPO without a reference model, on the length-normalised likelihood."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Needs, method
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="Simple Negative Preference Optimization",
    source="arXiv:2410.07163",
    code="OPTML-Group/Unlearn-Simple",
    summary="Pushes the per-token NLL of an answer above delta; no reference model, so long and short answers weigh "
    "the same.",
    confirmed=(
        "mean (not summed) token NLL per row inside the sigmoid",
        "factor 2/beta",
        "forget weight 0.125, beta 4.5, delta 0 on TOFU forget10; 0.1375 and 2.5 on forget05 (released config)",
    ),
    derived=("delta is the code's gamma with its sign turned into a threshold on the NLL, as in open-unlearning",),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .115 (retrained .010), retain .998",),
    fooled_by=("slow starter: with published settings it hardly leaves the target on TOFU forget01 at 1B",),
    systems=("S08",),
)


@method("simnpo", CARD)
class SimNPO(WithRetain):
    """gamma * (2/beta) * mean_rows softplus(-beta * (nll/|y| - delta)) + retain term."""

    class Settings(RetainSettings):
        beta: float = setting(4.5, "inverse temperature", source="TOFU forget10; 2.5 on forget05, 5.5 on WMDP", gt=0)
        delta: float = setting(0.0, "per-token NLL in nats above which the push fades", source="TOFU config", ge=0)
        gamma: float = setting(0.125, "weight of the forget term", source="TOFU forget10; 0.1375 on forget05", gt=0)

    needs = Needs(retain=True)
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """-log sigmoid(z) = softplus(-z), z = beta * (mean NLL - delta)."""
        chosen = self.settings
        gap = view.nll / view.lengths - chosen.delta
        return chosen.gamma * view.mean_rows(2 / chosen.beta * F.softplus(-chosen.beta * gap))
