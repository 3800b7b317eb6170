"""Hidden states of several models on the same rows, aligned by row id."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from efface.metrics.base import NotComputed, Tables
from efface.passes.tables import Hidden

FAMILIES = ("text", "image")


@dataclass(frozen=True)
class States:
    """One layer of several roles. ``vectors[i]`` Float64[rows, width of role i]; rows that a role could not encode are
    gone."""

    rows: list[str]
    entities: list[str]
    vectors: list[np.ndarray]


def shared_layers(tables: Tables, *roles: str, rows: str = "*") -> list[int]:
    """The layers that every role has; ``NotComputed`` when depths differ, since layer i of one is then not layer i of
    another."""
    found = [list(tables.layers(rows, role=role)) for role in roles]
    if any(layers != found[0] for layers in found):
        counts = " and ".join(str(len(layers)) for layers in found)
        raise NotComputed(f"the models do not have the same layers ({counts})")
    return found[0]


def states(tables: Tables, layer: int, *roles: str, rows: str = "*") -> States:
    """States of one layer under each role, in the evaluation set's order, over the rows encoded by all of them."""
    hidden = [_encoded(tables.hidden(layer, rows, role=role)) for role in roles]
    common = set(hidden[0].rows).intersection(*(h.rows for h in hidden[1:]))
    kept = [row for row in hidden[0].rows if row in common]
    entity = dict(zip(hidden[0].rows, hidden[0].entities, strict=True))
    vectors = []
    for found in hidden:
        place = {row: i for i, row in enumerate(found.rows)}
        vectors.append(_matrix(found)[[place[row] for row in kept]])
    return States(kept, [entity[row] for row in kept], vectors)


def _encoded(hidden: Hidden) -> Hidden:
    good = [not problem for problem in hidden.table["problem"].to_pylist()]
    if not any(good):
        raise NotComputed("none of the rows has hidden states")
    return Hidden(hidden.table.filter(pa.array(good)))


def _matrix(hidden: Hidden) -> np.ndarray:
    flat = hidden.table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(hidden.table.num_rows, -1).astype(np.float64)
