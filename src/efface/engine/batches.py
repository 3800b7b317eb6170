"""Which rows go into which step, and how a step is cut into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efface.models.base import Encoded


def cut(rows: Sequence[Encoded], index: Sequence[int], token_budget: int) -> list[list[int]]:
    """Split ``index`` into micro-batches of at most ``token_budget`` padded tokens, sorted by length (longest first,
    so that memory peaks at once)."""
    order = sorted(index, key=lambda i: (-rows[i].length, i))
    parts: list[list[int]] = []
    for i in order:
        if parts and rows[parts[-1][0]].length * (len(parts[-1]) + 1) <= token_budget:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


class Sampler:
    """Rows of every step as a pure function of (seed, stream, step), so that a resumed run sees the same rows.

    Each epoch is one permutation; batches run across epoch borders. A row drawn twice at a border counts once.
    """

    def __init__(self, size: int, batch_size: int, seed: int, stream: str) -> None:
        self.size, self.batch = size, min(batch_size, size)
        self._key = [seed, *stream.encode()]
        self._epoch, self._order = -1, np.arange(size)

    def rows(self, step: int) -> list[int]:
        """Row positions of optimizer step ``step`` (0-based)."""
        picked: list[int] = []
        start = step * self.batch
        for place in range(start, start + self.batch):
            order = self._permutation(place // self.size)
            picked.append(int(order[place % self.size]))
        return list(dict.fromkeys(picked))

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([*self._key, epoch]).permutation(self.size)
        return self._order
