"""Answer-word pass: which tokens of an answer carry what the question does not tell. Reads the tokenizer only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from efface.data.rows import Row
from efface.data.telling import telling
from efface.passes.registry import PassInput, table_pass

ANSWER_WORDS = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("piece", pa.list_(pa.string())),  # text of each scored token, the end token included
        ("tells", pa.list_(pa.bool_())),  # whether it belongs to a telling word
        ("ends", pa.list_(pa.bool_())),  # whether it is what ends the answer
        ("problem", pa.string()),
    ]
)


@table_pass("answer_words")
def answer_words(given: PassInput) -> pa.Table:
    """One line per row, aligned with the tokens of the score pass."""
    return pa.Table.from_pylist([_line(given.adapter, row) for row in given.rows], schema=ANSWER_WORDS)  # type: ignore[arg-type]


def _line(adapter: Any, row: Row) -> dict[str, Any]:
    encoded = adapter.encode(row)
    line = {"row": row.id, "entity": row.entity, "piece": [], "tells": [], "ends": [], "problem": encoded.problem}
    if encoded.problem:
        return line
    ids = list(encoded.payload.branches[0])
    body = len(ids) - (len(adapter.template.end) if row.prompt else 0)
    tells, rest = telling_tokens(adapter.tokenizer, ids[:body], row), len(ids) - body
    return line | {
        "piece": [adapter.tokenizer.decode([i]) for i in ids],
        "tells": tells + [False] * rest,
        "ends": [False] * body + [True] * rest,
    }


def telling_tokens(tokenizer: Any, ids: Sequence[int], row: Row) -> list[bool]:
    """Whether each of ``ids``, which spell the answer of ``row``, belongs to a word that tells what is not given."""
    held = [(w.start, w.end) for w in telling(row)]
    return [any(a < end and b > start for start, end in held) for a, b in token_spans(tokenizer, ids, row.answer)]


def token_spans(tokenizer: Any, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """(start, end) of every token in ``text``, which ``ids`` spell, with or without a blank in front."""
    ends = [len(tokenizer.decode(list(ids[: i + 1]))) for i in range(len(ids))]
    lead = max(0, tokenizer.decode(list(ids)).find(text))
    return [(a - lead, b - lead) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
