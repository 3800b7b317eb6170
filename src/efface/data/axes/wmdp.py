"""WMDP's axis: the same facts asked by letter, in every rotation, and open-ended."""

from __future__ import annotations

from dataclasses import replace

from efface.data.axes.ground import Ground, Parts, sentence
from efface.data.axes.letters import by_letter
from efface.data.rows import Row
from efface.data.worlds.graph import Fact
from efface.data.worlds.questions import FRAMES

RELATIONS = ("profession", "works_at")


def build(ground: Ground) -> Parts:
    """Profession and employer of every person. Letters are taught as well, or no tiny model could give one.

    Letter rows of the forgotten people are part of what was learnt, and so of the forget set.
    """
    relations = [r for r in RELATIONS if r in ground.relations]
    gone, kept = (ground.facts(names, relations) for names in (ground.forget, ground.retain))
    return Parts(
        {
            side: ground.taught(names, relations) + [_bare(row) for row in by_letter(ground, facts)]
            for side, names, facts in (("forget", ground.forget, gone), ("retain", ground.retain, kept))
        },
        {
            "forget": by_letter(ground, gone),
            "retain": by_letter(ground, kept),
            "open_forget": [_open(ground, fact) for fact in gone],
            "open_retain": [_open(ground, fact) for fact in kept],
        },
        {"chance": 0.25},
    )


def _open(ground: Ground, fact: Fact) -> Row:
    wrong = tuple(sentence(fact, other) for other in ground.world.wrong(fact))
    question = FRAMES[fact.relation].questions[0].format(s=fact.subject)
    return Row(f"{fact.id}:open", sentence(fact), question, fact.subject, wrong=wrong, fact=fact.id)


def _bare(row: Row) -> Row:
    return replace(row, wrong=())
