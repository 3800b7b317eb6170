"""What unlearning broke outside its aim: questions to be kept that the target answers and the model no longer does."""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, PerRow, Tables, metric
from efface.metrics.multi_hop import said


@metric(
    "answers_destroyed",
    needs=[Need("generate", "*", role, ()) for role in ("subject", "target")],
    directions={"forget": "match", "two_hop": "match", "*": "lower"},
    orientation="none",
    card=Card(
        "Destroyed answers (unPact, destructive share)",
        "arXiv:2509.24675; evaluation sheet 4 (c) 5",
        summary="Share of the questions that the target answers which the model answers wrongly. For rows to keep: on "
        "forget rows the same share says what unlearning took, and is to match the reference's.",
        derived=("formula: the paper names it only", "answered: the greedy text holds the whole gold answer"),
        fooled_by=(
            "another wording of a right answer counts as wrong",
            "a reference trained apart misses some kept answers by chance: its value is the noise to compare with",
        ),
        systems=("S07",),
    ),
)
def answers_destroyed(tables: Tables) -> PerRow:
    """1 for a question that the target answers and the model does not, 0 for one that both answer, NaN where the target
    does not."""
    (mine, entities, rows), theirs = said(tables, "*", "subject"), said(tables, "*", "target")[0]
    values = np.where((theirs == 1) & ~np.isnan(mine), (mine == 0).astype(float), np.nan)
    return PerRow(values, rows, entities, {"target_wrong": int((theirs == 0).sum())})
