"""The beginning that all prompts of a batch have in common (a system prompt, few-shot examples) is run once; its keys
and values serve every row, in training as well: gradients flow back through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from efface.models.base import Batch
from efface.models.kernels import only_labels, reading

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

LEAST_TOKENS, LEAST_ROWS, LEAST_SHARE = 8, 3, 0.15  # below that, a second call costs more than it saves


@contextmanager
def whole_forwards(adapter: Any) -> Iterator[None]:
    """Inside the block every row is run from its first token on: for hooks that expect Float[B, T, width]."""
    before = getattr(adapter, "runs_whole", False)
    adapter.runs_whole = True
    try:
        yield
    finally:
        adapter.runs_whole = before


def shared_start(adapter: CausalLM, batch: Batch, inputs: Mapping[str, Tensor]) -> int:
    """How many leading positions all rows share and no label is predicted from; 0 where sharing does not pay or the
    model keeps its keys in another way (sliding windows) or has edited states."""
    ids = inputs["input_ids"]
    if getattr(adapter, "runs_whole", False):
        return 0
    if len(ids) < LEAST_ROWS or not len(batch.label_at) or adapter.tampering is not None or not adapter.shares_starts:
        return 0
    if getattr(adapter.hf.config.get_text_config(), "layer_types", None) and not _all_full(adapter):
        return 0
    most = int((batch.label_at % ids.shape[1]).min())
    same = (ids[:, :most] == ids[:1, :most]).all(0)
    length = int(same.long().cumprod(0).sum())
    return length if length >= max(LEAST_TOKENS, LEAST_SHARE * ids.shape[1]) else 0


def _all_full(adapter: CausalLM) -> bool:
    return set(adapter.hf.config.get_text_config().layer_types) == {"full_attention"}


def forward_shared(
    adapter: CausalLM, batch: Batch, inputs: Mapping[str, Tensor], start: int, layers: tuple[int, ...], logits: bool
) -> tuple[Any, dict[int, Tensor], Any]:
    """(model output or None, hidden states Float[B, T, width] by layer, cache) of a batch whose first ``start``
    positions are the same in every row."""
    from transformers import DynamicCache

    ids, mask, positions = inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]
    rows, width = ids.shape
    first, rest = DynamicCache(), DynamicCache()
    one = torch.zeros(1, dtype=torch.long, device=ids.device)
    with reading(adapter, layers, stop=not logits) as before, only_labels(adapter.hf, one if logits else None):
        before.run(
            lambda: adapter.call(
                input_ids=ids[:1, :start], position_ids=positions[:1, :start], past_key_values=first, use_cache=True
            )
        )
    for k, layer in enumerate(first.layers):
        rest.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), k)
    if mask.dim() == 4:
        mask = mask[:, :, start:, :]
    at = batch.label_at // width * (width - start) + batch.label_at % width - start
    with reading(adapter, layers, stop=not logits) as after, only_labels(adapter.hf, at if logits else None):
        out = after.run(
            lambda: adapter.call(
                input_ids=ids[:, start:],
                attention_mask=mask,
                position_ids=positions[:, start:],
                past_key_values=rest,
                use_cache=True,
            )
        )
    states = {
        layer: torch.cat([before.states[layer].expand(rows, -1, -1), states], 1)
        for layer, states in after.states.items()
    }
    return out, states, rest
