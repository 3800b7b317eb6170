"""Soft targets: teacher distributions computed once before training, kept as top-k per label token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from efface.engine.batches import cut
from efface.models.base import Batch, Encoded, ModelAdapter


@dataclass
class Targets:
    """Teacher distributions by row id, on the CPU: (ids Long[labels, k], probs Float32[labels, k], rows sum to 1)."""

    rows: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def put(self, row_id: str, scores: Tensor, top: int) -> None:
        """Keep the ``top`` largest of ``scores`` Float[labels, V] (log-probs up to a constant), renormalised."""
        values, ids = scores.topk(min(top, scores.shape[-1]), dim=-1)
        self.rows[row_id] = (ids.cpu(), values.float().softmax(-1).cpu())

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(ids Long[L, k], probs Float32[L, k]) in the batch's label order."""
        parts = [self.rows[row.row_id] for row in batch.encoded]
        device = batch.label_id.device
        return torch.cat([ids for ids, _ in parts]).to(device), torch.cat([probs for _, probs in parts]).to(device)


def soft_cross_entropy(logits: Tensor, ids: Tensor, probs: Tensor) -> Tensor:
    """Float[L]: -sum_k q_k log p_k. Its gradient is that of KL(q || p)."""
    return -(probs * torch.log_softmax(logits, dim=-1).gather(1, ids)).sum(1)


def each_row(
    adapter: ModelAdapter, rows: Sequence[Encoded], token_budget: int, use: Callable[[int, Tensor], None]
) -> None:
    """Call ``use(position, logits Float32[labels, V])`` for every row, in eval mode without gradients."""
    with adapter.evaluating():
        for part in cut(rows, range(len(rows)), token_budget):
            batch = adapter.collate([rows[i] for i in part], part).to(adapter.device)
            logits = adapter.forward(batch).logits
            assert logits is not None
            for k, i in enumerate(part):
                use(i, logits[batch.label_row == k])
