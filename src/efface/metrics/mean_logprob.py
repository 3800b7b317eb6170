"""Mean log-prob of a text: the loss and the perplexity that several benchmarks report."""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.metrics.base import PerRow, Tables, metric
from efface.metrics.memorisation import ANSWER
from efface.metrics.protocols import DIRECTIONS


@metric(
    "mean_logprob",
    needs=[ANSWER],
    directions=DIRECTIONS,
    card=Card(
        "Mean log-prob of a text",
        "KnowUnDo (arXiv 2407.01920); RWKU (arXiv 2406.10890)",
        "zjunlp/KnowUnDo; jinzhuoran/RWKU",
        "Mean over rows of the mean log-prob per token, in nats. `perplexity` is exp of minus that, KnowUnDo's; `loss` "
        "minus that, RWKU's membership column.",
        differs=("RWKU's table prints the loss on another scale than its code's mean: here the mean",),
        fooled_by=(
            "a ruined model: every text has a low log-prob, the kept ones too",
            "texts that are easy by themselves",
        ),
    ),
)
def mean_logprob(tables: Tables) -> PerRow:
    """Mean log-prob per row; empty texts are unscored."""
    tokens = tables.tokens()
    values = tokens.mean_lp
    scored = values[np.isfinite(values)]
    extra = {"loss": float(-scored.mean()), "perplexity": float(np.exp(-scored.mean()))} if scored.size else {}
    return PerRow(values, tokens.rows, tokens.entities, extra)
