"""Value vectors: the columns of the MLP down-projection, and what each of them writes into the vocabulary.

MLP output = sum_j a_j v_j, v_j = column j of ``down_proj.weight`` (which is [width, d_ff] in Llama-like modules); its
projection to the vocabulary is E v_j with E the output embedding. Plain projection leaves out the scale of the final
norm; ``folded`` multiplies it in. A tied head moves with the input embeddings, so a change of the projection can come
from the head alone: project with the original's head as well as with the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface.metrics.base import NotComputed

ELEMENTS = 1 << 24  # logits of a block of vectors held at once: 64 MiB


def projections(adapter: Any) -> list[nn.Module]:
    """The down-projection of every block. ``NotComputed`` for models whose blocks do not have exactly one."""
    found = []
    for block in adapter.blocks:
        mine = [m for name, m in block.named_modules() if name.rpartition(".")[2] == "down_proj"]
        if len(mine) != 1:
            raise NotComputed(f"value vectors need one MLP down-projection a block, and a block here has {len(mine)}")
        found.append(mine[0])
    return found


def values(adapter: Any) -> list[Tensor]:
    """Per block, Float32[width, d_ff] whose columns are the value vectors; a LoRA adapter on them is added in."""
    return [_effective(module) for module in projections(adapter)]


def _effective(module: nn.Module) -> Tensor:
    base = getattr(module, "base_layer", module)
    weight = base.weight.detach().float()  # type: ignore[union-attr,operator]
    if hasattr(module, "get_delta_weight") and not module.merged:  # type: ignore[union-attr]
        for name in module.active_adapters:  # type: ignore[union-attr]
            weight = weight + module.get_delta_weight(name).detach().float()  # type: ignore[union-attr,operator]
    return weight


def head(adapter: Any, *, folded: bool = False) -> Tensor:
    """Output embedding Float32[V, width], times the final norm's scale if ``folded``."""
    weight = adapter.hf.get_output_embeddings().weight.detach().float()
    return weight * _norm_scale(adapter, weight.shape[1]).to(weight.device) if folded else weight


def _norm_scale(adapter: Any, width: int) -> Tensor:
    inner = adapter.hf.base_model
    norm = next((getattr(inner, n) for n in ("norm", "final_layernorm", "ln_f") if hasattr(inner, n)), None)
    if norm is None:
        raise NotComputed(f"{type(inner).__name__} has no final norm to fold in")
    if isinstance(norm, nn.LayerNorm):
        return norm.weight.detach().float()
    with torch.no_grad():  # an RMS norm of ones gives its scale, whatever offset the family stores it with
        return norm(torch.ones(1, width, device=adapter.device)).float()[0]


def top_tokens(vectors: Tensor, embedding: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Two times Long[n, count]: the tokens that each of ``vectors`` Float[n, width] raises most, and those that it
    lowers most, strongest first."""
    step = max(1, ELEMENTS // embedding.shape[0])
    up, down = [], []
    for k in range(0, len(vectors), step):
        logits = vectors[k : k + step] @ embedding.T
        up.append(logits.topk(count, dim=1).indices)
        down.append(logits.topk(count, dim=1, largest=False).indices)
    return torch.cat(up).cpu(), torch.cat(down).cpu()


@contextmanager
def noised(adapter: Any, layer: int, column: int, noise: Tensor) -> Iterator[None]:
    """``noise`` Float[width] added to one value vector inside the block; afterwards the same bits as before."""
    module = projections(adapter)[layer - 1]
    weight = getattr(module, "base_layer", module).weight
    kept = weight.detach()[:, column].clone()
    with torch.no_grad():
        weight[:, column] += noise.to(weight.device, weight.dtype)  # type: ignore[index]
    try:
        yield
    finally:
        with torch.no_grad():
            weight[:, column] = kept  # type: ignore[index]
