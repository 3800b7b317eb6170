"""What the published protocols share: which way is good on their sets, and scores of text of a fixed length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from efface.metrics.base import KNOWLEDGE, Direction, Need, PerRow, Tables
from efface.passes.tables import Generations

FORGET_SETS = (
    "verbatim_forget",
    "blank_forget",
    "adversarial_forget",
    "suffix_forget",
    "open_forget",
    "completion_forget",
    "text_forget",
)
DIRECTIONS: dict[str, Direction] = {**KNOWLEDGE, **dict.fromkeys(FORGET_SETS, "match")}
"""Raw values are knowledge: on what is to be forgotten they should match the reference, elsewhere stay high."""


def continued(longest: int, start: str = "", rows: str = "*") -> Need:
    """The need for at most ``longest`` greedy tokens, made to begin with ``start``."""
    return Need("continuation", rows, variants=(str(longest), start) if start else (str(longest),))


def score_texts(
    tables: Tables, need: Need, score: Callable[[str, str], float], gold: Mapping[str, str] | None = None
) -> PerRow:
    """``score(gold, text)`` per row; rows without text are unscored. ``gold``: by row id, where it is not to be cut to
    the length of the text. ``extra["empty"]``: share of empty texts, ``extra["cut"]``: share that stopped at the length
    limit."""
    table = Generations(tables.table(need))
    texts, broken, finish = (table.column(name) for name in ("text", "problem", "finish"))
    wanted = table.column("gold") if gold is None else [gold.get(row, "") for row in table.rows]
    values = [
        np.nan if problem else score(gold or "", text or "")
        for gold, text, problem in zip(wanted, texts, broken, strict=True)
    ]
    done = [i for i, problem in enumerate(broken) if not problem]
    extra = {
        "empty": float(np.mean([not (texts[i] or "").strip() for i in done])),
        "cut": float(np.mean([finish[i] == "length" for i in done])),
    }
    return PerRow(np.asarray(values, dtype=np.float64), table.rows, table.entities, extra if done else {})


def in_full(tables: Tables) -> dict[str, str]:
    """{row id: gold answer in full}."""
    own = tables.tokens()
    return dict(zip(own.rows, own.texts, strict=True))


def on(tables: Tables, rows: str, role: str = "subject") -> Tables:
    """The same tables seen from evaluation set ``rows``, with the model of ``role`` in the place of the subject."""

    def fetch(asked: str, need: Need) -> Any:
        return tables.table(replace(need, role=role if asked == "subject" else asked))

    return Tables(fetch, rows, tables.subject if role == "subject" else role, tables.seed, tables.resamples)


def part_of(row: str, place: int) -> str:
    """The part of a row id at ``place`` ("lume:Task1:abc": 1 is "Task1"); "" where there is none."""
    parts = row.split(":")
    return parts[place] if place < len(parts) else ""


def means_by(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Mean of the scored values Float[rows] under each name, names sorted; names without a scored row are left out."""
    found = {}
    for name in sorted(set(names)):
        mine = values[[other == name for other in names]]
        if np.isfinite(mine).any():
            found[name] = float(np.nanmean(mine))
    return found
