"""TAR-lite as a method: gradient ascent on the forget rows, made to hold after an adversary has fine-tuned on them."""

from __future__ import annotations

from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import LossMethod, Needs, method

CARD = Card(
    title="TAR-lite (tamper-resistant safeguards, reduced)",
    source="arXiv:2408.00761",
    code="rishub-tamirisa/tamper-resistance",
    summary="Outer step = retain NLL + 4 x the forget gradient after a few adversary steps (update rule `tar`).",
    confirmed=("first-order meta-gradient, scale 4.0", "the adversary fine-tunes on next tokens of the forget rows"),
    derived=("with the loss -CE the adversary (ascent) is exactly next-token fine-tuning",),
    differs=(
        "lite: see the Card of the update rule `tar`",
        "tamper loss -CE on answer tokens instead of the negative entropy",
        "no start from a model with randomly mapped forget states",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .001 (retrained .010), retain .947",
        "relearning on the small bench, seeds 0-2, nats per token after 20 steps: grad_diff -.85, -.71, "
        "-1.19, TAR (8 adversary steps of 5e-4) -5.37, -5.19, -5.17",
    ),
    systems=("S08",),
)


@method("tar", CARD)
class TARLite(LossMethod):
    """-CE on forget answers under the update rule ``tar`` + token-mean retain NLL."""

    needs = Needs(retain=True)
    update_rule = "tar"
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """Minus the token-mean cross-entropy."""
        return view.mean_tokens(view.logp)

    def retain_loss(self, view: View) -> Tensor:
        """Token-mean cross-entropy."""
        return view.mean_tokens(-view.logp)
