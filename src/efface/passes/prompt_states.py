"""Hidden states of prompts, token by token: what probes and activation attacks read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from efface.data.rows import Row
from efface.errors import NeedsError
from efface.passes.batching import batches

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM


@dataclass(frozen=True)
class PromptStates:
    """One prompt: its token ``ids`` and {layer: Float32[tokens, width]} on the CPU."""

    ids: tuple[int, ...]
    layers: Mapping[int, Tensor]


def prompt_states(adapter: CausalLM, rows: Sequence[Row], layers: Sequence[int]) -> list[PromptStates]:
    """States of every row's prompt (with a forced start of the answer, if ``adapter`` has one), in row order. A prompt
    that is empty or longer than the context is refused (``NeedsError`` ``attack.no-prompt``)."""
    encoded = [adapter.encode(row, answers=()) for row in rows]
    for one in encoded:
        if one.problem or not one.payload.prompt:
            raise NeedsError(
                "attack.no-prompt",
                f"Row {one.row_id} has no prompt to read ({one.problem or 'it is empty'}).",
                "leave the row out.",
            )
    found: dict[int, PromptStates] = {}
    with adapter.evaluating():
        for part in batches(encoded, token_budget=4096, labels=1 << 30):
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            states = adapter.forward(batch, logits=False, hidden=layers).hidden
            for k, i in enumerate(part):
                ids = encoded[i].payload.prompt
                found[i] = PromptStates(ids, {layer: h[k, : len(ids)].float().cpu() for layer, h in states.items()})
    return [found[i] for i in range(len(rows))]


def span(adapter: CausalLM, ids: Sequence[int], text: str) -> list[int]:
    """Places in ``ids`` of the tokens that spell ``text`` where it stands last; [] if it is not there."""
    decode = adapter.tokenizer.decode
    whole = decode(list(ids))
    start = whole.rfind(text) if text else -1
    if start < 0:
        return []
    ends = [len(decode(list(ids[: i + 1]))) for i in range(len(ids))]
    begins = [0, *ends[:-1]]
    return [i for i, (a, b) in enumerate(zip(begins, ends, strict=True)) if b > start and a < start + len(text)]
