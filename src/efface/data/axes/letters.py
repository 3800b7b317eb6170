"""Facts of the world as multiple-choice questions by letter."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from efface.data.axes.ground import Ground
from efface.data.prompts import letter_rows
from efface.data.rows import Row
from efface.data.worlds.graph import Fact
from efface.data.worlds.questions import FRAMES


def choice_question(ground: Ground, fact: Fact) -> tuple[str, str, list[str], int]:
    """(key, question, options, place of the right one), options shuffled by seed."""
    options = [fact.object, *ground.world.wrong(fact)]
    Random(f"{ground.world.seed}:options:{fact.id}").shuffle(options)
    question = FRAMES[fact.relation].questions[0].format(s=fact.subject)
    return f"{fact.id}:mcq", question, options, options.index(fact.object)


def by_letter(ground: Ground, facts: Iterable[Fact]) -> list[Row]:
    """Every rotation of the question of every fact."""
    return [row for fact in facts for row in letter_rows(*choice_question(ground, fact))]
