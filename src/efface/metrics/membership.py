"""Membership attacks: how familiar does a row look, by its loss and what can be made of it?"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from efface.metrics.base import Need, PerRow, Tables
from efface.metrics.privacy import SIDES, K, membership

VARIANCE_FLOOR = 1e-6  # of min-k++, so that a uniform distribution stays finite


def smallest_mean(values: Sequence[np.ndarray], k: float) -> np.ndarray:
    """Float[rows]: mean of the max(1, floor(k n)) smallest of each row's n values; NaN for an empty row. k = 1: the
    mean."""
    return np.array(
        [np.sort(v)[: max(1, int(np.floor(k * v.size + 1e-9)))].mean() if v.size else np.nan for v in values]
    )


def standardised(lp: Sequence[np.ndarray], mu: Sequence[np.ndarray], sigma: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(lp - mu) / sigma per token, with the variance floored: min-k++'s z."""
    return [(a - b) / np.sqrt(np.maximum(c * c, VARIANCE_FLOOR)) for a, b, c in zip(lp, mu, sigma, strict=True)]


@membership(
    "mia_loss",
    "Loss attack",
    "Yeom et al. 2018 (arXiv 1709.01604)",
    "the mean log-prob of the answer.",
    fooled_by=("texts that are easy by themselves",),
)
def loss(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob."""
    tokens = tables.tokens(rows, role=role)
    return PerRow(tokens.mean_lp, tokens.rows, tokens.entities)


@membership(
    "mia_zlib",
    "Zlib attack",
    "Carlini et al. 2021 (arXiv 2012.07805)",
    "minus the mean negative log-prob divided by the answer's size in bytes after zlib.",
    fooled_by=("short answers: about 8 bytes of header dominate their size",),
)
def zlib_ratio(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob per compressed byte."""
    tokens = tables.tokens(rows, role=role)
    sizes = np.array([len(zlib.compress((text or "").encode())) for text in tokens.texts], dtype=np.float64)
    return PerRow(tokens.mean_lp / sizes, tokens.rows, tokens.entities)


LOWER = (Need("lowercase"), Need("lowercase", "holdout"))


@membership(
    "mia_lowercase",
    "Lower-case attack",
    "Carlini et al. 2021 (arXiv 2012.07805); column of MUSE (arXiv 2407.06460)",
    "minus the mean negative log-prob divided by that of the lower-cased answer.",
    needs=(*SIDES, *LOWER),
    fooled_by=("answers without capitals: the ratio is 1 whatever the model knows",),
)
def lower_case_ratio(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob over that of the lower-cased answer, turned so that larger is more familiar."""
    tokens = tables.tokens(rows, role=role)
    lower = tables.table(replace(LOWER[0], rows=rows, role=role))["mean_lp"].to_pylist()
    found = np.array([np.nan if lp is None else lp for lp in lower], dtype=np.float64)
    return PerRow(-tokens.mean_lp / found, tokens.rows, tokens.entities)


@membership(
    "mia_min_k",
    "Min-k attack, k = .4",
    "Shi et al. 2024 (arXiv 2310.16789)",
    "the mean of the lowest 40% token log-probs (at least one).",
    fooled_by=("answers shorter than three tokens: it is then the single least likely token",),
)
def min_k(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean of the lowest ``K`` share of log-probs."""
    tokens = tables.tokens(rows, role=role)
    return PerRow(smallest_mean(tokens.lp, K), tokens.rows, tokens.entities)


@membership(
    "mia_min_k_plus",
    "Min-k++ attack, k = .4",
    "Zhang et al. 2024 (arXiv 2404.02936)",
    "the mean of the lowest 40% of (lp - mu)/sigma, mu and sigma the mean and spread of log p under the "
    "model's own distribution.",
    fooled_by=("near-certain tokens: sigma meets its floor",),
)
def min_k_plus(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean of the lowest ``K`` share of standardised log-probs."""
    tokens = tables.tokens(rows, role=role)
    return PerRow(smallest_mean(standardised(tokens.lp, tokens.mu, tokens.sigma), K), tokens.rows, tokens.entities)


@membership(
    "mia_reference",
    "Reference attack",
    "Carlini et al. 2021 (arXiv 2012.07805)",
    "the mean log-prob minus that under the reference model.",
    needs=(*SIDES, Need("score", role="reference"), Need("score", "holdout", "reference")),
    controls=("base",),
)
def against_reference(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob of the role minus the reference's; .5 for the reference itself."""
    tokens = tables.tokens(rows, role=role)
    with np.errstate(invalid="ignore"):
        return PerRow(tokens.mean_lp - tables.tokens(rows, role="reference").mean_lp, tokens.rows, tokens.entities)


@membership(
    "mia_gradnorm",
    "Gradient norm attack",
    "Nasr et al. 2019 (arXiv 1812.00910); form of the common harness",
    "minus the mean over parameter tensors of the 2-norm of the gradient of the row's mean negative log-prob.",
    controls=(),
    needs=(Need("gradient"), Need("gradient", "holdout")),
)
def gradient_norm(tables: Tables, rows: str, role: str) -> PerRow:
    """Minus the gradient norm."""
    table = tables.gradients(rows, role)
    broken = table["problem"].to_pylist()
    norms = [
        -norm if norm is not None and not problem else np.nan
        for norm, problem in zip(table["norm"].to_pylist(), broken, strict=True)
    ]
    ids = table["row"].to_pylist()
    return PerRow(np.asarray(norms), ids, [e or row for e, row in zip(table["entity"].to_pylist(), ids, strict=True)])
