"""Hidden pass: pooled hidden states of every layer from one forward per batch."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor

from efface.data.rows import Rows
from efface.errors import SpecError, nearest
from efface.models.base import Batch, ModelAdapter
from efface.passes.batching import batches
from efface.passes.tables import HIDDEN

POOLINGS = ("last_prompt", "mean_answer", "mean_all")


def hidden(
    adapter: ModelAdapter,
    rows: Rows,
    *,
    layers: Sequence[int],
    pooling: str = "last_prompt",
    prompt: str = "prompt",
    token_budget: int = 4096,
) -> pa.Table:
    """One line per (row, layer), rows in order. ``last_prompt``: the position that predicts the answer's first token;
    ``mean_answer`` / ``mean_all``: mean over answer / all positions. Position 0 and padding never enter a mean."""
    if pooling not in POOLINGS:
        raise SpecError("hidden.unknown-pooling", f"There is no pooling {pooling!r}.", nearest(pooling, POOLINGS))
    encoded = [adapter.encode(row, prompt=prompt) for row in rows]
    found: dict[int, dict[int, list[float]]] = {}
    with adapter.evaluating():
        for part in batches(encoded, token_budget=token_budget, labels=1 << 30):
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            states = adapter.forward(batch, logits=False, hidden=layers).hidden
            pooled = {layer: pool(h.float(), batch, pooling).cpu() for layer, h in states.items()}
            for k, i in enumerate(part):
                found[i] = {layer: values[k].tolist() for layer, values in pooled.items()}
    lines = [
        {
            "row": e.row_id,
            "entity": e.entity,
            "layer": layer,
            "pooling": pooling,
            "vector": found.get(i, {}).get(layer, []),
            "problem": e.problem,
        }
        for i, e in enumerate(encoded)
        for layer in layers
    ]
    return pa.Table.from_pylist(lines, schema=HIDDEN)


def pool(states: Tensor, batch: Batch, pooling: str) -> Tensor:
    """Float[B, T, width] -> Float[B, width]."""
    if states.shape[1] == 1:
        return states[:, 0]
    if pooling == "last_prompt":
        first = torch.full((states.shape[0],), states.shape[1], device=states.device)
        first.scatter_reduce_(0, batch.label_row, batch.label_at % states.shape[1], "amin")
        return states[torch.arange(states.shape[0], device=states.device), first]
    mask = (batch.token_mask & batch.answer_mask if pooling == "mean_answer" else batch.token_mask).unsqueeze(-1)
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1)
