"""Rows to draw from, nearest in words first: what a prompt attack takes its examples and passages from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from efface.data.rows import Row
from efface.data.telling import is_function, plain


class Shelf:
    """``rows`` that can be looked up by the words they share with a text."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self._words = [_content(r.prompt or r.answer) for r in self.rows]
        self._orders: dict[str, list[int]] = {}

    def nearest(self, text: str, count: int, keep: Callable[[Row], bool] = lambda row: True) -> list[Row]:
        """Up to ``count`` rows that ``keep`` lets through, by falling overlap |a and b| / |a or b| of their content
        words (questions against questions; documents by their text); one row per answer, ties in row order."""
        found: dict[str, Row] = {}
        for i in self._order(text):
            if len(found) == count:
                break
            row = self.rows[i]
            if row.answer not in found and keep(row):
                found[row.answer] = row
        return list(found.values())

    def _order(self, text: str) -> list[int]:
        if text not in self._orders:
            asked = _content(text)
            self._orders[text] = sorted(range(len(self.rows)), key=lambda i: -_overlap(asked, self._words[i]))
        return self._orders[text]


def _content(text: str) -> frozenset[str]:
    return frozenset(w for w in plain(text).split() if not is_function(w))


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0
