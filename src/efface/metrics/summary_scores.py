"""AGL, AGR and H-LR: one number for how like the reference a model's outputs are, one for its features, and both.

Never read one alone: outputs like the reference's with features like the target's is what a changed last layer looks
like, and the parts stand beside every value.
"""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, Score, Tables, metric
from efface.metrics.hidden_states import FAMILIES, shared_layers, states
from efface.metrics.probes import nearest_neighbours, probe
from efface.metrics.representation import LEAST_ROWS, MIRAGE, linear_cka
from efface.metrics.stats import harmonic_mean

PROBED = ("forget", "retain", "test")
KEPT = ("neighbour", "real_authors", "world_facts")
ROLES = ("subject", "reference")
OUTPUT = tuple(
    Need("score", rows, role, prompt=prompt, optional=rows in KEPT)
    for role in ROLES
    for rows, prompt in (*((r, "prompt") for r in ("forget", "retain", *KEPT)), ("forget", "paraphrase"))
)
FEATURES = tuple(Need("hidden", rows, role, optional=rows == "test") for role in ROLES for rows in PROBED)
CODE = "yongwookim1/UUEF"
FOOLED = (
    "a product of four gaps: any one of them can hide behind the others, read `parts`",
    "chance agreement: a model that forgot everything is close to the reference on the forget set",
)


def token_accuracy(tables: Tables, rows: str, prompt: str, role: str) -> float:
    """Share of answer tokens (without the end token) that are the argmax, mean over rows; the accuracy of an image."""
    tokens = tables.tokens(rows, prompt=prompt, role=role)
    values = [hits.mean() if hits.size else np.nan for hits in tokens.body(tokens.hit)]
    if np.isnan(values).all():
        raise NotComputed(f"none of the {rows} rows could be scored")
    return float(np.nanmean(values))


def accuracies(tables: Tables, role: str) -> dict[str, float]:
    """FA, RA on trained rows; TFA, TRA on their test counterparts: the sets ``forget_test`` and ``test`` of an image
    benchmark. Text: the forget questions in held-out words; kept knowledge that was not asked to be kept (the mean over
    ``KEPT`` sets that are there), or the retain questions in held-out words."""
    try:
        tables.tokens("forget_test", role=role), tables.tokens("test", role=role)
    except NotComputed:
        return _text(tables, role)
    places = {"FA": "forget", "RA": "retain", "TFA": "forget_test", "TRA": "test"}
    return {name: token_accuracy(tables, rows, "prompt", role) for name, rows in places.items()}


def _text(tables: Tables, role: str) -> dict[str, float]:
    kept = []
    for rows in KEPT:
        try:
            kept.append(token_accuracy(tables, rows, "prompt", role))
        except NotComputed:
            continue
    return {
        "FA": token_accuracy(tables, "forget", "prompt", role),
        "RA": token_accuracy(tables, "retain", "prompt", role),
        "TFA": token_accuracy(tables, "forget", "paraphrase", role),
        "TRA": float(np.mean(kept)) if kept else token_accuracy(tables, "retain", "paraphrase", role),
    }


def logit_score(tables: Tables) -> tuple[float, dict[str, float]]:
    """(AGL, 1 - |a_U - a_R| of FA, RA, TFA and TRA)."""
    mine, theirs = (accuracies(tables, role) for role in ROLES)
    parts = {name: 1 - abs(mine[name] - theirs[name]) for name in mine}
    return float(np.prod(list(parts.values()))), parts


def feature_score(tables: Tables) -> tuple[float, dict[str, float]]:
    """(AGR, its parts: CKA to the reference on the forget rows, and 1 - |kNN_U - kNN_R| of every set that can be
    probed)."""
    layers = shared_layers(tables, *ROLES, rows="forget")
    curve = [linear_cka(*states(tables, layer, *ROLES, rows="forget").vectors) for layer in layers]
    if np.isnan(curve).all():
        raise NotComputed(
            "CKA to the reference is not defined on the forget rows: fewer than "
            f"{LEAST_ROWS} have hidden states, or one model's are the same for all of them"
        )
    parts = {"cka": max(0.0, float(np.nanmean(curve)))}
    for rows in PROBED:
        try:
            mine, theirs = (float(np.nanmean(probe(tables, nearest_neighbours, rows, role).values)) for role in ROLES)
        except NotComputed:
            continue
        parts[f"knn.{rows}"] = 1 - abs(mine - theirs)
    if len(parts) == 1:
        raise NotComputed("no set has two entities with two rows each, so nothing can be probed")
    return parts["cka"] * float(np.mean([v for name, v in parts.items() if name != "cka"])), parts


def _card(title: str, summary: str, *derived: str) -> Card:
    return Card(
        title,
        MIRAGE,
        CODE,
        summary,
        derived=("the formula: only the name was found", *derived),
        tested=("tiny ladder, seed 0: AGL of HeadOnly .39, R2 .996; AGR of HeadOnly and Bias 0, R2 .86",),
        fooled_by=FOOLED,
    )


TEXT_FORM = (
    "text: token accuracy in place of class accuracy; in place of test images the forget questions in held-out words, "
    "and the neighbour, real-author and world-fact rows"
)


@metric(
    "agl",
    needs=OUTPUT,
    directions={"*": "higher"},
    orientation="none",
    families=FAMILIES,
    fixed_rows="forget",
    card=_card(
        "AGL: agreement of outputs with the reference",
        "Product over forget and retain accuracy, on trained and on test rows, of (1 - |a_U - a_R|). 1: same outputs.",
        TEXT_FORM,
    ),
)
def agl(tables: Tables) -> Score:
    """AGL with its four factors."""
    value, parts = logit_score(tables)
    return Score("", "", value, extra={"parts": parts})


@metric(
    "agr",
    needs=FEATURES,
    directions={"*": "higher"},
    orientation="none",
    families=FAMILIES,
    fixed_rows="forget",
    card=_card(
        "AGR: agreement of features with the reference",
        "CKA(U, R) on the forget rows (unbiased, mean over layers, at least 0) times the mean over sets of "
        "(1 - |kNN_U - kNN_R|).",
        "sets: those of forget, retain and test rows that hold two entities or more",
    ),
)
def agr(tables: Tables) -> Score:
    """AGR with its factors."""
    value, parts = feature_score(tables)
    return Score("", "", value, extra={"parts": parts})


@metric(
    "h_lr",
    needs=(*OUTPUT, *FEATURES),
    directions={"*": "higher"},
    orientation="none",
    families=FAMILIES,
    fixed_rows="forget",
    card=_card("H-LR: outputs and features together", "Harmonic mean of AGL and AGR; 0 if one of them is.", TEXT_FORM),
)
def h_lr(tables: Tables) -> Score:
    """2 AGL AGR / (AGL + AGR)."""
    (logits, output), (features, hidden) = logit_score(tables), feature_score(tables)
    return Score(
        "", "", harmonic_mean([logits, features]), extra={"parts": {"agl": logits, "agr": features} | output | hidden}
    )
