"""Cutting rows into evaluation batches: sorted by length, bounded in padded tokens and in logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from efface.models.base import Batch, Encoded, ModelAdapter

LOGIT_BYTES = 1 << 28


def label_budget(adapter: ModelAdapter) -> int:
    """Scored positions per batch so that float32 logits stay under 256 MiB."""
    head = getattr(adapter, "hf", None)
    classes = head.config.get_text_config().vocab_size if head is not None else 1024
    return max(64, LOGIT_BYTES // (4 * classes))


def sliced(batch: Batch, labels: int) -> Iterator[Batch]:
    """``batch`` with at most ``labels`` scored positions at a time: the inputs stay, so each piece is one more forward.
    For a single row that is longer than the budget; everything else fits as it is."""
    if len(batch.label_id) <= labels:
        yield batch
        return
    for k in range(0, len(batch.label_id), labels):
        part = slice(k, k + labels)
        names = ("label_row", "label_branch", "label_id", "label_at")
        yield replace(batch, **{name: getattr(batch, name)[part] for name in names})


def batches(rows: Sequence[Encoded], *, token_budget: int, labels: int) -> list[list[int]]:
    """Positions of the scorable rows, longest first; each batch within ``token_budget`` padded tokens and ``labels``
    scored positions (a single row may exceed either)."""
    order = sorted((i for i, row in enumerate(rows) if not row.problem), key=lambda i: (-rows[i].length, i))
    out: list[list[int]] = []
    used = 0
    for i in order:
        fits = out and rows[out[-1][0]].length * (len(out[-1]) + 1) <= token_budget and used + rows[i].labels <= labels
        if fits:
            out[-1].append(i)
            used += rows[i].labels
        else:
            out.append([i])
            used = rows[i].labels
    return out
