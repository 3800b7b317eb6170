"""Views made by hand: test a loss on logits you can compute on paper, without a model.

view = hand_view(torch.zeros(2, 3, requires_grad=True), labels=[0, 1], rows=[0, 0], ref_nll=[1.0])
loss = MyMethod().forget_loss(view)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from efface.engine.reference import Reference
from efface.engine.view import View
from efface.errors import NeedsError
from efface.models.base import Batch, ModelAdapter, Output

Numbers = Tensor | Sequence[Any]


class GivenModel:
    """Stands in for a model adapter: its forward gives the logits and hidden states it was made with."""

    def __init__(self, logits: Tensor, hidden: Mapping[int, Tensor]) -> None:
        self.logits, self.hidden = logits, dict(hidden)
        self.device = logits.device

    def autocast(self) -> AbstractContextManager[None]:
        """Full precision."""
        return nullcontext()

    def forward(self, batch: Batch, *, logits: bool = True, hidden: Iterable[int] = ()) -> Output:
        """What was given, whatever the batch."""
        return Output(self.logits if logits else None, {layer: self.hidden[layer] for layer in hidden})


class GivenReference(Reference):
    """Stands in for the model before unlearning: gives the values it was made with, for any stream and batch.

    A value that was not given is a ``NeedsError`` ``testing.not-given``.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._given = {name: value for name, value in given.items() if value is not None}

    def nll(self, stream: str, batch: Batch) -> Tensor:
        """Float32[rows]."""
        return self._get("ref_nll")

    def logp(self, stream: str, batch: Batch) -> Tensor:
        """Float32[L]."""
        return self._get("ref_logp")

    def top(self, stream: str, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(Float32[L, k], Long[L, k], Float32[L])."""
        return self._get("ref_top")

    def hidden(self, stream: str, layer: int, batch: Batch) -> Tensor:
        """Float32[rows, T, width]."""
        return self._get("ref_hidden")[layer]

    def _get(self, name: str) -> Any:
        if name not in self._given:
            raise NeedsError(
                "testing.not-given",
                f"The loss asked for {name}, which this view was not given.",
                f"pass {name}=... to hand_view.",
            )
        return self._given[name]


def hand_view(
    logits: Tensor,
    labels: Numbers,
    rows: Numbers | None = None,
    *,
    ref_nll: Numbers | None = None,
    ref_logp: Numbers | None = None,
    ref_top: tuple[Tensor, Tensor, Tensor] | None = None,
    ref_hidden: Mapping[int, Tensor] | None = None,
    others: Mapping[str, View] | None = None,
    hidden: Mapping[int, Tensor] | None = None,
    mask: Tensor | None = None,
    stream: str = "forget",
    rows_total: int | None = None,
    tokens_total: int | None = None,
) -> View:
    """A ``View`` of given numbers. B rows, L label tokens, V classes.

    ``logits`` Float[L, V], grouped by row (pass a leaf that requires grad to check gradients); ``labels`` Long[L] gold
    classes; ``rows`` Long[L] the row of each label, rising from 0 (none: all in row 0). ``ref_nll`` Float[B],
    ``ref_logp`` Float[L], ``ref_top`` (log-probs [L, k], ids [L, k], log tail [L]; see ``whole_top``) and
    ``ref_hidden`` {layer: Float[B, T, width]} are the model before unlearning. ``others``: row-aligned extra streams.
    ``hidden`` {layer: Float[B, T, width]} with ``mask`` Bool[B, T] (none: all but position 0). ``rows_total`` and
    ``tokens_total``: sizes of the whole effective batch (none: of this view).
    """
    label_id = torch.as_tensor(labels, dtype=torch.long)
    label_row = torch.zeros_like(label_id) if rows is None else torch.as_tensor(rows, dtype=torch.long)
    count = int(label_row.max()) + 1
    given = GivenReference(ref_nll=_floats(ref_nll), ref_logp=_floats(ref_logp), ref_top=ref_top, ref_hidden=ref_hidden)
    model = cast(ModelAdapter, GivenModel(logits, hidden or {}))
    batch = _batch(label_id, label_row, count, mask, next(iter((hidden or {}).values()), None))
    return View(
        model,
        batch,
        stream,
        rows_total or count,
        tokens_total or len(label_id),
        given,
        dict(others or {}),
        tuple(hidden or ()),
    )


def whole_top(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``ref_top`` that covers the whole vocabulary: the reference distribution is softmax(``logits``), with no tail."""
    logp, ids = torch.log_softmax(logits.detach(), dim=-1).sort(dim=-1, descending=True)
    return logp, ids, torch.full((len(logits),), -1e4)


def _batch(label_id: Tensor, label_row: Tensor, count: int, mask: Tensor | None, states: Tensor | None) -> Batch:
    start = torch.cumsum(torch.bincount(label_row, minlength=count), 0) - torch.bincount(label_row, minlength=count)
    place = torch.arange(len(label_id)) - start[label_row]
    width = int(place.max()) + 2 if states is None else states.shape[1]
    real = torch.ones(count, width, dtype=torch.bool) if mask is None else mask
    if mask is None:
        real[:, 0] = False
    return Batch(
        torch.arange(count),
        {},
        label_row,
        torch.zeros_like(label_id),
        label_id,
        label_row * width + place,
        real,
        real,
        (),
    )


def _floats(values: Numbers | None) -> Tensor | None:
    return None if values is None else torch.as_tensor(values, dtype=torch.float32)
