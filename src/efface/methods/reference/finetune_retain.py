"""Fine-tuning on the retain rows: the weakest baseline, forgetting only by drift."""

from __future__ import annotations

from efface.card import Card
from efface.engine.finetune import fit
from efface.methods.base import Context, Method, Needs, method
from efface.methods.plain_training import check_plain

CARD = Card(
    title="Fine-tuning on the retain set",
    source="arXiv:1911.04933 (baseline 'fine-tune')",
    summary="The target is trained further on the retain rows; the forget rows are never used.",
    confirmed=("no forget term",),
    derived=("train.epochs counts passes over the retain rows",),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .986 (retrained .010), retain .999",),
    fooled_by=("whatever the retain rows do not push out stays: expect almost all of it",),
)


@method("finetune_retain", CARD)
class FinetuneRetain(Method):
    """Token-mean cross-entropy on the retain rows, from the target's weights."""

    needs = Needs(retain=True)
    families = ("causal_lm", "classifier")
    family_tag = "reference"
    moves = "any"

    def check(self, context: Context) -> None:
        """Also refuses settings that plain training would ignore."""
        super().check(context)
        check_plain(self.name, context.train)

    def apply(self, context: Context) -> None:
        """Train ``context.adapter`` in place."""
        self.check(context)
        context.notes["training"] = fit(
            context.adapter,
            context.retain,
            context.train,
            seed=context.seed,
            label=self.name,
            progress=context.progress,
            checkpoints=context.checkpoints,
            log=context.log,
        )
