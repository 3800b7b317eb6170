"""Weakest token: a chain of words is known as well as its least known word."""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, PerRow, Tables, metric

CARD = Card(
    title="Weakest token",
    source="own choice, an example",
    summary="min_t p(y_t | y_<t) of the gold answer.",
    fooled_by=("one rare word in an answer that is otherwise known",),
)


@metric("weakest_token", needs=[Need("score")], card=CARD)
def weakest_token(tables: Tables) -> PerRow:
    """Smallest gold probability of any answer token; rows that could not be scored are NaN."""
    tokens = tables.tokens()
    values = np.array([np.exp(lp.min()) if lp.size else np.nan for lp in tokens.lp])
    return PerRow(values, tokens.rows, tokens.entities)
