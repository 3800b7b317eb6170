"""Step-by-step decoding of many rows at once, from keys and values that are already there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from efface.models.kernels import only_labels
from efface.models.packing import Text, pack

GROUP = 64  # rows decoded together
ROOM = 32  # positions by which a cache buffer grows


@dataclass
class Pending:
    """A row being decoded. ``ids``: prompt and what was said so far; ``start``: length of the prompt; ``keys``: per
    layer (keys, values) Float[heads, length, width] of the first ``length`` ids (all but the last), or None; ``first``:
    logits for the next token where they are known already."""

    place: int
    ids: list[int]
    start: int
    keys: list[tuple[Tensor, Tensor]] | None
    first: Tensor | None = None


def keys_of(cache: Any, row: int, length: int) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values of one row's first ``length`` positions, copied out of a batch's cache; None for cache layers
    that do not keep every position (sliding windows)."""
    found = []
    for layer in cache.layers:
        if type(layer).__name__ != "DynamicLayer":
            return None
        found.append((layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone()))
    return found


def prefill(adapter: Any, group: list[Pending]) -> list[Pending]:
    """Run the prompts once; every row gets its keys and the logits of its next token."""
    packed = pack([Text(tuple(p.ids), ()) for p in group], adapter.pad)
    device, width = adapter.device, packed.ids.shape[1]
    last = torch.tensor([i * width + len(p.ids) - 1 for i, p in enumerate(group)], device=device)
    with only_labels(adapter.hf, last):
        out = adapter.call(
            last_prompt=torch.tensor([p.start - 1 for p in group]),
            input_ids=packed.ids.to(device),
            attention_mask=packed.mask.to(device),
            position_ids=packed.positions.to(device),
            use_cache=True,
        )
    logits = out.logits.reshape(len(group), -1)
    return [
        Pending(p.place, p.ids, p.start, keys_of(out.past_key_values, i, len(p.ids)), logits[i])
        for i, p in enumerate(group)
    ]


class Decoder:
    """Decodes rows step by step, many at once; a row that ends makes room for one that waits.

    ``longest``: tokens of an answer; ``draw(place, logits)`` samples (None: greedy). Finished rows come from ``run`` as
    (row with its ids, "stop" | "length"); the end token is not among the ids.
    """

    def __init__(
        self, adapter: Any, longest: int, draw: Callable[[int, Tensor], int] | None = None, group: int = GROUP
    ) -> None:
        self.adapter, self.longest, self.draw, self.group = adapter, longest, draw, group
        self.waiting: list[Pending] = []
        self.active: list[Pending] = []
        self._cache: Any = None
        self._mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.waiting) + len(self.active)

    @torch.no_grad()
    def run(self, least: int = 0) -> Iterator[tuple[Pending, str]]:
        """Decode until no more than ``least`` rows are under way; what is left goes on at the next call."""
        while len(self) > least:
            if self.waiting and len(self.active) <= self.group * 3 // 4:
                yield from self._admit()
            if not self.active:
                continue
            if self._cache is None:
                yield from self._said(self._from_nothing())
            else:
                yield from self._said(self._next())

    def _admit(self) -> Iterator[tuple[Pending, str]]:
        """Take in waiting rows: the cache is laid out anew for old and new ones together."""
        room = self.group - len(self.active)
        new, self.waiting = self.waiting[:room], self.waiting[room:]
        self._take_back()
        kept = []
        for row in new:
            end = "" if row.first is None else self._append(row, row.first)
            if end:
                yield row, end
            else:
                kept.append(row)
        self.active += kept
        if self.active and all(row.keys is not None for row in self.active):
            self._cache, self._mask = _left_padded(self.adapter, self.active)

    def _take_back(self) -> None:
        """Give the active rows their keys and values back."""
        if self._cache is not None:
            assert self._mask is not None
            width = self._mask.shape[1]
            for i, row in enumerate(self.active):
                first = width - (len(row.ids) - 1)
                row.keys = [(la.keys[i, :, first:], la.values[i, :, first:]) for la in self._cache.layers]
        self._cache = self._mask = None

    def _next(self) -> Tensor:
        """Float[rows, V]: logits of the next token of every active row, from the cache."""
        assert self._mask is not None
        device = self.adapter.device
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.active), 1)], 1)
        out = self.adapter.call(
            input_ids=torch.tensor([[row.ids[-1]] for row in self.active], device=device),
            attention_mask=self._mask,
            position_ids=self._mask.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        )
        return out.logits[:, -1]

    def _from_nothing(self) -> Tensor:
        """The same by a full forward, for models whose cache cannot be cut and joined."""
        rows, device = self.active, self.adapter.device
        packed = pack([Text(tuple(row.ids), ()) for row in rows], self.adapter.pad)
        width = packed.ids.shape[1]
        last = torch.tensor([k * width + len(row.ids) - 1 for k, row in enumerate(rows)], device=device)
        with only_labels(self.adapter.hf, last):
            out = self.adapter.call(
                last_prompt=torch.tensor([row.start - 1 for row in rows]),
                input_ids=packed.ids.to(device),
                attention_mask=packed.mask.to(device),
                position_ids=packed.positions.to(device),
                use_cache=False,
            )
        return out.logits.reshape(len(rows), -1)

    def _said(self, logits: Tensor) -> Iterator[tuple[Pending, str]]:
        """Append a token to every active row; rows that end are yielded and leave the cache."""
        best = logits.argmax(-1).tolist() if self.draw is None else [None] * len(logits)
        ends = [self._append(row, logits[k], best[k]) for k, row in enumerate(self.active)]
        if not any(ends):
            return
        yield from ((row, end) for row, end in zip(self.active, ends, strict=True) if end)
        stay = [k for k, end in enumerate(ends) if not end]
        self.active = [self.active[k] for k in stay]
        if not self.active:
            self._cache = self._mask = None
        elif self._cache is not None:
            assert self._mask is not None
            keep = torch.tensor(stay, device=self.adapter.device)
            self._mask = self._mask[keep]
            self._cache.batch_select_indices(keep)

    def _append(self, row: Pending, logits: Tensor, token: int | None = None) -> str:
        """Say one more token; why the row ends with it ("" if it does not)."""
        if token is None:
            token = int(logits.argmax()) if self.draw is None else self.draw(row.place, logits)
        if token in self.adapter.stops:
            return "stop"
        row.ids.append(token)
        long = len(row.ids) - row.start >= self.longest or len(row.ids) >= self.adapter.context
        return "length" if long else ""


def _left_padded(adapter: Any, group: list[Pending]) -> tuple[Any, Tensor]:
    """One cache for the group: keys right-aligned, zeros and mask 0 to their left."""
    from transformers import DynamicCache

    lengths = [row.keys[0][0].shape[1] for row in group]  # type: ignore[index]
    width, device = max(lengths), adapter.device
    joined = DynamicCache()
    for layer in range(len(group[0].keys)):  # type: ignore[arg-type]
        pair = []
        for side in (0, 1):
            tensors = [row.keys[layer][side] for row in group]  # type: ignore[index]
            out = tensors[0].new_zeros(len(group), tensors[0].shape[0], width, tensors[0].shape[2])
            for i, t in enumerate(tensors):
                out[i, :, width - t.shape[1] :] = t
            pair.append(out)
        joined.update(pair[0], pair[1], layer)
    joined.layers = [growing(layer) for layer in joined.layers]
    mask = torch.zeros(len(group), width, dtype=torch.long, device=device)
    for i, length in enumerate(lengths):
        mask[i, width - length :] = 1
    for row in group:
        row.keys = None
    return joined, mask


def growing(layer: Any) -> Any:
    """A cache layer that appends in place: the keys are a view of a buffer with room, so that a step copies one
    position and not all of them."""
    mine = _growing_class()()
    mine.lazy_initialization(layer.keys, layer.values)
    mine.keys, mine.values = layer.keys, layer.values
    mine._room = (layer.keys, layer.values)
    return mine


@cache
def _growing_class() -> type:
    """Made on first use: importing transformers takes seconds."""
    from transformers.cache_utils import DynamicLayer

    class Growing(DynamicLayer):
        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            have, new = self.keys.shape[2], key_states.shape[2]
            if self._room[0].shape[0] != len(key_states) or self._room[0].shape[2] < have + new:
                self._room = tuple(_roomy(t, have + new + ROOM) for t in (self.keys, self.values))
            for buffer, states in zip(self._room, (key_states, value_states), strict=True):
                buffer[:, :, have : have + new] = states
            self.keys, self.values = (buffer[:, :, : have + new] for buffer in self._room)
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            self._room = tuple(buffer[indices] for buffer in self._room)
            self.keys, self.values = (buffer[:, :, : self.keys.shape[2]] for buffer in self._room)

    return Growing


def _roomy(states: Tensor, width: int) -> Tensor:
    """``states`` Float[B, heads, T, D] at the start of a buffer of ``width`` positions."""
    out = states.new_zeros(*states.shape[:2], width, states.shape[3])
    out[:, :, : states.shape[2]] = states
    return out
