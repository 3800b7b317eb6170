"""CE-U: cross-entropy towards the model's own distribution with the gold token taken out."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context, LossMethod, method
from efface.settings import Settings, setting

CARD = Card(
    title="Cross Entropy Unlearning (CE-U)",
    source="arXiv:2503.01224",
    code="locuslab/open-unlearning (CEU)",
    summary="Target = softmax of the model's own logits with the gold logit at -inf, held constant; forget rows "
    "only. The gradient "
    "per token is p_gold in size, so it is bounded and fades.",
    confirmed=("target detached, recomputed at every step", "first answer token left out", "no retain term", "lr 1e-5"),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .169 (retrained .010), retain .514",
        "with nothing to hold the rest, retain falls to .32 to .64; smaller or fewer steps forget less for "
        "the same loss",
    ),
    fooled_by=("drifts when run long, since nothing holds the retain rows",),
)


@method("ce_u", CARD)
class CEU(LossMethod):
    """mean over answer tokens, without the first ``skip`` of each row, of CE(softmax(logits, gold = -inf), model)."""

    class Settings(Settings):
        skip: int = setting(
            1,
            "leading answer tokens of each row that are not trained on",
            source="open-unlearning, ignore_first_n",
            ge=0,
        )

    family_tag = "divergence"

    def check(self, context: Context) -> None:
        """Also refuses rows whose answer has no token left after ``skip``."""
        super().check(context)
        for row in context.forget:
            encoded = context.adapter.encode(row)
            if not encoded.problem and encoded.labels <= self.settings.skip:
                raise NeedsError(
                    "method.answer-too-short",
                    f"{self.name} skips the first {self.settings.skip} tokens of an answer, and "
                    f"row {row.id} has {encoded.labels}.",
                    "lower method.skip or leave the row out.",
                )

    def forget_loss(self, view: View) -> Tensor:
        """Soft cross-entropy; the divisor counts the tokens that are left in the whole effective batch."""
        _ = view.logp  # the loop logs it as forget_nll and compares it with stop_nll
        logp = torch.log_softmax(view.logits, dim=-1)
        target = view.logits.detach().scatter(1, view.batch.label_id[:, None], float("-inf")).softmax(-1)
        loss = -(target * logp).sum(1)
        used = self._position(view) >= self.settings.skip
        left = view.tokens_total - self.settings.skip * view.rows_total
        return loss[used].sum() / left

    @staticmethod
    def _position(view: View) -> Tensor:
        """Long[L]: place of each label token in its row, from 0."""
        row, lengths = view.batch.label_row, view.lengths
        return torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
