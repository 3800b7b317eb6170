"""UNDIAL: self-distillation from the model's own distribution with the gold token's logit lowered."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Needs, method
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="UNDIAL: self-distillation with adjusted logits",
    source="arXiv:2402.10052",
    code="dong-river/LLM_unlearning; locuslab/open-unlearning (UNDIAL)",
    summary="CE(student, softmax(z_ref - beta onehot(gold))) with the model before unlearning as the teacher: "
    "bounded and stable.",
    confirmed=(
        "beta 10, tried 3 to 30",
        "lr 1e-4, 10 epochs, LoRA r 8 alpha 16 in the paper",
        "no retain term by default",
    ),
    derived=("the teacher is kept as its 256 likeliest tokens, the gold token, and one bucket for the rest",),
    differs=(
        "answer tokens only; open-unlearning averages over prompt and padding and takes the mask value -100 as a "
        "vocabulary index there",
        "the `retain` setting replaces the weight alpha = 0",
    ),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .060 (retrained .010), retain .992",),
    fooled_by=("the teacher's second choices are taught: where they are close to the truth, so is the student",),
)


@method("undial", CARD)
class UNDIAL(WithRetain):
    """mean_tokens CE(q, model), q = softmax(z_ref - beta onehot(gold)) + optional retain term.

    Lowering one logit by beta multiplies that token's probability by e^-beta and renormalises: q_gold = p_gold e^-beta
    / Z and q_v = p_v / Z otherwise, Z = 1 - p_gold (1 - e^-beta). So q needs the reference probabilities only, of which
    the k largest are kept, p_gold (always known exactly), and the sum of the rest. The loss is the cross-entropy over
    these k + 2 buckets, -sum_b q_b log(model mass of b). As k goes to the vocabulary's size the rest bucket vanishes
    and this is the published loss; before, its KL part is a lower bound (log-sum inequality) that leaves the spread
    inside the rest free.
    """

    class Settings(RetainSettings):
        beta: float = setting(
            10.0,
            "how far the gold logit is lowered, in nats; 0 = distil the model into itself",
            source="paper; 3 to 30",
            ge=0,
        )
        retain: Literal["none", "nll", "kl"] = setting(
            "none", "retain term at label tokens: none, nll or kl", source="open-unlearning: alpha 0"
        )

    needs = Needs(logp=("forget",), top=("forget",))
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """Bucketed cross-entropy to the adjusted teacher."""
        logp = torch.log_softmax(view.logits, dim=-1)
        top, ids, tail = view.ref_top
        gold, beta = view.batch.label_id[:, None], self.settings.beta
        others = top.masked_fill(ids == gold, float("-inf"))
        # the rest bucket gives up the gold token where that is not among the k likeliest
        hidden = ~(ids == gold).any(1)
        rest = torch.where(hidden, _minus(tail, view.ref_logp), tail)
        teacher = torch.cat([others, view.ref_logp[:, None] - beta, rest[:, None]], 1).softmax(1)
        student = torch.cat([logp.gather(1, ids), view.logp[:, None]], 1)
        known = (
            student.exp().masked_fill(torch.cat([ids == gold, torch.zeros_like(gold, dtype=torch.bool)], 1), 0).sum(1)
        )
        outside = torch.log1p(-known.clamp(max=1 - 1e-6))
        return view.mean_tokens(-(teacher[:, :-1] * student).sum(1) - teacher[:, -1] * outside)


def _minus(log_a: Tensor, log_b: Tensor) -> Tensor:
    """log(e^a - e^b), at least log(1e-30)."""
    return (log_a.exp() - log_b.exp()).clamp(min=1e-30).log()
