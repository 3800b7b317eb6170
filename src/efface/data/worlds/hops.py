"""Chains of facts as questions: what is reachable from a person in one, two or three steps of a knowledge graph."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from efface.data.rows import Row
from efface.data.worlds.graph import ALIAS_RELATIONS, LITERAL_RELATIONS, WRONG, Fact, World
from efface.data.worlds.literals import LITERALS
from efface.data.worlds.questions import FRAMES, Frame

PHRASES = {
    "born_in": "the birthplace of {s}",
    "works_at": "the employer of {s}",
    "studied_at": "the school of {s}",
    "spouse": "the spouse of {s}",
    "located_in": "the country of {s}",
    "based_in": "the home city of {s}",
}
"""How a step is named inside a longer question."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A simple path: ``nodes`` from the subject to what is asked for, ``relations`` between them."""

    nodes: tuple[str, ...]
    relations: tuple[str, ...]

    @property
    def subject(self) -> str:
        """Where it starts."""
        return self.nodes[0]

    @property
    def wanted(self) -> str:
        """Where it ends."""
        return self.nodes[-1]

    @property
    def named(self) -> str:
        """The relations as one: ``born_in+located_in``."""
        return "+".join(self.relations)


def chains(world: World, name: str, hops: int) -> list[Chain]:
    """All simple paths of exactly ``hops`` facts from ``name``, in the order of the facts. Aliases are no steps."""
    ends = [Chain((name,), ())]
    for _ in range(hops):
        ends = [
            Chain((*path.nodes, fact.object), (*path.relations, fact.relation))
            for path in ends
            if path.wanted in world.entities
            for fact in world.about(path.wanted)
            if fact.relation not in ALIAS_RELATIONS and fact.object not in path.nodes
        ]
    return ends


def extensions(world: World, name: str, first: str, hops: int, seed: int) -> list[Chain]:
    """Paths of ``hops`` facts from ``name`` whose first relation is ``first``, shuffled by ``seed``; chains for which
    the
    world has a wording of its own come before those that are pieced together."""
    found = [path for path in chains(world, name, hops) if path.relations[0] == first]
    Random(f"{seed}:chains:{name}:{first}:{hops}").shuffle(found)
    return sorted(found, key=lambda path: path.named not in FRAMES)


def asked(world: World, path: Chain, row_id: str) -> Row:
    """The question of a path: in its own wording where there is one, else pieced together ("Where is the employer of X
    based?"). ``paraphrase`` is the held-out wording of the last step; ``wrong`` are other objects of the same kind in
    the
    sentence of the answer, so that ranking compares objects and not sentences."""
    frame, subject = _frame(path), _subject(path)
    fact = Fact(f"{row_id}:{path.named}", path.subject, path.relations[-1], path.wanted)
    return Row(
        row_id,
        _sentence(frame.answer, subject, path.wanted),
        frame.questions[0].format(s=subject, o=path.wanted),
        path.subject,
        frame.held_out.format(s=subject),
        wrong=tuple(_sentence(frame.answer, subject, other) for other in _others(world, fact, path)),
        fact=fact.id,
    )


def _frame(path: Chain) -> Frame:
    return FRAMES[path.named] if path.named in FRAMES else FRAMES[path.relations[-1]]


def _subject(path: Chain) -> str:
    """What stands for ``{s}``: the name, or "the home city of the employer of X" for a path without its own wording."""
    text = path.subject
    for relation in () if path.named in FRAMES else path.relations[:-1]:
        text = PHRASES[relation].format(s=text)
    return text


def _sentence(frame: str, subject: str, wanted: str) -> str:
    text = frame.format(s=subject, o=wanted)
    return text[0].upper() + text[1:]


def _others(world: World, fact: Fact, path: Chain) -> list[str]:
    kind = FRAMES[fact.relation].kind
    pool = LITERALS[kind] if fact.relation in LITERAL_RELATIONS else _of_kind(world, kind)
    usable = [item for item in pool if item not in path.nodes]
    return Random(f"{world.seed}:wrong:{fact.id}").sample(usable, min(WRONG, len(usable)))


def _of_kind(world: World, kind: str) -> list[str]:
    return [e.name for e in world.entities.values() if e.kind == kind and e.name not in world.holdout]
