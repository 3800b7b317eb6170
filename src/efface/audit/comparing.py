"""Comparing what a record says with what is worked out again: numbers within a tolerance, text where it is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from efface.metrics.base import Score
from efface.runs import results
from efface.runs.keys import HASHED

TOLERANCE = 1e-9
HIDDEN = ("[hidden:", HASHED)


def differences(old: results.ScoreRow, new: Score, fields: Sequence[str]) -> list[str]:
    """One text for each field in which a stored score differs from the one derived again."""
    out = []
    for name in fields:
        a, b = getattr(old, name), getattr(new, name)
        if not same(a, b):
            what = "" if name == "value" else f"{name} "
            out.append(f" says {what}{shown(a)}, the tables give {shown(b)}")
    return out


def same(a: Any, b: Any) -> bool:
    """Equal, numbers within the tolerance. A NaN is written as null."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float | int) and isinstance(b, float | int):
        a, b = finite(a), finite(b)
        return a == b if a is None or b is None else math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return finite(a) == finite(b)


def finite(value: Any) -> Any:
    """``value``, None for NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers among ``values``; the rest may be text that the record conceals."""
    return {k: float(v) for k, v in values.items() if isinstance(v, float | int) and finite(v) is not None}


def groups(entities: Mapping[str, str]) -> list[int]:
    """For each row the number of its entity, in order of first appearance."""
    number: dict[str, int] = {}
    return [number.setdefault(entity, len(number)) for entity in entities.values()]


def same_text(old: str, new: str) -> bool:
    """Equal, or not to be compared because the record conceals it."""
    return old == new or hides(old)


def hides(text: str) -> bool:
    """Whether a text stands for something concealed."""
    return any(mark in text for mark in HIDDEN)


def shown(value: Any) -> str:
    """A value as a finding names it."""
    return f"{value:.6g}" if isinstance(value, float) else "nothing" if value is None else str(value)
