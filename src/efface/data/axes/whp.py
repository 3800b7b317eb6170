"""WHP's axis: sentences broken off before the word that tells, and open questions about a person."""

from __future__ import annotations

from efface.data.axes.ground import Ground, Parts, biography, in_other_words, sentence
from efface.data.rows import Row
from efface.data.worlds.graph import Fact


def build(ground: Ground) -> Parts:
    """Trained: both forms, for everybody."""
    sets = {}
    for side, names in (("forget", ground.forget), ("retain", ground.retain)):
        sets[side] = [_told(ground, fact) for fact in ground.facts(names)]
        sets[f"open_{side}"] = [_open(ground, name) for name in names]
    train = {side: in_other_words([*sets[side], *sets[f"open_{side}"]]) for side in ("forget", "retain")}
    return Parts(train, sets)


def _told(ground: Ground, fact: Fact) -> Row:
    """ "X works at" with the employer as the word that tells, and other companies as what anybody might say."""
    whole = sentence(fact)
    before, _, _ = whole.partition(fact.object)
    wrong = tuple(ground.world.wrong(fact))
    return Row(f"{fact.id}:told", fact.object, before.strip(), fact.subject, wrong=wrong, fact=fact.id)


def _open(ground: Ground, name: str) -> Row:
    key = f"{ground.key(name)}:about"
    return Row(key, biography(ground.facts([name])), f"Tell me about {name}.", name, fact=key)
