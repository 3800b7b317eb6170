"""Reference values: what the model gave before unlearning, computed once per run and looked up ever after.

A fixed row has a fixed reference log-prob, so no second model is kept in memory and no forward is done twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from efface.engine.batches import cut
from efface.models.base import Batch, Encoded, ModelAdapter

TOP_K = 256


@dataclass
class Wanted:
    """What to compute for one stream."""

    logp: bool = False
    top: bool = False
    layers: tuple[int, ...] = ()


@dataclass
class Stored:
    """Reference values of one stream, one entry per row, on the CPU."""

    logp: list[Tensor] = field(default_factory=list)  # Float32[labels]
    top: list[tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=list
    )  # Float32[labels, k], Long[labels, k], Float32[labels]
    hidden: dict[int, list[Tensor]] = field(default_factory=dict)  # Float32[T, width]
    mask: list[Tensor] = field(default_factory=list)  # Bool[T]


class Reference:
    """Lookup of reference values by stream and row position."""

    def __init__(self) -> None:
        self._stored: dict[str, Stored] = {}

    def logp(self, stream: str, batch: Batch) -> Tensor:
        """Float32[L]: gold log-probs, in the batch's label order."""
        return torch.cat([self._stored[stream].logp[i] for i in batch.index.tolist()]).to(batch.label_id.device)

    def nll(self, stream: str, batch: Batch) -> Tensor:
        """Float32[rows]: summed NLL."""
        rows = [-self._stored[stream].logp[i].sum() for i in batch.index.tolist()]
        return torch.stack(rows).to(batch.label_id.device)

    def top(self, stream: str, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(Float32[L, k], Long[L, k], Float32[L]): most likely log-probs, their ids, log of the remaining mass."""
        parts = [self._stored[stream].top[i] for i in batch.index.tolist()]
        device = batch.label_id.device
        logp, ids, tail = (torch.cat(column).to(device) for column in zip(*parts, strict=True))
        return logp, ids, tail

    def hidden(self, stream: str, layer: int, batch: Batch) -> Tensor:
        """Float32[rows, T, width], zero at padding."""
        rows = [self._stored[stream].hidden[layer][i] for i in batch.index.tolist()]
        out = torch.zeros(len(rows), batch.token_mask.shape[1], rows[0].shape[1])
        for k, row in enumerate(rows):
            out[k, : row.shape[0]] = row
        return out.to(batch.label_id.device)

    def mean_norm(self, stream: str, layer: int) -> float:
        """Mean L2 norm of hidden states over true positions (no padding, no position 0)."""
        stored = self._stored[stream]
        norms = [h[m].norm(dim=-1) for h, m in zip(stored.hidden[layer], stored.mask, strict=True)]
        return float(torch.cat(norms).mean())


def build(
    adapter: ModelAdapter, streams: Mapping[str, Sequence[Encoded]], wanted: Mapping[str, Wanted], *, token_budget: int
) -> Reference:
    """Run the model once over every stream that is wanted. The adapter still has the weights from before unlearning."""
    reference = Reference()
    for name, want in wanted.items():
        reference._stored[name] = _run(adapter, streams[name], want, token_budget)
    return reference


def _run(adapter: ModelAdapter, rows: Sequence[Encoded], want: Wanted, token_budget: int) -> Stored:
    out = Stored(
        logp=[torch.empty(0)] * len(rows),
        mask=[torch.empty(0)] * len(rows),
        top=[()] * len(rows) if want.top else [],  # type: ignore[list-item]
        hidden={layer: [torch.empty(0)] * len(rows) for layer in want.layers},
    )
    with adapter.evaluating():
        for part in cut(rows, range(len(rows)), token_budget):
            batch = adapter.collate([rows[i] for i in part], part).to(adapter.device)
            result = adapter.forward(batch, logits=want.logp or want.top, hidden=want.layers)
            _store(out, batch, result.logits, result.hidden)
    return out


def _store(out: Stored, batch: Batch, logits: Tensor | None, hidden: Mapping[int, Tensor]) -> None:
    logp = None if logits is None else torch.log_softmax(logits, dim=-1)
    for k, i in enumerate(batch.index.tolist()):
        out.mask[i] = batch.token_mask[k].cpu()
        for layer, states in hidden.items():
            length = int(batch.token_mask[k].nonzero().max()) + 1 if bool(batch.token_mask[k].any()) else 1
            out.hidden[layer][i] = states[k, :length].float().cpu()
            out.mask[i] = batch.token_mask[k, :length].cpu()
        if logp is None:
            continue
        mine = batch.label_row == k
        out.logp[i] = logp[mine].gather(1, batch.label_id[mine, None]).squeeze(1).cpu()
        if out.top:
            out.top[i] = _top(logp[mine])


def _top(logp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k = min(TOP_K, logp.shape[1])
    values, ids = logp.topk(k, dim=1)
    rest = (1 - values.exp().sum(1)).clamp(min=0)
    tail = (
        torch.where(rest > 0, rest.clamp(min=1e-30).log(), torch.full_like(rest, -1e4))
        if k < logp.shape[1]
        else torch.full_like(rest, -1e4)
    )
    return values.cpu(), ids.cpu(), tail.cpu()
