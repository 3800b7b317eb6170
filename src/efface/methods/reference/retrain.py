"""Retrain: start from the base model and train on the retain rows only. What every other method is measured against."""

from __future__ import annotations

from efface.card import Card
from efface.engine.finetune import fit
from efface.errors import NeedsError
from efface.methods.base import Context, Method, Needs, method
from efface.methods.plain_training import check_plain

CARD = Card(
    title="Retraining without the forget set (exact unlearning)",
    source="definition; TOFU arXiv:2401.06121 (retain model)",
    summary="A fresh copy of the base model is fine-tuned on the retain rows; the target's weights are not used.",
    confirmed=("never sees a forget row", "train.epochs counts passes over the retain rows"),
    derived=("trained with the settings that built the target, which the recipes repeat",),
    tested=("people on the tiny model, seeds 0-2: forget probability .010, retain .996; the target has .997 and .997",),
    fooled_by=("one seed is one draw: two retrained models differ from each other",),
)


@method("retrain", CARD)
class Retrain(Method):
    """``context.adapter`` becomes the base model trained on the retain rows."""

    needs = Needs(retain=True, base=True)
    families = ("causal_lm", "classifier")
    family_tag = "reference"
    moves = "down"

    def check(self, context: Context) -> None:
        """Also refuses settings that plain training would ignore, and LoRA (the result is no adapter on the target)."""
        super().check(context)
        check_plain(self.name, context.train)
        if context.train.select.kind == "lora":
            raise NeedsError(
                "method.no-lora",
                f"{self.name} starts from the base model, so its result is no adapter on the target.",
                "set train.select.kind to full or layers.",
            )

    def apply(self, context: Context) -> None:
        """Train a fresh base model and put it in the place of the target."""
        self.check(context)
        assert context.base is not None
        fresh = context.base()
        context.notes["training"] = fit(
            fresh,
            context.retain,
            context.train,
            seed=context.seed,
            label=self.name,
            progress=context.progress,
            checkpoints=context.checkpoints,
            log=context.log,
        )
        context.adapter = fresh
