"""Metrics of image classifiers: accuracy by set, a confidence attack on membership, and the gap to the reference."""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.metrics.base import Direction, Need, NotComputed, PerRow, Score, Tables, metric
from efface.passes.tables import Tokens

IMAGE = ("image",)
SALUN = "arXiv:2310.12508 (SalUn), experiment set-up"
CODE = "OPTML-Group/Unlearn-Saliency, Classification/evaluation/SVC_MIA.py"
MATCH: dict[str, Direction] = {"*": "match"}
MEMBERSHIP = tuple(Need("score", rows) for rows in ("retain", "test", "forget"))
CERTAIN = 1e-7  # probabilities are kept this far from 0 and 1, about the spacing of float32 below 1

ACCURACY = Card(
    title="Accuracy",
    source=SALUN,
    summary="Share of rows whose largest logit is the label's; RA on retain, TA on test, 1 - UA on forget. `chance` is "
    "what guessing among the classes of these rows gives.",
    confirmed=(
        "UA = 1 - accuracy on forget rows, RA on retain rows, TA on test rows (class requests: remaining classes)",
    ),
    differs=("shares from 0 to 1, not percent; rows are resampled one by one: classes are fixed, not a sample",),
    fooled_by=(
        "a bias of -1000 on one logit: forget accuracy 0 with every feature in place",
        "random forget rows: the reference still gets most of them right, so 0 is not the goal",
    ),
)
CONFIDENCE = Card(
    title="Confidence attack on membership",
    source=SALUN,
    code=CODE,
    summary="Share of forget rows that look like training rows to an attack fitted on retain (members) and test rows.",
    confirmed=("fitted on retain and test rows, asked about forget rows; the feature is the label's probability",),
    derived=("logistic regression on the log-odds of the label's probability, both sides weighted equally",),
    differs=(
        "the released attack is an SVM (C 3, RBF) on the probability itself, on as many retain as test rows",
        "published as MIA-efficacy, the share called NON-member: 1 minus this value",
    ),
    fooled_by=(
        "a model that generalises: members and non-members look alike and the answer is arbitrary; `extra` has the "
        "attack's balanced accuracy on its own rows, .5 = it sees nothing",
        "class requests: a class that is simply unknown reads as non-member whatever the weights hold",
    ),
)
GAP = Card(
    title="Average gap to the reference",
    source=SALUN,
    summary="Mean of |unlearned - reference| over UA, RA, TA and MIA (`mia_confidence`); 0 = like retraining.",
    confirmed=("plain mean of four absolute differences",),
    differs=("shares from 0 to 1, not percent",),
    fooled_by=("four numbers that match say nothing about features: read it with linear CKA and k-NN",),
)


@metric(
    "accuracy",
    needs=[Need("score")],
    card=ACCURACY,
    families=IMAGE,
    directions={"forget": "match", "forget_test": "match", "holdout": "match", "*": "higher"},
)
def accuracy(tables: Tables) -> PerRow:
    """1 where the label has the largest logit, else 0. ``extra["chance"]``: 1 / number of classes that the rows are of
    (not given where all are of one class)."""
    tokens = tables.tokens()
    classes = len(set(tokens.entities))
    return PerRow(hits(tokens), tokens.rows, tokens.rows, {"chance": 1 / classes} if classes > 1 else {})


@metric(
    "unlearning_accuracy",
    needs=[Need("score", "forget")],
    card=ACCURACY,
    families=IMAGE,
    directions=MATCH,
    orientation="none",
    fixed_rows="forget",
)
def unlearning_accuracy(tables: Tables) -> PerRow:
    """UA: 1 where a forget row is misclassified, else 0."""
    tokens = tables.tokens("forget")
    return PerRow(1 - hits(tokens), tokens.rows, tokens.rows)


@metric("mia_confidence", needs=MEMBERSHIP, card=CONFIDENCE, families=IMAGE, directions=MATCH, fixed_rows="forget")
def mia_confidence(tables: Tables) -> PerRow:
    """1 where the attack calls a forget row a member, else 0. ``extra["attack_accuracy"]``: its balanced accuracy on
    the retain and test rows it was fitted on. The interval takes the fitted attack as given."""
    return membership(tables, "subject")


@metric(
    "avg_gap",
    card=GAP,
    families=IMAGE,
    directions={"*": "lower"},
    orientation="none",
    fixed_rows="forget",
    needs=[*MEMBERSHIP, *(Need("score", need.rows, "reference") for need in MEMBERSHIP)],
)
def avg_gap(tables: Tables) -> Score:
    """Mean absolute difference of UA, RA, TA and MIA to the reference; ``extra`` holds the four. No interval."""
    mine, theirs = _four(tables, "subject"), _four(tables, "reference")
    gaps = {name: abs(mine[name] - theirs[name]) for name in mine}
    return Score("", "", float(np.mean(list(gaps.values()))), n=len(tables.tokens("forget")), extra=gaps)


def hits(tokens: Tokens) -> np.ndarray:
    """Float64[rows]: 1 right, 0 wrong, NaN not scored."""
    return np.array([float(hit.all()) if hit.size else np.nan for hit in tokens.hit])


def membership(tables: Tables, role: str) -> PerRow:
    """Verdict on every forget row (1 member, 0 not, NaN not scored) under one role."""
    inside, outside = (log_odds(tables.tokens(rows, role=role)) for rows in ("retain", "test"))
    asked = tables.tokens("forget", role=role)
    values = log_odds(asked)
    verdicts, skill = attack(inside[~np.isnan(inside)], outside[~np.isnan(outside)], values)
    return PerRow(verdicts, asked.rows, asked.rows, {"attack_accuracy": skill})


def log_odds(tokens: Tokens) -> np.ndarray:
    """Float64[rows]: log(p / (1 - p)) of the label's probability p; NaN where not scored."""
    p = np.exp([lp[0] if lp.size else np.nan for lp in tokens.lp]).clip(CERTAIN, 1 - CERTAIN)
    return np.log(p) - np.log1p(-p)


def attack(members: np.ndarray, others: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, float]:
    """(verdict Float64 per asked row, NaN stays NaN; balanced accuracy on ``members`` and ``others``).

    Logistic regression on one feature; both sides weigh the same, however many rows they have.
    """
    from sklearn.linear_model import LogisticRegression

    if not len(members) or not len(others):
        raise NotComputed("none of the retain or none of the test rows could be scored")
    values = np.concatenate([members, others])
    if np.ptp(values) == 0:
        raise NotComputed("every retain and test row has the same confidence, so there is nothing to tell members by")
    labels = np.repeat([1, 0], [len(members), len(others)])
    model = LogisticRegression(class_weight="balanced").fit((values - values.mean())[:, None] / values.std(), labels)

    def verdict(x: np.ndarray) -> np.ndarray:
        return model.predict((x - values.mean())[:, None] / values.std()).astype(np.float64)

    out = np.full(len(asked), np.nan)
    scored = ~np.isnan(asked)
    if scored.any():
        out[scored] = verdict(asked[scored])
    return out, float((verdict(members).mean() + 1 - verdict(others).mean()) / 2)


def _four(tables: Tables, role: str) -> dict[str, float]:
    """UA, RA, TA and MIA of one role."""
    shares = {rows: hits(tables.tokens(rows, role=role)) for rows in ("forget", "retain", "test")}
    for rows, values in shares.items():
        if np.isnan(values).all():
            raise NotComputed(f"none of the {rows} rows could be scored")
    verdicts = membership(tables, role).values
    return {
        "unlearning_accuracy": 1 - float(np.nanmean(shares["forget"])),
        "retain_accuracy": float(np.nanmean(shares["retain"])),
        "test_accuracy": float(np.nanmean(shares["test"])),
        "mia_confidence": float(np.nanmean(verdicts)),
    }
