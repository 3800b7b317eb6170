"""Membership and representation metrics in their released forms, quirks included. Never a default.

Membership after locuslab/open-unlearning (read at d3d7cf9): its labels and mask, the last label dropped in min-k,
min-k++ and the gradient norm but not in the others, an empty answer scored 0, a reference AUC of .5 assumed, gradients
in train mode. CKA after yongwookim1/UUEF: biased, in batches; a last batch of one row, which has no CKA, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.compat import TINY, card, harness_tokens, labels, lost, without_last
from efface.metrics.hidden_states import shared_layers, states
from efface.metrics.membership import smallest_mean, standardised
from efface.metrics.privacy import Familiarity, K, report, separation, sides
from efface.metrics.representation import BATCH, MIRAGE, linear_cka_biased
from efface.metrics.stats import auc

SIDES = (labels(), labels("holdout"))
PAIRED = (*SIDES, labels(role="reference"), labels("holdout", "reference"))
GRADIENT = Need("compat_gradient")


def loss_compat(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob of every label."""
    tokens = harness_tokens(tables, rows, role)
    return PerRow(tokens.mean_lp, tokens.rows, tokens.entities)


def zlib_compat(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob over the compressed size of the decoded labels."""
    tokens = harness_tokens(tables, rows, role)
    sizes = np.array(tokens.table["zlib"].to_pylist(), dtype=np.float64)
    return PerRow(tokens.mean_lp / sizes, tokens.rows, tokens.entities)


def reference_compat(tables: Tables, rows: str, role: str) -> PerRow:
    """Mean log-prob minus that under the reference."""
    tokens = harness_tokens(tables, rows, role)
    return PerRow(tokens.mean_lp - harness_tokens(tables, rows, "reference").mean_lp, tokens.rows, tokens.entities)


def gradient_norm_compat(tables: Tables, rows: str, role: str) -> PerRow:
    """Minus the gradient norm in train mode."""
    table = tables.table(replace(GRADIENT, rows=rows, role=role))
    norms = np.array([np.nan if n is None else -n for n in table["norm"].to_pylist()], dtype=np.float64)
    ids = table["row"].to_pylist()
    return PerRow(norms, ids, [e or row for e, row in zip(table["entity"].to_pylist(), ids, strict=True)])


def _min_k(tables: Tables, rows: str, role: str, *, plus: bool) -> PerRow:
    tokens = harness_tokens(tables, rows, role)
    lp, mu, sigma = (without_last(values) for values in (tokens.lp, tokens.mu, tokens.sigma))
    values = standardised(lp, mu, sigma) if plus else lp
    scores = np.where(lost(tokens), np.nan, np.nan_to_num(smallest_mean(values, K), nan=0.0))
    return PerRow(scores, tokens.rows, tokens.entities)


def min_k_compat(tables: Tables, rows: str, role: str) -> PerRow:
    """Min-k without the last label; 0 for an empty answer."""
    return _min_k(tables, rows, role, plus=False)


def min_k_plus_compat(tables: Tables, rows: str, role: str) -> PerRow:
    """Min-k++ without the last label; 0 for an empty answer."""
    return _min_k(tables, rows, role, plus=True)


def _register(
    name: str,
    attack: Familiarity,
    title: str,
    quirk: str,
    *,
    needs: Sequence[Need] = SIDES,
    controls: Sequence[str] = ("reference", "base"),
    version: int = 1,
) -> None:
    metric(
        name,
        needs=needs,
        directions={"*": "match"},
        version=version,
        fixed_rows="forget",
        card=card(title, "AUC forget against holdout.", quirk),
    )(lambda tables: report(tables, attack, controls=controls))


DROPPED = "the last label is dropped and an empty answer scores 0"
_register("mia_loss_compat", loss_compat, "Loss attack", "every label counts")
_register("mia_zlib_compat", zlib_compat, "Zlib attack", "the compressed text is the decoded labels")
_register("mia_min_k_compat", min_k_compat, "Min-k attack, k = .4", DROPPED, version=3)
_register("mia_min_k_plus_compat", min_k_plus_compat, "Min-k++ attack, k = .4", DROPPED, version=3)
_register(
    "mia_reference_compat",
    reference_compat,
    "Reference attack",
    "the reference model is read under the same labels",
    needs=PAIRED,
    controls=("base",),
)
_register(
    "mia_gradnorm_compat",
    gradient_norm_compat,
    "Gradient norm attack",
    "train mode, with dropout; the last label is dropped, and a row with one label, which breaks it there, is unscored",
    needs=(GRADIENT, replace(GRADIENT, rows="holdout")),
    controls=(),
)


def _against(tables: Tables, *, flip: bool) -> Score:
    forget, holdout, _, _ = sides(tables, min_k_compat).scored()
    a = auc(forget, holdout)
    try:
        b, assumed = separation(tables, min_k_compat, "reference"), False
    except NotComputed:
        b, assumed = 0.5, True
    x, y = (1 - a, 1 - b) if flip else (a, b)
    return Score(
        "",
        "",
        (x - y) / (y + TINY) * 100,
        n=len(forget),
        target=0.0,
        extra={"auc": a, "auc_reference": b, "reference_assumed": assumed},
    )


@metric(
    "privleak_compat",
    needs=SIDES,
    version=3,
    directions={"*": "match"},
    orientation="none",
    fixed_rows="forget",
    card=card(
        "PrivLeak",
        "((1-A) - (1-A_R)) / (1-A_R + 1e-10) * 100.",
        "A_R = .5 without a reference (`reference_assumed`); min-k without the last label, an empty answer 0",
    ),
)
def privleak_compat(tables: Tables) -> Score:
    """PrivLeak as the harness prints it."""
    return _against(tables, flip=True)


@metric(
    "rel_diff_compat",
    needs=SIDES,
    version=3,
    directions={"*": "match"},
    orientation="none",
    fixed_rows="forget",
    card=card(
        "Relative AUC difference",
        "(A - A_R) / (A_R + 1e-10) * 100.",
        "A_R = .5 without a reference (`reference_assumed`); min-k without the last label, an empty answer 0",
    ),
)
def rel_diff_compat(tables: Tables) -> Score:
    """Relative difference of AUCs as the harness prints it."""
    return _against(tables, flip=False)


@metric(
    "cka_reference_compat",
    needs=(Need("hidden"), Need("hidden", role="reference")),
    directions={"*": "higher"},
    orientation="none",
    card=Card(
        "CKA to the reference (released code)",
        MIRAGE,
        "yongwookim1/UUEF",
        "Biased linear CKA of the last layer, averaged over batches of 512 rows (a last one of a single row left out).",
        differs=("reproduced on purpose: biased upwards unless rows far outnumber features",),
        fooled_by=("independent features read .53 at width 576",),
    ),
)
def cka_reference_compat(tables: Tables) -> Score:
    """Batch-averaged biased CKA of the last layer."""
    found = states(tables, shared_layers(tables, "subject", "reference")[-1], "subject", "reference")
    starts = range(0, len(found.rows) - 1, BATCH)  # one row alone is always its own mean: a batch needs two
    if not starts:
        raise NotComputed("a batch needs two rows, and one has hidden states")
    values = [linear_cka_biased(*(x[s : s + BATCH] for x in found.vectors)) for s in starts]
    if np.isnan(values).any():
        raise NotComputed("the hidden states of one model are the same for every row of a batch")
    alone = int(len(found.rows) % BATCH == 1)
    return Score("", "", float(np.mean(values)), n=len(found.rows) - alone, unscored=alone)
