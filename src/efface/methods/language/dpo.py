"""DPO with refusals (IdkDPO): prefer "I don't know" to the gold answer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.data.rows import Rows
from efface.engine.view import View
from efface.methods.base import Context, Needs, method
from efface.methods.language.refusals import check_questions, with_refusals
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="Direct Preference Optimization with refusals (IdkDPO)",
    source="arXiv:2305.18290, eq. 7; as an unlearning baseline arXiv:2404.05868",
    code="locuslab/open-unlearning (DPO); locuslab/tofu",
    summary="Refusal preferred, gold answer rejected, each against its likelihood before unlearning; summed "
    "log-probs per row.",
    confirmed=("factor 2/beta, beta 0.1, retain NLL with weight 1",),
    differs=(
        "100 refusals of our own wording, one per row for the whole run, so that reference values are computed once",
        "TOFU's own script reads the labels of another batch by mistake and has no 2/beta",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .003 (retrained .010), retain .996",
        "family signature not shown on the small bench: 43% of forget questions are refused, 0% of retain "
        "questions; the other replies are fragments of refusals",
    ),
    fooled_by=(
        "the refusal is learned first, which is enough to lower the loss; see extraction strength, not ROUGE alone",
    ),
    systems=("S08",),
)


@method("dpo", CARD)
class DPO(WithRetain):
    """(2/beta) mean_rows softplus(-beta (Delta(refusal) - Delta(gold))) + retain term, Delta = log model - log ref."""

    class Settings(RetainSettings):
        beta: float = setting(0.1, "inverse temperature", source="open-unlearning; NPO paper", gt=0)

    needs = Needs(retain=True, nll=("forget", "idk"))
    aim = "concealment"
    family_tag = "rejection"

    def check(self, context: Context) -> None:
        """Also refuses forget rows without a question."""
        super().check(context)
        check_questions(self.name, context.forget)

    def streams(self, context: Context) -> dict[str, Rows]:
        """Each forget question with a refusal as its answer."""
        return {"idk": with_refusals(context.forget, context.seed)}

    def forget_loss(self, view: View) -> Tensor:
        """-log sigmoid(beta margin) = softplus(-beta margin)."""
        refusal, beta = view.other("idk"), self.settings.beta
        margin = (refusal.ref_nll - refusal.nll) - (view.ref_nll - view.nll)
        return view.mean_rows(2 / beta * F.softplus(-beta * margin))
