"""NPO+IRM: NPO with an invariance penalty, so that later fine-tuning does not undo it."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import LossMethod, Needs, method
from efface.settings import Settings, setting

CARD = Card(
    title="Invariant LLM unlearning (NPO+IRM, ILU)",
    source="arXiv:2506.01339; IRMv1 arXiv:1907.02893",
    code="OPTML-Group/Unlearn-ILU",
    summary="NPO + retain NLL + gamma * ||d/dw CE(w * logits) at w = 1||^2 on fine-tuning rows.",
    confirmed=(
        "IRMv1: the penalty is the squared gradient with respect to a scalar classifier fixed at 1",
        "gamma 0.1 to 2",
    ),
    derived=(
        "closed form: d/dw CE(w z) at w = 1 is E_p[z] - z_y per token, so no second-order graph is needed",
        "every row is its own environment: the derivative is averaged over a row's tokens, squared, then averaged "
        "over rows; "
        "this adds over micro-batches, the square of a batch mean would not",
        "the rows of the penalty are the retain rows (the paper takes 48 rows of GSM8K)",
    ),
    differs=("per-sequence summed log-probs in NPO",),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .001 (retrained .010), retain .988",),
    systems=("S08",),
)


@method("npo_irm", CARD)
class NPOIRM(LossMethod):
    """NPO (arXiv:2404.05868, eq. 3) + token-mean retain NLL + gamma * IRMv1."""

    class Settings(Settings):
        beta: float = setting(0.1, "inverse temperature of NPO", source="NPO paper", gt=0)
        gamma: float = setting(
            1.0,
            "weight of the invariance penalty; 0 = NPO with a retain term",
            source="'Full-Stack' study: 0.1 to 2",
            ge=0,
        )
        rows: Literal["retain", "forget", "both"] = setting(
            "retain", "rows that stand for later fine-tuning", source="derived"
        )

    needs = Needs(retain=True, nll=("forget",))
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """(2/beta) mean_rows softplus(beta (log pi - log ref)), plus the penalty where it is on the forget rows."""
        npo = view.mean_rows(2 / self.settings.beta * F.softplus(self.settings.beta * (view.ref_nll - view.nll)))
        return npo + self._penalty(view) if self.settings.rows != "retain" else npo

    def retain_loss(self, view: View) -> Tensor:
        """Token-mean cross-entropy, plus the penalty where it is on the retain rows."""
        nll = view.mean_tokens(-view.logp)
        return nll + self._penalty(view) if self.settings.rows != "forget" else nll

    def _penalty(self, view: View) -> Tensor:
        return self.settings.gamma * view.mean_rows(irm_penalty(view))


def irm_penalty(view: View) -> Tensor:
    """Float[B]: (mean over the row's label tokens of E_p[z] - z_y)^2. Shifting all logits changes nothing."""
    logits = view.logits
    gold = logits.gather(1, view.batch.label_id[:, None]).squeeze(1)
    slope = (logits.softmax(-1) * logits).sum(-1) - gold
    return (view.sum_by_row(slope) / view.lengths).pow(2)
