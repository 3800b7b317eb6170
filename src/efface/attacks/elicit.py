"""Elicitation: ask a model what it believes about somebody, step by step, and read its answers as a knowledge graph."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efface.data.rows import Row
from efface.data.worlds.graph import (
    ALIAS_RELATIONS,
    LITERAL_RELATIONS,
    PERSON_RELATIONS,
    Entity,
    Fact,
    World,
)
from efface.data.worlds.questions import FRAMES
from efface.passes.generate import GenerateSettings, generate

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

ASKED_OF = {
    "person": (*PERSON_RELATIONS, *LITERAL_RELATIONS),
    "city": ("located_in",),
    "company": ("based_in",),
}
"""Relations that a node of a kind is asked for."""
Triple = tuple[str, str, str]
LEFT_OUT = (
    "elicitation asks one wording per relation that the world knows, and its sentence is the parser: the ten varied "
    "questions per node, their free extraction of triples, the 0-10 relevance score (keep >= 3.0), the alias merge by "
    "YES/NO and the decay of nodes per depth are left out",
    "elicitation needs a world: people to start from, kinds of their objects, aliases and wrong answers come from it",
)
"""What of llm2graph's graph building is not here; for Cards."""


@dataclass(frozen=True)
class Agreement:
    """How far believed triples are true: ``precision`` over what was believed, ``recall`` over what is true of the
    nodes
    that were asked about; NaN where there is nothing to divide by."""

    precision: float
    recall: float
    believed: int


def elicit(
    adapter: CausalLM, names: Sequence[str], relations: Iterable[str], *, depth: int = 2, max_new_tokens: int = 40
) -> list[Triple]:
    """(subject, relation, object) as the model answers, breadth first from the people ``names``.

    Each node is asked the first wording of every relation among ``relations`` that its kind has; an answer that does
    not
    follow the relation's sentence exactly gives no triple. Objects are asked in turn, up to ``depth`` steps from the
    start.
    """
    wanted, kinds = set(relations), {name: "person" for name in names}
    frontier, found = list(names), []
    for _ in range(depth):
        asked = [(node, r) for node in frontier for r in ASKED_OF.get(kinds[node], ()) if r in wanted]
        answers = _answers(adapter, asked, max_new_tokens)
        new = [(node, r, o) for (node, r), text in zip(asked, answers, strict=True) if (o := parsed(r, node, text))]
        found += new
        frontier = []
        for _, relation, other in new:
            if other not in kinds and relation not in LITERAL_RELATIONS:
                kinds[other] = FRAMES[relation].kind
                frontier.append(other)
    return found


def parsed(relation: str, subject: str, text: str) -> str:
    """The object in an answer that is exactly the relation's sentence about ``subject``; "" otherwise."""
    pattern = re.escape(FRAMES[relation].answer).replace(r"\{s\}", re.escape(subject)).replace(r"\{o\}", "(.+)")
    match = re.fullmatch(pattern, text.strip())
    return match[1] if match else ""


def agreement(
    believed: Iterable[Triple], truth: World, relations: Iterable[str], *, about: Iterable[str] = ()
) -> Agreement:
    """Precision and recall of ``believed`` against ``truth``, over subjects ``about`` (none: every subject that
    occurs)."""
    found = set(believed)
    nodes = set(about) or {s for s, _, _ in found}
    wanted = set(relations)
    true = {(f.subject, f.relation, f.object) for f in truth.facts if f.subject in nodes and f.relation in wanted}
    mine = {t for t in found if t[0] in nodes}
    right = len(mine & true)
    return Agreement(
        right / len(mine) if mine else float("nan"), right / len(true) if true else float("nan"), len(mine)
    )


def as_world(believed: Sequence[Triple], truth: World) -> World:
    """The believed triples as a world to draw probes from. People, aliases and other objects of each kind (for wrong
    answers)
    are those of ``truth``; only facts are the model's."""
    entities = dict(truth.entities)
    for _, relation, other in believed:
        if relation not in LITERAL_RELATIONS and other not in entities:
            entities[other] = Entity(other, FRAMES[relation].kind, f"believed{len(entities):03d}")
    facts = tuple(
        Fact(f"{entities[s].key}:{r}", s, r, o) for s, r, o in believed if s in entities and r not in ALIAS_RELATIONS
    )
    return World(truth.seed, truth.people, truth.holdout, entities, facts)


def _answers(adapter: CausalLM, asked: Sequence[tuple[str, str]], longest: int) -> list[str]:
    rows = [
        Row(f"elicit:{i}", "", FRAMES[relation].questions[0].format(s=node, o=""), node)
        for i, (node, relation) in enumerate(asked)
    ]
    if not rows:
        return []
    table = generate(adapter, rows, settings=GenerateSettings(max_new_tokens=longest))
    return table["text"].to_pylist()
