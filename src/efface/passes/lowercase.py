"""Lower-case pass: how likely is the same answer without its capitals? A text that was memorised is much likelier as
it stands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from efface.passes.registry import PassInput, table_pass
from efface.passes.score import score

LOWERCASE = pa.schema(
    [("row", pa.string()), ("entity", pa.string()), ("mean_lp", pa.float32()), ("problem", pa.string())]
)


@table_pass("lowercase")
def lowercase(given: PassInput) -> pa.Table:
    """Mean log-prob (nats per token, end token included) of each lower-cased answer to the question as it stands."""
    rows = [replace(row, answer=row.answer.lower()) for row in given.rows]  # type: ignore[union-attr,type-var]
    table = score(given.adapter, rows, prompt=given.need.prompt, token_budget=given.token_budget).tokens
    lines = [
        {k: line[k] for k in ("row", "entity", "problem")}
        | {"mean_lp": float(np.mean(line["lp"])) if line["lp"] else None}
        for line in table.to_pylist()
    ]
    return pa.Table.from_pylist(lines, schema=LOWERCASE)
