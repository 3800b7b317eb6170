"""What the linear layers of a language model are given while it reads rows, handed on batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from efface.data.rows import Rows
from efface.models.base import Batch, ModelAdapter
from efface.passes.batching import batches

Take = Callable[[str, Tensor], None]


def linear_layers(block: nn.Module, prefix: str = "") -> dict[str, nn.Linear]:
    """Linear layers inside a block by name."""
    return {f"{prefix}{name}": m for name, m in block.named_modules() if isinstance(m, nn.Linear)}


def read_inputs(
    adapter: ModelAdapter,
    rows: Rows,
    layers: Mapping[str, nn.Linear],
    take: Take,
    *,
    depth: int,
    answers: bool = True,
    token_budget: int = 4096,
) -> None:
    """Call ``take(name, Float32[n, in])`` with the inputs of each of ``layers`` at the rows' real positions (padding
    and position 0, the attention sink, are left out). The forward ends after block ``depth``. ``answers`` False:
    questions only. Rows that do not fit the context are left out."""
    encoded = [adapter.encode(row, answers=("answer",) if answers else ()) for row in rows]
    with adapter.evaluating():
        for part in batches(encoded, token_budget=token_budget, labels=1 << 30):
            batch = _whole(adapter, adapter.collate([encoded[i] for i in part], part)).to(adapter.device)
            with ExitStack() as hooks:
                for name, layer in layers.items():
                    handle = layer.register_forward_pre_hook(_reader(name, batch.token_mask, take))
                    hooks.callback(handle.remove)
                adapter.forward(batch, logits=False, hidden=(depth,))


def _whole(adapter: ModelAdapter, batch: Batch) -> Batch:
    """``batch`` without labels, so that its forward is not split into a shared start and the rest (``models.sharing``):
    layers are given Float[B, T, in], as the mask is laid out. Edits of states need the labels, and are never split."""
    return replace(batch, label_at=batch.label_at[:0]) if getattr(adapter, "tampering", None) is None else batch


def _reader(name: str, mask: Tensor, take: Take) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def read(module: nn.Module, args: tuple[Any, ...]) -> None:
        states = args[0].reshape(-1, args[0].shape[-1])
        real = states[mask.reshape(-1)] if len(states) == mask.numel() else states  # an expert is given some of them
        take(name, real.detach().float())

    return read
