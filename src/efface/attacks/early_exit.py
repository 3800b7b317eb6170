"""Early exit: leave out the last blocks, so that the head reads what an earlier layer knows."""

from __future__ import annotations

from collections.abc import Iterator

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.lead_in import with_edits
from efface.card import Card
from efface.data.rows import Bundle
from efface.errors import NeedsError
from efface.models.tampering import StateEdit
from efface.settings import Settings, setting

CARD = Card(
    title="Early exit (logit lens as an attack)",
    source="arXiv:2409.18025 (logit lens); nostalgebraist 2020",
    code="ethz-spylab/unlearning-vs-safety",
    summary="Skips the last k blocks: final norm and head read the state of an earlier layer, for every answer token. "
    "Suppression that sits in the last blocks is gone. Where they are read without generating, see `lens_rank`.",
    confirmed=("the final norm is applied before the head",),
    derived=("k from 1 to half of the blocks; each row counts with its best exit so far (`best`)",),
    tested=(
        "ladder, seed 0, one block of three skipped: HeadOnly .441 to .994, SmallLR .095 to .118, OneHop .001 to .002, "
        "R1 .021 to .026, R2 .011 to .012",
    ),
    fooled_by=(
        "a model whose last blocks do real work is worse without them, whatever it knows: a low curve is no sign of "
        "erasure",
    ),
)


@attack("early_exit", CARD)
class EarlyExit(Attack):
    """One more block skipped at each point."""

    class Settings(Settings):
        skipped: tuple[int, ...] | None = setting(
            None, "numbers of blocks left out at the end (none: 1 to half of them, at most six of these)"
        )
        best: bool = setting(
            True, "count each row with its best exit so far, the full model among them", source="derived"
        )

    threat = "white-box"
    version = 2

    def forwards(self, data: Bundle) -> float:
        """Every measured row at every exit."""
        return 4.0 * 7 * sum(len(rows) for rows in self.measured(data).values())

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """The model without its last 1, 2, ... blocks."""
        model, depth = context.adapter, len(context.adapter.blocks)
        for skipped in self._skipped(depth):
            edits = [StateEdit(layer, "skip") for layer in range(depth - skipped + 1, depth + 1)]
            shorter = with_edits(model, edits)  # type: ignore[arg-type]
            yield AttackPoint({"blocks_skipped": skipped}, "blocks_skipped", shorter, best=self.settings.best)

    def _skipped(self, depth: int) -> list[int]:
        if self.settings.skipped is None:
            half = depth // 2
            return sorted({round(i * half / min(6, half)) for i in range(1, min(6, half) + 1)}) if half else []
        if wrong := [k for k in self.settings.skipped if not 0 < k < depth]:
            raise NeedsError(
                "attack.no-layer",
                f"early_exit is to leave out {wrong[0]} of {depth} blocks.",
                f"name numbers from 1 to {depth - 1}.",
            )
        return list(self.settings.skipped)
