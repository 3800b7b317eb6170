"""Step-by-step decoding of many rows at once, from keys and values that are already there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.models.kernels import only_labels
from efface.models.packing import Text, pack


@dataclass
class Pending:
    """A row being decoded. ``ids``: prompt and what was said so far; ``start``: length of the prompt; ``keys``: per layer
    (keys, values) Float[heads, length, width] of the first ``length`` ids (all but the last), or None; ``first``: logits
    for the next token where they are known already."""

    place: int
    ids: list[int]
    start: int
    keys: list[tuple[Tensor, Tensor]] | None
    first: Tensor | None = None


def keys_of(cache: Any, row: int, length: int) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values of one row's first ``length`` positions, copied out of a batch's cache; None for cache layers that
    do not keep every position (sliding windows)."""
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


@torch.no_grad()
def decode(
    adapter: Any, group: list[Pending], longest: int, draw: Callable[[int, Tensor], int] | None = None
) -> Iterator[tuple[Pending, str]]:
    """Yield (row with its ids, "stop" | "length") as rows finish; the end token is not among the ids. ``draw`` samples
    (None: greedy). Rows whose keys are unknown are decoded from a fresh prefill."""
    if not group:
        return
    if any(p.keys is None for p in group):
        yield from _without_cache(adapter, group, longest, draw)
        return
    rows = list(range(len(group)))
    if group[0].first is not None:
        rows = yield from _say(adapter, group, rows, torch.stack([p.first for p in group]), longest, draw)  # type: ignore[misc]
    if not rows:
        return
    cache, mask = _left_padded(adapter, [group[r] for r in rows])
    while rows:
        ids = torch.tensor([[group[r].ids[-1]] for r in rows], device=adapter.device)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        positions = mask.sum(1, keepdim=True) - 1
        out = adapter.call(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        left = yield from _say(adapter, group, rows, out.logits[:, -1], longest, draw)
        if left and len(left) < len(rows):
            kept = set(left)
            keep = torch.tensor([k for k, r in enumerate(rows) if r in kept], device=adapter.device)
            mask = mask[keep]
            cache.batch_select_indices(keep)
        rows = left


def _say(
    adapter: Any,
    group: list[Pending],
    rows: list[int],
    logits: Tensor,
    longest: int,
    draw: Callable[[int, Tensor], int] | None,
) -> Iterator[tuple[Pending, str]]:
    """Append the next token of every row; yields finished rows and returns the others."""
    tokens = logits.argmax(-1).tolist() if draw is None else [draw(r, logits[k]) for k, r in enumerate(rows)]
    left = []
    for r, token in zip(rows, tokens, strict=True):
        row = group[r]
        if token in adapter.stops:
            yield row, "stop"
            continue
        row.ids.append(token)
        if len(row.ids) - row.start >= longest or len(row.ids) >= adapter.context:
            yield row, "length"
        else:
            left.append(r)
    return left  # type: ignore[return-value]


def _left_padded(adapter: Any, group: list[Pending]) -> tuple[Any, Tensor]:
    """One cache for the group: keys right-aligned, zeros and mask 0 to their left."""
    from transformers import DynamicCache

    lengths = [p.keys[0][0].shape[1] for p in group]  # type: ignore[index]
    width, device = max(lengths), adapter.device
    cache = DynamicCache()
    for layer in range(len(group[0].keys)):  # type: ignore[arg-type]
        pair = []
        for side in (0, 1):
            tensors = [p.keys[layer][side] for p in group]  # type: ignore[index]
            out = tensors[0].new_zeros(len(group), tensors[0].shape[0], width, tensors[0].shape[2])
            for i, t in enumerate(tensors):
                out[i, :, width - t.shape[1] :] = t
            pair.append(out)
        cache.update(pair[0], pair[1], layer)
    mask = torch.zeros(len(group), width, dtype=torch.long, device=device)
    for i, length in enumerate(lengths):
        mask[i, width - length :] = 1
    for p in group:
        p.keys = None
    return cache, mask


def _without_cache(
    adapter: Any, group: list[Pending], longest: int, draw: Callable[[int, Tensor], int] | None
) -> Iterator[tuple[Pending, str]]:
    """One full forward per token, for models whose cache cannot be cut and joined."""
    rows = list(range(len(group)))
    while rows:
        packed = pack([Text(tuple(group[r].ids), ()) for r in rows], adapter.pad)
        width, device = packed.ids.shape[1], adapter.device
        last = torch.tensor([k * width + len(group[r].ids) - 1 for k, r in enumerate(rows)], device=device)
        with only_labels(adapter.hf, last):
            out = adapter.call(
                last_prompt=torch.tensor([group[r].start - 1 for r in rows]),
                input_ids=packed.ids.to(device),
                attention_mask=packed.mask.to(device),
                position_ids=packed.positions.to(device),
                use_cache=False,
            )
        rows = yield from _say(adapter, group, rows, out.logits.reshape(len(rows), -1), longest, draw)  # type: ignore[misc]
