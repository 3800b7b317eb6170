"""What the linear layers of a language model are given while it reads rows, handed on batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from efface.data.rows import Rows
from efface.models.base import ModelAdapter
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
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            with ExitStack() as hooks:
                for name, layer in layers.items():
                    handle = layer.register_forward_pre_hook(_reader(name, batch.token_mask, take))
                    hooks.callback(handle.remove)
                adapter.forward(batch, logits=False, hidden=(depth,))


def _reader(name: str, mask: Tensor, take: Take) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def read(module: nn.Module, args: tuple[Any, ...]) -> None:
        states = args[0]
        real = states[mask] if states.shape[:2] == mask.shape else states.reshape(-1, states.shape[-1])
        take(name, real.detach().float())

    return read
