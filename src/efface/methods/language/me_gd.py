"""ME+GD: push predictions on forget rows towards the uniform distribution, and train on retain rows."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Context, Needs, method
from efface.methods.language.whole_text import mean_row_tokens, whole
from efface.methods.plain_training import check_no_stop
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="Maximising entropy with gradient descent (ME+GD)",
    source="arXiv:2410.08109",
    code="sail-sg/closer-look-LLM-unlearning",
    summary="0.1 KL(uniform || p) at every token of the forget rows, question included, + cross-entropy on retain "
    "rows.",
    confirmed=(
        "KL from the uniform distribution to the model",
        "all tokens, question included (mask: false)",
        "forget weight 0.1, retain weight 1, lr 1e-5, 5 epochs, batch 4 x 4",
    ),
    differs=(
        "real tokens only: with mask false the released code also counts padding",
        "each row counts the same when all tokens are used",
    ),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .007 (retrained .010), retain .993",),
    fooled_by=("bounded below by 0 but the logits need not stay small elsewhere: watch neighbours",),
)


@method("me_gd", CARD)
class MEGD(WithRetain):
    """weight * mean KL(uniform || p) + retain term; KL = logsumexp z - mean z - log V."""

    class Settings(RetainSettings):
        weight: float = setting(0.1, "weight of the forget term", source="ME+GD script, forget_coeff", gt=0)
        where: Literal["all", "answer"] = setting(
            "all", "positions: every token of the row, or those of the answer", source="ME+GD script: all"
        )

    needs = Needs(retain=True)
    family_tag = "divergence"

    def check(self, context: Context) -> None:
        """Also refuses train.stop_nll when all tokens are used: the likelihood of the answers is then not computed."""
        super().check(context)
        if self.settings.where == "all":
            check_no_stop(self.name, context.train)

    def forget_loss(self, view: View) -> Tensor:
        """KL to the uniform distribution, reference first."""
        everywhere = self.settings.where == "all"
        seen = whole(view) if everywhere else view
        if not everywhere:
            _ = view.logp  # the loop logs it as forget_nll and compares it with stop_nll
        logits = seen.logits
        kl = torch.logsumexp(logits, -1) - logits.mean(-1) - math.log(logits.shape[-1])
        return self.settings.weight * (mean_row_tokens(seen, kl) if everywhere else seen.mean_tokens(kl))
