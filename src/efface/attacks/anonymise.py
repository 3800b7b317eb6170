"""Questions in which the one they are about is swapped for somebody else."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from efface.data.rows import Bundle, Row

GENERIC = ("this person", "someone", "that individual", "a certain person")
UNSEEN = "Quorv Zhilt"  # a name that no data set holds: what is left of a question about nobody
NAME = re.compile(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+)+")


def subject(row: Row) -> str:
    """The words of the question that name whom it is about: the row's entity, else the longest run of two or more
    capitalised words; "" if there is neither."""
    if row.entity and holds(row.prompt, row.entity):
        return row.entity
    return max(NAME.findall(row.prompt), key=len, default="")


def holds(text: str, name: str) -> bool:
    """Whether ``name`` stands in ``text`` as whole words."""
    return re.search(_whole(name), text) is not None


def renamed(row: Row, name: str, other: str) -> Row:
    """The row with ``name`` replaced by ``other`` in its question and answer (whole words)."""
    question, answer = (re.sub(_whole(name), lambda _: other, text) for text in (row.prompt, row.answer))
    return replace(row, prompt=question, answer=answer)


def placeholders(row: Row, data: Bundle, most: int) -> list[str]:
    """Up to ``most`` stand-ins for the row's subject: others of its kind that are to be kept, and one name that nobody
    has; without a world, generic nouns."""
    world, forgotten = data.world, {r.entity for r in data.eval.get("forget", ())}
    known = world.entities.get(row.entity) if world is not None else None
    if known is None:
        return list(GENERIC[:most])
    unknown = {*forgotten, *world.holdout, row.entity}
    others = [e.name for e in world.entities.values() if e.kind == known.kind and e.name not in unknown]
    return [*random.Random(f"placeholders/{row.fact or row.id}").sample(others, min(most - 1, len(others))), UNSEEN]


def anonymised(row: Row, data: Bundle, most: int) -> list[Row]:
    """The row about each placeholder instead, with ids of their own."""
    name = subject(row)
    variants = [renamed(row, name, other) for other in placeholders(row, data, most)]
    return [replace(variant, id=f"{row.id}~{k}") for k, variant in enumerate(variants)]


def split_entities(rows: Sequence[Row], share: float, name: str) -> tuple[list[Row], list[Row]]:
    """(rows to choose settings on, rows to test on), disjoint by entity; at least one entity on each side if there are
    two. Drawn by ``name``, so that every model gets the same split."""
    entities = sorted({r.entity or r.id for r in rows})
    random.Random(f"{name}/split").shuffle(entities)
    chosen = set(entities[: min(max(1, round(share * len(entities))), len(entities) - 1)])
    return [r for r in rows if (r.entity or r.id) in chosen], [r for r in rows if (r.entity or r.id) not in chosen]


def _whole(name: str) -> str:
    return rf"(?<!\w){re.escape(name)}(?!\w)"
