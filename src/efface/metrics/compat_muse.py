"""Further columns of MUSE's membership table: min-k at other shares than .4, and the loss over the reference's. Read
off the tables that the other attacks read."""

from __future__ import annotations

import numpy as np

from efface.metrics.base import Need, PerRow, Tables
from efface.metrics.membership import smallest_mean
from efface.metrics.privacy import SIDES, Familiarity, membership

SHARES = (5, 10, 20, 30, 50, 60)  # percent; 40 is mia_min_k


def at_share(k: float) -> Familiarity:
    """Min-k familiarity at share ``k``."""

    def attack(tables: Tables, rows: str, role: str) -> PerRow:
        tokens = tables.tokens(rows, role=role)
        return PerRow(smallest_mean(tokens.lp, k), tokens.rows, tokens.entities)

    return attack


for _share in SHARES:
    membership(
        f"mia_min_k_{_share}",
        f"Min-k attack, k = {_share / 100:g}",
        "Shi et al. 2024 (arXiv 2310.16789); column of MUSE (arXiv 2407.06460)",
        f"the mean of the lowest {_share}% of token log-probs (at least one).",
        fooled_by=(f"answers shorter than {round(200 / _share)} tokens: it is then the single least likely token",),
    )(at_share(_share / 100))


@membership(
    "mia_reference_ratio",
    "Reference attack by ratio",
    "column of MUSE (arXiv 2407.06460)",
    "minus the mean negative log-prob divided by that under the reference model.",
    needs=(*SIDES, Need("score", role="reference"), Need("score", "holdout", "reference")),
    controls=("base",),
    fooled_by=("rows that the reference finds near certain: a small divisor makes them look foreign",),
)
def loss_ratio(tables: Tables, rows: str, role: str) -> PerRow:
    """Minus NLL over the reference's NLL; .5 for the reference itself."""
    tokens, theirs = tables.tokens(rows, role=role), tables.tokens(rows, role="reference").mean_lp
    with np.errstate(invalid="ignore", divide="ignore"):
        return PerRow(-tokens.mean_lp / theirs, tokens.rows, tokens.entities)
