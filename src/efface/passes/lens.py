"""Lens pass: what the head would say if it read an earlier layer, for every token of the answer, from one forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from efface.metrics.base import NotComputed
from efface.models.base import Batch
from efface.models.kernels import only_labels
from efface.passes.batching import batches, label_budget
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import reduce

LENS = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("layer", pa.int32()),  # the output of block 1..n
        ("lp", pa.list_(pa.float32())),  # log-prob of the gold tokens, end of answer included, nats
        ("rank", pa.list_(pa.int32())),  # their ranks, 0 = first
        ("ends", pa.bool_()),  # the last token is an end-of-answer token
        ("problem", pa.string()),
    ]
)


@table_pass("lens")
def lens(given: PassInput) -> pa.Table:
    """One line per (row, layer), rows in order: gold log-probs and ranks through the model's own final norm and head.
    The last layer is the model's own answer."""
    adapter, prompt = given.adapter, given.need.prompt
    if adapter.family != "causal_lm":
        raise NotComputed(f"a {adapter.family} has no tokens to read at earlier layers")
    depth = len(adapter.blocks)
    encoded = [adapter.encode(row, prompt=prompt) for row in given.rows]
    found: dict[int, list[tuple[list[float], list[int]]]] = {}
    with adapter.evaluating():
        for part in batches(encoded, token_budget=given.token_budget, labels=max(64, label_budget(adapter) // depth)):
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            stats = reduce(lens_logits(adapter, batch), batch.label_id.repeat(depth))
            lp, rank = (value.reshape(depth, -1) for value in (stats.lp, stats.rank))
            for k, i in enumerate(part):
                mine = (batch.label_row == k).cpu()
                found[i] = [(lp[d][mine].tolist(), rank[d][mine].tolist()) for d in range(depth)]
    lines = [
        {
            "row": e.row_id,
            "entity": e.entity,
            "layer": layer,
            "lp": found[i][layer - 1][0] if i in found else [],
            "rank": found[i][layer - 1][1] if i in found else [],
            "ends": bool(getattr(row, prompt, "")) if prompt else False,
            "problem": e.problem,
        }
        for i, (e, row) in enumerate(zip(encoded, given.rows, strict=True))
        for layer in range(1, depth + 1)
    ]
    return pa.Table.from_pylist(lines, schema=LENS)


def lens_logits(adapter: Any, batch: Batch) -> Tensor:
    """Float32[layers * L, V]: logits at the label positions, layer after layer.

    The outputs of all blocks are stacked along the batch behind the last block, so that whatever follows it in the
    model (final norm, head, scaling, soft cap, a logit bias) reads every layer as it reads the last.
    """
    depth, (rows, width) = len(adapter.blocks), batch.token_mask.shape
    at = torch.cat([batch.label_at + layer * rows * width for layer in range(depth)])
    asked = torch.full((rows,), width, device=at.device)
    asked.scatter_reduce_(0, batch.label_row, batch.label_at % width, "amin")
    with _stacked(adapter), only_labels(adapter.hf, at):
        out = adapter.call(last_prompt=asked, **batch.inputs, use_cache=False)
    return out.logits.reshape(-1, out.logits.shape[-1]).float()


@contextmanager
def _stacked(adapter: Any) -> Iterator[None]:
    """The last block also hands on the outputs of all earlier ones: Float[layers * B, T, width]."""
    kept: list[Tensor] = []

    def keep(module: Any, args: Any, out: Any) -> Any:
        kept.append(out[0] if isinstance(out, tuple) else out)
        if len(kept) < len(adapter.blocks):
            return None
        whole = torch.cat(kept)
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    handles = [block.register_forward_hook(keep) for block in adapter.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
