"""Attribute pass: hidden states of questions about people, with the attribute asked for as a class label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from efface.data.rows import Row
from efface.data.worlds.graph import World
from efface.data.worlds.objects import lead_in, objects
from efface.metrics.base import NotComputed
from efface.models.tampering import Tampering
from efface.passes.prompt_states import prompt_states
from efface.passes.registry import PassInput, table_pass

ATTRIBUTES = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("variant", pa.string()),  # the relation asked for: born_in, works_at, ...
        ("label", pa.int32()),  # number of the object among all objects of its relation
        ("layer", pa.int32()),
        ("pooling", pa.string()),  # "question": its last token; "answer": the last token before what is asked for
        ("vector", pa.list_(pa.float32())),
    ]
)


@table_pass("attribute_states", version=2)
def attribute_states(given: PassInput) -> pa.Table:
    """One line per (row about a person, place, layer). The answer is forced up to the words that tell, and no
    further."""
    if given.world is None:
        raise NotComputed("no world says which attribute a row asks for")
    world, adapter = given.world, given.adapter
    wanted, labels = objects(world), numbered(world)
    known = [r for r in given.rows if isinstance(r, Row) and r.prompt and _relation(r) and _is_person(world, r)]
    leads = {r.id: lead_in(r.answer, wanted.get(r.fact, "")) for r in known}
    rows = [r for r in known if leads[r.id] and (_relation(r), wanted[r.fact]) in labels]
    if not rows:
        raise NotComputed("no row asks for an attribute of a person")
    layers = range(1, len(adapter.blocks) + 1)
    begun = replace(adapter.tampering or Tampering(), forced=leads)
    places = {"question": adapter, "answer": adapter.tampered(begun)}
    lines: list[dict[str, Any]] = []
    for place, model in places.items():
        for row, state in zip(rows, prompt_states(model, rows, layers), strict=True):
            label = labels[_relation(row), wanted[row.fact]]
            line = {"row": row.id, "entity": row.entity, "variant": _relation(row), "label": label, "pooling": place}
            lines += [line | {"layer": layer, "vector": state.layers[layer][-1].tolist()} for layer in layers]
    return pa.Table.from_pylist(lines, schema=ATTRIBUTES)


def numbered(world: World) -> dict[tuple[str, str], int]:
    """{(relation, object): its number}, counted within a relation in alphabetical order, two-hop relations included."""
    pairs = {(f.relation, f.object) for f in world.facts}
    pairs |= {(h.relation, h.object) for name in (*world.people, *world.holdout) for h in world.two_hop(name)}
    found: dict[tuple[str, str], int] = {}
    for relation in sorted({r for r, _ in pairs}):
        found |= {pair: k for k, pair in enumerate(sorted(p for p in pairs if p[0] == relation))}
    return found


def _relation(row: Row) -> str:
    """Relation of a world row, from its fact id (``p000:born_in``)."""
    return row.fact.partition(":")[2]


def _is_person(world: World, row: Row) -> bool:
    entity = world.entities.get(row.entity)
    return entity is not None and entity.kind == "person"
