"""Texts pass: what the rows of a set say. No model is run; metrics that learn from labelled texts read it."""

from __future__ import annotations

import pyarrow as pa

from efface.passes.registry import PassInput, table_pass

TEXTS = pa.schema([(name, pa.string()) for name in ("row", "entity", "text", "problem")])


@table_pass("texts")
def texts(given: PassInput) -> pa.Table:
    """One line per row, in order: the candidate answer that the need names (``answer`` unless it says otherwise)."""
    field = given.need.variants[0]
    lines = [
        {"row": row.id, "entity": row.entity, "text": text, "problem": "" if text else f"no {field}"}
        for row in given.rows
        for text in (str(getattr(row, field, "")),)
    ]
    return pa.Table.from_pylist(lines, schema=TEXTS)
