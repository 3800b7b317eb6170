"""Who's Harry Potter, distilled: train towards what a model would say that never read the forget rows."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from efface.card import Card
from efface.engine.losses import kl_to_reference
from efface.engine.targets import Targets, each_row, soft_cross_entropy
from efface.engine.view import View
from efface.methods.base import Context, LossMethod, Needs, method
from efface.methods.language.reinforce import reinforced
from efface.models.base import Encoded, ModelAdapter
from efface.models.contrasted import generic
from efface.settings import Settings, setting

CARD = Card(
    title="Who's Harry Potter (WHP), distilled form",
    source="arXiv:2310.02238, section 2",
    code="jaechan-repo/muse_bench (logit form: method whp_logits)",
    summary="Reinforce a copy on the forget rows; targets v_generic = v_base - a relu(v_reinforced - v_base); distil "
    "them into the model.",
    confirmed=(
        "the logit formula, relu included (paper eq. 1 and the MUSE code)",
        "the base is the model before unlearning",
    ),
    derived=(
        "soft labels over the top k tokens of softmax(v_generic), renormalised",
        "a retain term may be added; the paper has none",
        "how long the copy is reinforced: as long as the distillation itself unless `reinforce_epochs` says otherwise",
    ),
    differs=(
        "no replacement of anchor terms by generic translations: the paper wrote its dictionary with GPT-4",
        "a = 5 is recalled, not re-read",
    ),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .064 (retrained .010), retain .983",),
)


@method("whp", CARD)
class WHP(LossMethod):
    """CE(softmax(v_generic), model) on forget answers + retain term. The reinforced copy is dropped before training."""

    class Settings(Settings):
        alpha: float = setting(
            5.0, "strength a of the subtraction; 0 = the model's own distribution", source="paper, recalled", ge=0
        )
        top: int = setting(256, "tokens kept of each target distribution", source="derived", ge=1)
        reinforce_epochs: float | None = setting(
            None,
            "epochs of fine-tuning of the copy on the forget rows (none: as train.epochs or train.steps)",
            source="derived",
            gt=0,
        )
        reinforce_lr: float | None = setting(
            None, "learning rate of that fine-tuning (none: train.lr)", source="derived", gt=0
        )
        retain: Literal["none", "nll", "kl"] = setting("nll", "retain term; none = the paper", source="derived")

    needs = Needs(retain=True, second_model="a reinforced copy, only while the targets are computed")
    family_tag = "divergence"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.targets = Targets()
        retain = self.settings.retain
        self.needs = Needs(
            retain=retain != "none", top=("retain",) if retain == "kl" else (), second_model=self.needs.second_model
        )

    def start(self, context: Context) -> None:
        """Reinforce a copy, read the targets, drop the copy."""
        usable = [e for e in (context.adapter.encode(row) for row in context.forget) if not e.problem]
        copy = reinforced(context, epochs=self.settings.reinforce_epochs, lr=self.settings.reinforce_lr)
        for at in range(0, len(usable), 16):
            self._read(context.adapter, copy, usable[at : at + 16], context.train.token_budget)

    def forget_loss(self, view: View) -> Tensor:
        """Token-mean soft cross-entropy to the generic targets."""
        _ = view.logp  # the loop logs it as forget_nll and compares it with stop_nll
        return view.mean_tokens(soft_cross_entropy(view.logits, *self.targets.of(view.batch)))

    def retain_loss(self, view: View) -> Tensor | None:
        """Token-mean cross-entropy, or KL(ref || model) at answer tokens."""
        if self.settings.retain == "none":
            return None
        return view.mean_tokens(kl_to_reference(view) if self.settings.retain == "kl" else -view.logp)

    def _read(self, base: ModelAdapter, reinforced: ModelAdapter, rows: list[Encoded], token_budget: int) -> None:
        plain: dict[int, Tensor] = {}
        each_row(base, rows, token_budget, lambda i, logits: plain.__setitem__(i, logits.float()))
        each_row(
            reinforced,
            rows,
            token_budget,
            lambda i, logits: self.targets.put(
                rows[i].row_id, generic(plain.pop(i), logits.float(), self.settings.alpha), self.settings.top
            ),
        )
