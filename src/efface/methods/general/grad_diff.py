"""GradDiff: ascent on what is to be forgotten, descent on what is to be kept."""

from __future__ import annotations

from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Needs, method
from efface.methods.retain_term import WithRetain

CARD = Card(
    title="Gradient difference",
    source="arXiv:2203.12817; TOFU arXiv:2401.06121",
    code="locuslab/open-unlearning (GradDiff); locuslab/tofu",
    summary="-CE(forget) + CE(retain), each a mean over answer tokens; weights are train.forget_weight and "
    "train.retain_weight.",
    confirmed=("forget and retain weight 1 each", "retain term NLL, KL as an option"),
    differs=(
        "KL at answer tokens only; open-unlearning also averages over prompt and padding, so its weight depends on "
        "padding",
    ),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .029 (retrained .010), retain .954",),
    fooled_by=("the forget term is unbounded; a small retain weight ends in collapse",),
    systems=("S08",),
)


@method("grad_diff", CARD)
class GradDiff(WithRetain):
    """-mean_tokens CE(forget) + retain term."""

    families = ("causal_lm", "classifier")
    family_tag = "divergence"
    needs = Needs(retain=True)

    def forget_loss(self, view: View) -> Tensor:
        """Token-mean log-likelihood, to be minimised."""
        return view.mean_tokens(view.logp)
