"""Paraphrase probe: the same question in a wording that was never trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.wording import NO_QUESTIONS, asked, reworded, supplied
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows

CARD = Card(
    title="Paraphrased question",
    source="evaluation sheets 1 and 11; arXiv:2603.11266 (paraphrase variants)",
    summary="Asks with the held-out wording that each row carries. Forgetting that hangs on one wording does not hold.",
    confirmed=("variants must be checked on the target: where it fails itself, the probe has no power",),
    derived=("rows without a held-out wording are left out",),
    tested=(
        "planted ladder 0, answer probability before and after: target 1.00, .61; HeadOnly .44, .27; SmallLR .10, .09; "
        "Guard .22, .22; references .02, .02 and .01, .01: a filter on names or a change of weights does not hang on "
        "the wording, so nothing comes back",
    ),
    fooled_by=("a wording that the target does not understand either: the target is a control for that",),
)


@attack("paraphrase", CARD)
class Paraphrase(Attack):
    """One point: the question replaced by ``Row.paraphrase``."""

    threat = "black-box"
    controls = ("reference", "target")

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """Rows that have a held-out wording."""
        return {name: [r for r in asked(rows) if r.paraphrase] for name, rows in super().measured(data).items()}

    def check(self, data: Bundle) -> str:
        """There must be questions with a second wording."""
        if not asked(data.eval.get("forget", ())):
            return NO_QUESTIONS
        return "" if self.measured(data)["forget"] else "no row to forget has a second wording (Row.paraphrase)"

    def forwards(self, data: Bundle) -> float:
        """Every row twice."""
        return 10.0 * len(self.measured(data)["forget"])

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """The held-out wording."""

        def rows(name: str, rows: Rows) -> list[Row]:
            return reworded(rows, lambda row: replace(row, prompt=row.paraphrase), context.data.world)

        before = self.measured(context.data)["forget"]
        put_in = supplied(context.adapter, before, rows("forget", before))  # type: ignore[arg-type]
        yield AttackPoint({"wordings": 1}, "wordings", context.adapter, rows=rows, supplied=put_in)
