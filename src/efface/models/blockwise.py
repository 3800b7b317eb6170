"""Attention on a CPU, block by block: a block of queries reads only the keys that one of them sees.

In the tree layout a branch sees the prompt and itself, so most of a full query-times-key square is masked; the kernel
computes it all the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NAME = "efface_sdpa_blocks"  # with "sdpa" in the name, transformers refuses it for models that cannot take sdpa
BLOCK = 64

Plan = list[tuple[int, int, Tensor, Tensor]]


def plan(mask: Tensor) -> Plan:
    """[(first query, end, Long[K] keys that some query of some row sees, their mask)] of Bool[B, 1, Q, K]."""
    blocks = []
    for start in range(0, mask.shape[2], BLOCK):
        part = mask[:, :, start : start + BLOCK]
        keys = part.flatten(0, 2).any(0).nonzero().squeeze(1)
        blocks.append((start, start + part.shape[2], keys, part.index_select(3, keys)))
    return blocks


class _Last:
    """The plan of the mask that was seen last: every layer of a forward is given the same one."""

    mask: Tensor | None = None
    blocks: Plan = []

    @classmethod
    def of(cls, mask: Tensor) -> Plan:
        if cls.mask is not mask:
            cls.mask, cls.blocks = mask, plan(mask)
        return cls.blocks


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Float[B, heads, Q, D] against Float[B, heads / groups, K, D], as ``transformers`` calls it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    odd = any(more.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    if odd or attention_mask is None or attention_mask.dtype != torch.bool or query.shape[2] <= BLOCK:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    groups = query.shape[1] // key.shape[1]
    found = []
    for start, end, keys, mask in _Last.of(attention_mask):
        k, v = (t.index_select(2, keys).repeat_interleave(groups, 1) for t in (key, value))
        part = query[:, :, start:end]
        found.append(F.scaled_dot_product_attention(part, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling))
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None


@cache
def name() -> str:
    """What ``set_attn_implementation`` takes; registered on first use, because importing transformers takes seconds."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
