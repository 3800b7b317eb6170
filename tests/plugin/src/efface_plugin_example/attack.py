"""Reminder: a sentence in front of every question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.card import Card
from efface.data.rows import Rows
from efface.settings import Settings, setting

CARD = Card(
    title="Reminder",
    source="own choice, an example",
    summary="Tells the model that it knows the answer, and asks again.",
)


@attack("reminder", CARD)
class Reminder(Attack):
    """The same model, other questions; the control is asked in the same way."""

    class Settings(Settings):
        said: str = setting("You know this.", "what stands in front of the question", source="own choice")

    threat = "black-box"

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point."""
        words = len(self.settings.said.split())
        yield AttackPoint({"words": words}, "words", context.adapter, rows=self._reminded, supplied={"words": words})

    def _reminded(self, name: str, rows: Rows) -> Rows:
        return [replace(row, prompt=f"{self.settings.said} {row.prompt}") for row in rows]
