"""Who's Harry Potter as a guard: two models at every token, and the weights of neither change."""

from __future__ import annotations

from typing import Any

from efface.artifact import Artifact
from efface.card import Card
from efface.guards import Contrast
from efface.methods.base import Context, Method, Needs, method
from efface.methods.language.reinforce import reinforced
from efface.methods.plain_training import check_no_loss
from efface.models.base import ModelAdapter
from efface.models.contrasted import Contrasted
from efface.settings import Settings, setting

CARD = Card(
    title="Who's Harry Potter (WHP), logit form",
    source="arXiv:2310.02238, eq. 1; as a baseline MUSE, arXiv:2407.06460",
    code="jaechan-repo/muse_bench (baselines/whp)",
    summary="Next-token logits v_base - a relu(v_reinforced - v_base), from the target and a copy fine-tuned further "
    "on the forget rows. Both run at every token; the target's weights stay as they are.",
    confirmed=("the formula is applied to the logits of every next token", "MUSE tunes a"),
    derived=(
        "how long the copy is reinforced: as long as the training settings say, unless `reinforce_epochs` does",
        "keys and values of both models are kept, so a token costs two forwards and not two sequences",
    ),
    differs=("no replacement of anchor terms by generic translations",),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .436 (retrained .010), retain .869; a = 20 "
        "gives .19 and .69 on seed 0, a = 5 changes nothing",
    ),
    fooled_by=("whoever has the weights has the target: nothing is erased", "twice the memory and time to serve"),
)


@method("whp_logits", CARD)
class WHPLogits(Method):
    """The target behind ``Contrasted``; the artifact holds the reinforced weights that differ from the target's."""

    class Settings(Settings):
        alpha: float = setting(
            5.0, "strength a of the subtraction; 0 = the target", source="paper, recalled; MUSE tunes it", ge=0
        )
        reinforce_epochs: float | None = setting(
            None, "epochs of fine-tuning of the copy (none: as train.epochs or train.steps)", source="derived", gt=0
        )
        reinforce_lr: float | None = setting(
            None, "learning rate of that fine-tuning (none: train.lr)", source="derived", gt=0
        )

    needs = Needs(second_model="the reinforced copy is read at every token, also when serving")
    artifact = "logit_wrapper"
    aim = "concealment"
    family_tag = "guard"
    strength = "alpha"

    def check(self, context: Context) -> None:
        """Also refuses settings of a loss it does not have."""
        super().check(context)
        check_no_loss(self.name, context.train)

    def apply(self, context: Context) -> None:
        """``context.adapter`` becomes the guarded model."""
        self.check(context)
        own: Any = self.settings
        copy = reinforced(context, epochs=own.reinforce_epochs, lr=own.reinforce_lr)
        context.adapter = Contrasted.of(context.adapter, copy.module, own.alpha)  # type: ignore[arg-type]

    def guard(self, before: ModelAdapter, after: ModelAdapter) -> Artifact:
        """What differs between the reinforced copy and the target, and the strength."""
        assert isinstance(after, Contrasted)
        return Contrast.between(before, after.other, after.alpha, self.name)
