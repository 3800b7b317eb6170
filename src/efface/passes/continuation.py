"""Continuations: greedy text of the length that a published protocol fixes, whatever length the suite generates.

``Need("continuation", rows, variants=("32",))`` is at most 32 new tokens; a second variant is text the answer is made
to start with (``("30", "Answer:")``), which does not count as said. The gold text is cut to the same number of tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from efface.data.rows import Rows
from efface.models.base import ModelAdapter
from efface.models.tampering import Tampering
from efface.passes.generate import GenerateSettings, generate
from efface.passes.registry import PassInput, table_pass


@table_pass("continuation")
def continuation(given: PassInput) -> pa.Table:
    """One line per row, in order, as a generation table."""
    longest, start = int(given.need.variants[0]), "".join(given.need.variants[1:2])
    adapter = started(given.adapter, given.rows, start) if start else given.adapter
    table = generate(
        adapter,
        given.rows,
        prompt=given.need.prompt,
        settings=GenerateSettings(max_new_tokens=longest),
        token_budget=given.token_budget,
    )
    return with_gold(table, [cut(adapter, text, longest) for text in table["gold"].to_pylist()])


def shortened(adapter: Any, table: pa.Table, longest: int) -> pa.Table:
    """The continuation table that a longer greedy generation holds: greedy text begins alike whatever its length."""
    lines = table.to_pylist()
    for line in lines:
        line["gold"] = cut(adapter, line["gold"], longest)
        if len(line["ids"]) >= longest:  # an end token behind them would not have been reached
            line["ids"], line["finish"] = line["ids"][:longest], "length"
            line["text"] = adapter.tokenizer.decode(line["ids"], skip_special_tokens=True)
    return pa.Table.from_pylist(lines, schema=table.schema)


def started(adapter: Any, rows: Rows, start: str) -> ModelAdapter:
    """``adapter`` whose answers are made to start with ``start``, or with what an attacker forces instead."""
    around = adapter.tampering or Tampering()
    return adapter.tampered(replace(around, forced={row.id: around.forced_of(row.id) or start for row in rows}))


def cut(adapter: Any, text: str, longest: int) -> str:
    """The first ``longest`` tokens of ``text``."""
    ids = adapter.tokenizer(text or "", add_special_tokens=False)["input_ids"]
    return text if len(ids) <= longest else adapter.tokenizer.decode(ids[:longest], skip_special_tokens=True)


def with_gold(table: pa.Table, gold: list[str]) -> pa.Table:
    """``table`` with another gold column."""
    return table.set_column(table.schema.get_field_index("gold"), "gold", pa.array(gold, pa.string()))
