"""View: what a loss sees of one micro-batch. Everything is computed when first asked for, and only then."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.engine.reference import Reference
from efface.models.base import Batch, ModelAdapter


@dataclass
class View:
    """One micro-batch of one stream. B rows, L label tokens, V classes or vocabulary.

    Losses must add over rows: divide by ``rows_total`` or ``tokens_total`` (sizes of the whole effective batch, not of
    this micro-batch), for example through ``mean_rows`` and ``mean_tokens``. Then 8 x 1 equals 1 x 8.
    """

    adapter: ModelAdapter
    batch: Batch
    stream: str
    rows_total: int
    tokens_total: int
    reference: Reference | None = None
    others: dict[str, View] = field(default_factory=dict)
    hidden_layers: tuple[int, ...] = ()
    needs_logits: bool = True

    @cached_property
    def _out(self):
        with self.adapter.autocast():
            return self.adapter.forward(self.batch, logits=self.needs_logits, hidden=self.hidden_layers)

    @property
    def logits(self) -> Tensor:
        """Float32[L, V] at label positions."""
        assert self._out.logits is not None
        return self._out.logits

    @cached_property
    def logp(self) -> Tensor:
        """Float32[L]: log-probability of each gold token."""
        return -F.cross_entropy(self.logits, self.batch.label_id, reduction="none")

    @cached_property
    def nll(self) -> Tensor:
        """Float32[B]: SUMMED negative log-likelihood of each row's answer."""
        return self.sum_by_row(-self.logp)

    @property
    def lengths(self) -> Tensor:
        """Long[B]: label tokens per row."""
        return torch.bincount(self.batch.label_row, minlength=len(self.batch.index))

    def sum_by_row(self, per_token: Tensor) -> Tensor:
        """Float[L] -> Float[B]."""
        zero = torch.zeros(len(self.batch.index), dtype=per_token.dtype, device=per_token.device)
        return zero.index_add(0, self.batch.label_row, per_token)

    def mean_rows(self, per_row: Tensor) -> Tensor:
        """This micro-batch's part of the mean over the rows of the effective batch."""
        return per_row.sum() / self.rows_total

    def mean_tokens(self, per_token: Tensor) -> Tensor:
        """This micro-batch's part of the mean over the label tokens of the effective batch."""
        return per_token.sum() / self.tokens_total

    def hidden(self, layer: int) -> Tensor:
        """Float[B, T, width] after block ``layer``; use with ``mask`` (no padding, no position 0)."""
        return self._out.hidden[layer]

    @property
    def mask(self) -> Tensor:
        """Bool[B, T]: positions a representation loss may use."""
        return self.batch.token_mask

    # -- the model before unlearning, computed once per run ------------------------------------------------------------
    @property
    def ref_nll(self) -> Tensor:
        """Float32[B]: summed NLL under the model before unlearning."""
        return self._cached().nll(self.stream, self.batch)

    @property
    def ref_logp(self) -> Tensor:
        """Float32[L]: gold log-probabilities under the model before unlearning."""
        return self._cached().logp(self.stream, self.batch)

    @property
    def ref_top(self) -> tuple[Tensor, Tensor, Tensor]:
        """(log-probs Float32[L, k], ids Long[L, k], log tail mass Float32[L]) of the model before unlearning."""
        return self._cached().top(self.stream, self.batch)

    def ref_hidden(self, layer: int) -> Tensor:
        """Float[B, T, width]: hidden states of the model before unlearning, zero at padding."""
        return self._cached().hidden(self.stream, layer, self.batch)

    def other(self, stream: str) -> View:
        """The row-aligned rows of another stream (for example each question with a refusal as its answer)."""
        return self.others[stream]

    def _cached(self) -> Reference:
        assert self.reference is not None, "the method did not declare what it needs of the reference"
        return self.reference
