"""KL-min: ascent on what is to be forgotten, while predictions on what is to be kept stay where they were."""

from __future__ import annotations

from torch import Tensor

from efface.card import Card
from efface.engine.losses import kl_to_reference
from efface.engine.view import View
from efface.methods.base import LossMethod, Needs, method

CARD = Card(
    title="KL minimisation",
    source="TOFU arXiv:2401.06121 (KL Minimization)",
    code="locuslab/tofu (forget_loss: KL)",
    summary="-CE(forget) + KL(ref || model) on retain rows, ref = the model before unlearning.",
    confirmed=("reference first in the KL", "both weights 1"),
    derived=("the reference distribution is kept as its 256 likeliest tokens plus one bucket for the rest",),
    differs=("mean over answer tokens; the released routine also averages over prompt and padding",),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .003 (retrained .010), retain .952",),
    fooled_by=("the forget term is unbounded",),
)


@method("kl_min", CARD)
class KLMin(LossMethod):
    """-mean_tokens CE(forget) + mean_tokens KL(ref || model)(retain)."""

    families = ("causal_lm", "classifier")
    family_tag = "divergence"
    needs = Needs(retain=True, top=("retain",))

    def forget_loss(self, view: View) -> Tensor:
        """Token-mean log-likelihood, to be minimised."""
        return view.mean_tokens(view.logp)

    def retain_loss(self, view: View) -> Tensor:
        """Token-mean KL to the model before unlearning; 0 at the start."""
        return view.mean_tokens(kl_to_reference(view))
