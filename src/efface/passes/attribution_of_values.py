"""Activation x gradient of every value vector: which of them an answer's log-prob hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface.data.rows import Row
from efface.engine.batches import cut
from efface.passes.score import shown
from efface.passes.value_vectors import projections

BUDGET = 256  # padded tokens of a batch, whose graph is kept


def attributed(adapter: Any, rows: Sequence[Row], count: int) -> list[tuple[int, int]]:
    """The ``count`` (layer from 1, column) whose activation times the gradient of the answers' log-prob is largest."""
    found = attribution(adapter, rows)
    flat = torch.cat(found)
    width = [len(f) for f in found]
    places = []
    for i in flat.argsort(descending=True)[:count].tolist():
        layer = 0
        while i >= width[layer]:
            i, layer = i - width[layer], layer + 1
        places.append((layer + 1, i))
    return places


def attribution(adapter: Any, rows: Sequence[Row]) -> list[Tensor]:
    """Per block Float[d_ff]: sum over rows and positions of a_j * d(log-prob of the answer) / d a_j. Weights and their
    gradients are left alone."""
    encoded = [e for e in (adapter.encode(row) for row in rows) if not e.problem]
    modules = projections(adapter)
    total = [torch.zeros(getattr(m, "base_layer", m).weight.shape[1]) for m in modules]
    was = adapter.module.training
    adapter.module.eval()
    try:
        for part in cut(encoded, range(len(encoded)), BUDGET):
            batch = adapter.collate([encoded[i] for i in part], list(part)).to(adapter.device)
            for k, found in enumerate(_one(adapter, modules, batch)):
                total[k] += found.cpu()
    finally:
        adapter.module.train(was)
    return total


def _one(adapter: Any, modules: Sequence[Any], batch: Any) -> list[Tensor]:
    """Activations are read, and something that is 0 is added to them, whose gradient is theirs. A module runs more than
    once where rows share the start of their prompt."""
    seen: list[tuple[int, Tensor, Tensor]] = []

    def reader(k: int) -> Any:
        def read(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nothing = torch.zeros_like(args[0], requires_grad=True)
            seen.append((k, args[0].detach(), nothing))
            return (args[0] + nothing, *args[1:])

        return read

    handles = [m.register_forward_pre_hook(reader(k)) for k, m in enumerate(modules)]
    try:
        with torch.enable_grad():
            logits = shown(adapter.forward(batch).logits)
            logp = torch.log_softmax(logits, -1).gather(1, batch.label_id[:, None]).sum()
            # what the last block writes at the shared start reaches no answer: it has no gradient
            gradients = torch.autograd.grad(logp, [nothing for _, _, nothing in seen], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    found = [torch.zeros(1, device=logp.device)] * len(modules)
    for (k, a, _), g in zip(seen, gradients, strict=True):
        if g is not None:
            found[k] = found[k] + (a * g).float().sum((0, 1))
    return found
