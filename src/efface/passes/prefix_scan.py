"""Prefix scan: how much of the gold answer a model must be given until it goes on as the answer does.

Free greedy decoding after y_<k for k = 0, 1, 2, ... with token ids as the prefix (text is never cut into tokens again).
Round k continues the rows that no shorter prefix was enough for; nothing is assumed about longer ones, because a model
may go on well after k tokens and badly after k + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor

from efface.data.rows import Rows
from efface.engine.batches import cut
from efface.models.base import Encoded, ModelAdapter
from efface.models.decoding import Decoder, Pending, prefill
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import adapter_ends

SCANS = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("tokens", pa.int32()),  # n, the answer's length; the end token is not counted
        ("prefix", pa.int32()),  # k, the fewest tokens after which the rest follows; n where it never does
        ("problem", pa.string()),
    ]
)
Ids = Sequence[int]
Reading = Callable[[Ids, Ids], bool | None]
"""(said so far, rest of the answer) -> whether that is the rest; None while it is not decided."""


def exact(said: Ids, rest: Ids) -> bool | None:
    """Token for token."""
    if list(said) != list(rest[: len(said)]):
        return False
    return True if len(said) == len(rest) else None


def similar(said: Ids, rest: Ids) -> bool | None:
    """A longest common subsequence of at least half of the rest, which is as many tokens as may be said."""
    have, most = common(said, rest), len(rest) - len(said)
    if 2 * have >= len(rest):
        return True
    return False if 2 * (have + most) < len(rest) else None


READINGS: dict[str, Reading] = {"exact": exact, "similar": similar}


def common(one: Ids, other: Ids) -> int:
    """Length of the longest common subsequence. Bit-parallel (Hyyro 2004): bit j is 0 where ``other[j]`` adds one."""
    places: dict[int, int] = {}
    for j, token in enumerate(other):
        places[token] = places.get(token, 0) | 1 << j
    whole = unmet = (1 << len(other)) - 1
    for token in one:
        met = unmet & places.get(token, 0)
        unmet = ((unmet + met) | (unmet - met)) & whole
    return len(other) - unmet.bit_count()


@table_pass("prefix_scan")
def prefix_scan(given: PassInput) -> pa.Table:
    """One line per row, in order. ``need.variants[0]`` names the reading: ``similar`` or ``exact``."""
    reading, rows = READINGS[given.need.variants[0]], given.rows
    encoded = [given.adapter.encode(row, prompt=given.need.prompt) for row in rows]
    answers = [_answer(e, rows, i, given.need.prompt) for i, e in enumerate(encoded)]
    found = scan(given.adapter, encoded, answers, reading, given.token_budget)
    lines = [
        {
            "row": e.row_id,
            "entity": e.entity,
            "tokens": len(answer),
            "prefix": found.get(i, len(answer)),
            "problem": e.problem or ("" if answer else "empty answer"),
        }
        for i, (e, answer) in enumerate(zip(encoded, answers, strict=True))
    ]
    return pa.Table.from_pylist(lines, schema=SCANS)


def _answer(encoded: Encoded, rows: Rows, place: int, prompt: str) -> list[int]:
    """Ids of the gold answer without its end token; none where the row cannot be scored."""
    if encoded.problem:
        return []
    ids = list(encoded.payload.branches[0])
    return ids[:-1] if adapter_ends(rows[place], prompt) else ids


def scan(
    adapter: ModelAdapter, encoded: Sequence[Encoded], answers: Sequence[Ids], reading: Reading, token_budget: int
) -> dict[int, int]:
    """The shortest sufficient prefix, by place of the row; rows without one are missing."""
    found: dict[int, int] = {}
    with adapter.evaluating():
        for k in range(max(map(len, answers), default=0)):
            left = {i: answer for i, answer in enumerate(answers) if i not in found and k < len(answer)}
            for part in cut(encoded, list(left), token_budget):
                good = _continued(adapter, encoded, {i: left[i] for i in part}, k, reading)
                found |= dict.fromkeys(good, k)
    return found


def _continued(
    adapter: ModelAdapter, encoded: Sequence[Encoded], answers: Mapping[int, Ids], k: int, reading: Reading
) -> list[int]:
    """Places of the rows that go on as the answer does after its first ``k`` tokens."""
    good: list[int] = []

    def ends(row: Pending) -> bool:
        answer = answers[row.place]
        decided = reading(row.ids[row.start + k :], answer[k:])
        if decided:
            good.append(row.place)
        return decided is not None

    decoder = _Watched(adapter, max(map(len, answers.values())), ends)
    prompts = {i: list(encoded[i].payload.prompt) for i in answers}
    decoder.waiting = prefill(
        adapter, [Pending(i, [*ids, *answers[i][:k]], len(ids), None) for i, ids in prompts.items()]
    )
    for _ in decoder.run():
        pass
    return good


class _Watched(Decoder):
    """A decoder whose rows also end when ``ends(row)``, asked after every token, says so."""

    def __init__(self, adapter: Any, longest: int, ends: Callable[[Pending], bool]) -> None:
        super().__init__(adapter, longest)
        self.ends = ends

    def _append(self, row: Pending, logits: Tensor, token: int | None = None) -> str:
        end = super()._append(row, logits, token)
        if end == "stop":
            return end
        return "length" if self.ends(row) else end
