"""Questions in other words: changing the rows of a prompt attack, what that costs, and that it tells no answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from efface.data.rows import Row, Rows
from efface.data.telling import tells
from efface.data.worlds.objects import objects
from efface.errors import NeedsError

NO_QUESTIONS = "the rows to forget are documents: there is no question to put in other words"


def asked(rows: Rows) -> list[Row]:
    """The rows that ask a question (documents and images do not)."""
    return [r for r in rows if isinstance(r, Row) and r.prompt]


def known_objects(world: Any) -> Mapping[str, str]:
    """{fact id: its object} of the built-in world; empty for other data."""
    return {} if world is None else objects(world)


def reworded(rows: Rows, write: Callable[[Row], Row], world: Any = None) -> list[Row]:
    """``rows`` with every question rewritten by ``write``; ids stay, documents stay as they are.

    A question that gives its own answer away measures copying and is refused (``NeedsError`` ``attack.test-answers``).
    """
    wanted = known_objects(world)
    out = [write(r) if isinstance(r, Row) and r.prompt else r for r in rows]
    for before, row in zip(rows, out, strict=True):
        if row is before:
            continue
        if tells(row.prompt, replace(row, prompt=before.prompt), wanted.get(row.fact, "")):
            raise NeedsError(
                "attack.test-answers",
                f"The attacked question of row {row.id} holds its answer: {row.prompt[:120]!r}.",
                "take the answer out of the wording.",
            )
    return out


def supplied(adapter: Any, before: Sequence[Row], after: Sequence[Row]) -> dict[str, float]:
    """What the attacker put in: ``context_tokens`` more per question (mean over rows; fewer are negative), and
    ``rows_changed``."""
    count = adapter.template.prompt_ids
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.prompt]
    added = [len(count(adapter.tokenizer, b.prompt)) - len(count(adapter.tokenizer, a.prompt)) for a, b in pairs]
    return {
        "context_tokens": round(sum(added) / max(1, len(added)), 3),
        "rows_changed": sum(a.prompt != b.prompt for a, b in pairs),
    }
