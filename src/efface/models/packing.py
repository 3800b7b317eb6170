"""Tree layout: one sequence per row, [prompt, branch 1, branch 2, ...]. A branch sees the prompt and itself only.

So a prompt shared by up to seven candidate answers is computed once. The last token of a branch predicts nothing and is
left out of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids of one row: the prompt once, each branch with its end token."""

    prompt: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Tokens of the packed input."""
        return len(self.prompt) + sum(max(0, len(b) - 1) for b in self.branches)

    @property
    def longest(self) -> int:
        """Positions that the longest single sequence needs."""
        return len(self.prompt) + max((len(b) for b in self.branches), default=0)


@dataclass(slots=True)
class Packed:
    """Tensors of one batch; shapes as in ``models.base.Batch``. ``mask`` is Long[B, T] or Bool[B, 1, T, T]."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    label_row: Tensor
    label_branch: Tensor
    label_id: Tensor
    label_at: Tensor
    token_mask: Tensor
    answer_mask: Tensor


def pack(rows: Sequence[Text], pad: int) -> Packed:
    """Right-padded tree layout; a plain 2-D mask when no row has more than one branch."""
    width = max(row.size for row in rows)
    ids, positions = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    branch = torch.full((len(rows), width), -2)  # -2 padding, -1 prompt, k branch
    labels: list[tuple[int, int, int, int]] = []
    for r, row in enumerate(rows):
        start = len(row.prompt)
        ids[r, :start] = torch.tensor(row.prompt)
        positions[r, :start] = torch.arange(start)
        branch[r, :start] = -1
        for b, tokens in enumerate(row.branches):
            end = start + len(tokens) - 1
            ids[r, start:end] = torch.tensor(tokens[:-1], dtype=torch.long)
            positions[r, start:end] = torch.arange(len(row.prompt), len(row.prompt) + len(tokens) - 1)
            branch[r, start:end] = b
            places = [len(row.prompt) - 1, *range(start, end)]
            labels += [(r, b, token, r * width + at) for token, at in zip(tokens, places, strict=True)]
            start = end
    row_of, branch_of, label, at = (
        torch.tensor(c, dtype=torch.long) for c in (zip(*labels, strict=True) if labels else ((), (), (), ()))
    )
    real = branch > -2
    single = all(len(row.branches) <= 1 for row in rows)
    first = torch.zeros(width, dtype=torch.bool)
    first[0] = True
    return Packed(
        ids,
        positions,
        real.long() if single else tree_mask(branch),
        row_of,
        branch_of,
        label,
        at,
        real & ~first,
        branch >= 0,
    )


def tree_mask(branch: Tensor) -> Tensor:
    """Bool[B, 1, T, T]: position i sees j <= i if j is prompt or of i's own branch; padding sees itself only."""
    width = branch.shape[1]
    before = torch.ones(width, width, dtype=torch.bool).tril()
    own = branch[:, :, None] == branch[:, None, :]
    prompt = (branch == -1)[:, None, :] & (branch >= 0)[:, :, None]
    seen = before & (own | prompt) & (branch > -2)[:, None, :]
    return (seen | torch.eye(width, dtype=torch.bool)).unsqueeze(1)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as numbers to add to attention scores (for eager attention)."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
