"""Gardens: who grows what. Four invented gardens, one of them to be forgotten."""

from __future__ import annotations

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.rows import Bundle, Row
from efface.settings import Settings, setting

CARD = Card(title="Gardens", source="invented, an example", summary="Three questions about each of four gardens.")
GARDENS = {
    "Mallow Yard": ("beans", "a pond", "Wednesday"),
    "Fennel Court": ("plums", "a shed", "Sunday"),
    "Sorrel Row": ("leeks", "two hens", "Monday"),
    "Quince End": ("roses", "a wall", "Friday"),
}
QUESTIONS = ("What grows in {}?", "What else is in {}?", "When does {} open?")


@benchmark("gardens", CARD)
class Gardens(Benchmark):
    """The first gardens are to be forgotten, the others kept."""

    class Settings(Settings):
        forget: int = setting(1, "how many of the four are to be forgotten", ge=1, le=3)

    def load(self) -> Bundle:
        """Training rows and evaluation rows are the same here."""
        rows = [
            Row(f"garden-{g}-{q}", f"{answer}.", question.format(name), name)
            for g, (name, answers) in enumerate(GARDENS.items())
            for q, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True))
        ]
        cut = self.settings.forget * len(QUESTIONS)
        sets = {"forget": tuple(rows[:cut]), "retain": tuple(rows[cut:])}
        bundle = Bundle("gardens", "text", sets, dict(sets))
        check_bundle(bundle)
        return bundle
