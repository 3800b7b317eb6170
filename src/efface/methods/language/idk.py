"""IDK: preference optimisation in its plainest form, fine-tuning on refusals."""

from __future__ import annotations

from torch import Tensor

from efface.card import Card
from efface.data.rows import Rows
from efface.engine.view import View
from efface.methods.base import Context, Needs, method
from efface.methods.language.refusals import check_questions, with_refusals
from efface.methods.plain_training import check_no_stop
from efface.methods.retain_term import WithRetain

CARD = Card(
    title="IDK fine-tuning (PO of TOFU)",
    source="TOFU arXiv:2401.06121 (Preference Optimization)",
    code="locuslab/tofu (forget_loss: idk)",
    summary="Cross-entropy on a refusal for every forget question + cross-entropy on retain rows. The gold answers "
    "are not read.",
    confirmed=("refusals drawn at random from a list of 100", "retain cross-entropy with weight 1"),
    differs=(
        "100 refusals of our own wording",
        "one refusal per row for the whole run, drawn by its seed; the released code draws anew each time",
        "two means with a weight each; the released code takes one mean over refusal and retain tokens together",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .353 (retrained .010), retain .994",
        "small bench whose target knows refusals: all forget questions are refused, no retain question",
    ),
    fooled_by=("conceals: nothing pushes the gold answer out of the weights",),
)


@method("idk", CARD)
class IDK(WithRetain):
    """mean_tokens CE(refusal | forget question) + retain term."""

    needs = Needs(retain=True)
    aim = "concealment"
    family_tag = "rejection"

    def check(self, context: Context) -> None:
        """Also refuses forget rows without a question, and train.stop_nll."""
        super().check(context)
        check_no_stop(self.name, context.train)
        check_questions(self.name, context.forget)

    def streams(self, context: Context) -> dict[str, Rows]:
        """Each forget question with a refusal as its answer."""
        return {"idk": with_refusals(context.forget, context.seed)}

    def forget_loss(self, view: View) -> Tensor:
        """Token-mean cross-entropy on the refusals."""
        refusal = view.other("idk")
        return refusal.mean_tokens(-refusal.logp)
