"""GradAscent: raise the cross-entropy on what is to be forgotten, and do nothing else."""

from __future__ import annotations

from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import LossMethod, method

CARD = Card(
    title="Gradient ascent",
    source="arXiv:2210.01504; TOFU arXiv:2401.06121",
    code="joeljang/knowledge-unlearning; locuslab/open-unlearning",
    summary="Minimises -CE at the answer tokens of the forget rows. Unbounded: it never stops by itself.",
    confirmed=("token-mean cross-entropy with its sign turned, no retain term (GradAscent of open-unlearning)",),
    differs=("the prompt is never a target (the 2022 paper works on plain text: a row without a prompt is that case)",),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .173 (retrained .010), retain .725",),
    fooled_by=(
        "collapses: with the usual ten epochs model utility is 0 on TOFU forget05 and forget10; set train.stop_nll "
        "or few steps",
    ),
)


@method("grad_ascent", CARD)
class GradAscent(LossMethod):
    """-mean_tokens CE(forget)."""

    families = ("causal_lm", "classifier")
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """Token-mean log-likelihood, to be minimised."""
        return view.mean_tokens(view.logp)
