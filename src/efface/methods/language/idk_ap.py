"""IDK+AP: refuse forget questions, and prefer the gold answer to a refusal everywhere else."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.data.rows import Rows
from efface.engine.view import View
from efface.methods.base import Context, LossMethod, Needs, method
from efface.methods.language.refusals import check_questions, with_refusals
from efface.methods.plain_training import check_no_stop
from efface.settings import Settings, setting

CARD = Card(
    title="IDK with answer preservation (IDK+AP)",
    source="arXiv:2410.08109",
    code="sail-sg/closer-look-LLM-unlearning",
    summary="Cross-entropy on refusals for forget questions + (1/beta) softplus(-beta (NLL(refusal) - NLL(gold))) "
    "on retain questions.",
    confirmed=(
        "summed NLL per row in the preservation term, factor 1/beta (not 2/beta), no reference model",
        "beta 0.1, weights 1 and 1, lr 1e-5, 5 epochs, batch 4 x 4, weight decay 0.01",
    ),
    differs=(
        "100 refusals of our own wording, one per row for the whole run; the released code gives a forget row and "
        "its retain row the same one",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .089 (retrained .010), retain .921",
        "small bench whose target knows refusals: all forget questions are refused, no retain question",
    ),
    fooled_by=("conceals: nothing pushes the gold answer out of the weights",),
    systems=("S08",),
)


@method("idk_ap", CARD)
class IDKAP(LossMethod):
    """mean_tokens CE(refusal | forget) + (1/beta) mean_rows softplus(-beta (NLL(refusal) - NLL(gold))) on retain."""

    class Settings(Settings):
        beta: float = setting(0.1, "inverse temperature of answer preservation", source="paper; code", gt=0)

    needs = Needs(retain=True)
    aim = "concealment"
    family_tag = "rejection"

    def check(self, context: Context) -> None:
        """Also refuses rows without a question, on either side, and train.stop_nll."""
        super().check(context)
        check_no_stop(self.name, context.train)
        check_questions(self.name, context.forget)
        check_questions(self.name, context.retain, "retain")

    def streams(self, context: Context) -> dict[str, Rows]:
        """Each forget question with a refusal as its answer."""
        return {"idk": with_refusals(context.forget, context.seed)}

    def retain_streams(self, context: Context) -> dict[str, Rows]:
        """Each retain question with a refusal as its answer."""
        return {"idk_retain": with_refusals(context.retain, context.seed, "retain")}

    def forget_loss(self, view: View) -> Tensor:
        """Token-mean cross-entropy on the refusals."""
        refusal = view.other("idk")
        return refusal.mean_tokens(-refusal.logp)

    def retain_loss(self, view: View) -> Tensor:
        """Answer preservation."""
        beta = self.settings.beta
        return view.mean_rows(F.softplus(-beta * (view.other("idk_retain").nll - view.nll)) / beta)
