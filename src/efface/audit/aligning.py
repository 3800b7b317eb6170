"""Tables in the order of the data: one line per row, whatever a pass left out or brought in another order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from efface.data.rows import Rows

Place = tuple[str, str, str, str]  # (role, evaluation set, wording or pass, candidate)


def aligned(table: pa.Table, rows: Rows, prompt: str, name: str) -> pa.Table:
    """One table row per data row, in data order; rows without this field say so."""
    place = {row: i for i, row in enumerate(table["row"].to_pylist())}
    if len(place) == len(rows):
        return table.take([place[r.id] for r in rows])
    what = prompt if prompt != "prompt" else name
    blank = [
        {f.name: _empty(f) for f in table.schema}
        | {"row": r.id, "entity": r.entity, "prompt": prompt, "problem": f"no {what}"}
        for r in rows
        if r.id not in place
    ]
    if "variant" in table.schema.names:
        blank = [b | {"variant": name} for b in blank]
    joined = pa.concat_tables([table.select(table.schema.names), pa.Table.from_pylist(blank, schema=table.schema)])
    place = {row: i for i, row in enumerate(joined["row"].to_pylist())}
    return joined.take([place[r.id] for r in rows])


def cut(tables: Mapping[Place, Any], own: Mapping[str, Rows], role: str, sets: Mapping[str, Rows]) -> dict[Place, Any]:
    """What is at hand of ``role`` for ``sets`` whose rows are among ``own``, cut to these rows and their order."""
    found = {}
    for place, table in tables.items():
        asked, mine = sets.get(place[1]), own.get(place[1])
        if place[0] != role or table is None or not asked or not mine or "problem" not in table.schema.names:
            continue
        at = {row.id: i for i, row in enumerate(mine)}
        same = all(row.id in at and mine[at[row.id]] == row for row in asked)
        if same and table.num_rows == len(mine):
            found[place] = table.take([at[row.id] for row in asked])
    return found


def _empty(field: pa.Field) -> Any:
    if pa.types.is_list(field.type):
        return []
    return "" if pa.types.is_string(field.type) else False if pa.types.is_boolean(field.type) else 0
