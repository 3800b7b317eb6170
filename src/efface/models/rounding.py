"""Rounding weights to few bits: symmetric round-to-nearest, computed in float32 and kept in the weights' own dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efface.models.base import ModelAdapter


def codes(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """(integer codes, steps) of symmetric round-to-nearest (arXiv 2410.16454 section 4): step = max|w| / 2^(bits-1),
    codes in [-2^(bits-1), 2^(bits-1) - 1]; both Float[rows, groups, inputs of a group] (steps: 1 in the last place).

    ``weight`` Float[out, in]; ``group`` > 0: one step per that many neighbouring inputs (the last group may be
    shorter); 0: one per output row; -1: one for the tensor. Symmetric on purpose: SmolLM2's GGUF weights lie on an
    asymmetric grid of groups of 32, and rounding onto that grid would undo any fine-tuning.
    """
    flat = weight.float().reshape(weight.shape[0], -1)
    if group < 0:
        parts = flat.reshape(1, 1, -1)
    elif group == 0 or group >= flat.shape[1]:
        parts = flat.unsqueeze(1)
    else:
        pad = -flat.shape[1] % group
        parts = torch.nn.functional.pad(flat, (0, pad)).reshape(flat.shape[0], -1, group)
    half = 2 ** (bits - 1)
    step = parts.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / half
    return (parts / step).round().clamp(-half, half - 1), step


def round_tensor(weight: Tensor, bits: int, group: int) -> Tensor:
    """``weight`` as it comes back from ``codes``: same shape and dtype, at most 2^bits values per group."""
    code, step = codes(weight, bits, group)
    flat = (code * step).reshape(1 if group < 0 else weight.shape[0], -1)
    width = flat.shape[1] if group < 0 else weight[0].numel()
    return flat[:, :width].reshape(weight.shape).to(weight.dtype)


def roundable(adapter: ModelAdapter) -> dict[str, Tensor]:
    """Weights that are rounded: all of two dimensions or more, but not output head, embeddings of tokens and learned
    embeddings of positions."""
    kept = set(adapter.head_parameters())
    tables = {id(p) for m in adapter.module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    named = adapter.module.named_parameters()
    return {n: p for n, p in named if p.dim() >= 2 and n not in kept and id(p) not in tables}
