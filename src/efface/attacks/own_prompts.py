"""Vectors that belong to one prompt each: refusing models that do not see the prompts they were made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from efface.data.rows import Row
from efface.errors import NeedsError

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM


def distinct(rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> None:
    """Refuse rows whose prompts reach the model as the same tokens (a guard replaces them): no vector can tell them
    apart (``NeedsError`` ``attack.same-prompt``)."""
    seen: dict[tuple[int, ...], str] = {}
    for row, ids in zip(rows, prompts, strict=True):
        other = seen.setdefault(tuple(ids), row.id)
        if other != row.id:
            raise NeedsError(
                "attack.same-prompt",
                f"Rows {other} and {row.id} reach the model as the same prompt (a guard replaces the question, "
                f"or it is "
                "asked twice), so no state of it tells them apart.",
                "attack the model inside the guard, or leave one of the rows out.",
            )


def same_prompts(model: CausalLM, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> None:
    """Refuse a model that is not asked with ``prompts`` (a guard rewrites the question): its places are other ones
    (``NeedsError`` ``attack.other-prompt``)."""
    for row, ids in zip(rows, prompts, strict=True):
        if tuple(model.encode(row, answers=()).payload.prompt) != tuple(ids):
            raise NeedsError(
                "attack.other-prompt",
                f"Row {row.id} reaches the model as another prompt than the original was asked with (a guard "
                f"rewrites it).",
                "attack the model inside the guard.",
            )
    distinct(rows, prompts)
