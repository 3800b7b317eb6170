"""Every token of a row as a scored position, question and template included, where a loss wants more than the answer.
Not a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from efface.data.rows import Rows
from efface.engine.reference import Reference, Wanted, build
from efface.engine.view import View
from efface.methods.base import Context
from efface.models.base import Batch, Encoded, ModelAdapter


def every_token(batch: Batch) -> Batch:
    """The same rows with a label at every real position (no padding): the next input token, or the row's last label.

    Works on causal language models, whose batches carry ``input_ids`` Long[rows, T]; rows must have one branch, whose
    last token is a label but no input.
    """
    ids = batch.inputs["input_ids"]
    following = ids.roll(-1, 1)
    following.view(-1)[batch.label_at] = batch.label_id
    real = batch.token_mask.clone()
    real[:, 0] = True
    row, place = real.nonzero(as_tuple=True)
    return replace(
        batch,
        label_row=row,
        label_branch=torch.zeros_like(row),
        label_id=following[row, place],
        label_at=row * ids.shape[1] + place,
    )


def whole(view: View, reference: Reference | None = None) -> View:
    """``view`` over every token of its rows; its totals still count answers, so use ``mean_row_tokens``."""
    return replace(view, batch=every_token(view.batch), reference=reference)


def mean_row_tokens(view: View, per_token: Tensor) -> Tensor:
    """Mean over the tokens of each row, then this micro-batch's part of the mean over rows; adds over micro-batches."""
    return view.mean_rows(view.sum_by_row(per_token) / view.lengths)


class _EveryToken:
    """An adapter whose batches are labelled at every token."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def collate(self, rows: Sequence[Encoded], index: Sequence[int]) -> Batch:
        return every_token(self._adapter.collate(rows, index))


def whole_reference(context: Context, stream: str, rows: Rows) -> Reference:
    """Reference distributions at every token of ``rows``; call it before the first step, in the order of the stream.

    Rows that cannot be trained on are left out, as the loop does, so that positions agree.
    """
    usable = [e for e in (context.adapter.encode(row) for row in rows) if not e.problem]
    adapter = cast(ModelAdapter, _EveryToken(context.adapter))
    return build(adapter, {stream: usable}, {stream: Wanted(top=True)}, token_budget=context.train.token_budget)
