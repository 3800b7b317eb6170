"""Probes: can the entity a row is about still be read off the frozen hidden states? Each with a shuffled-label
control."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from efface.card import Card
from efface.metrics.base import KNOWLEDGE, Need, NotComputed, PerRow, Tables, metric
from efface.metrics.hidden_states import FAMILIES, shared_layers, states

NEIGHBOURS, TEST_SHARE, SPLIT_SEED, CONTROLS = 5, 0.2, 0, 5
Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
HIDDEN = (Need("hidden"),)
LIMITS = (
    "the entity's name stands in the prompt: a model that never saw the entity also separates names; compare "
    "with the reference",
    "few test rows: a fifth of the set",
)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) row numbers: 80/20 inside each class of ``labels`` Int[rows] with at least two rows, fixed seed."""
    rng, test, train = np.random.default_rng(SPLIT_SEED), [], []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            held = max(1, round(TEST_SHARE * len(rows)))
            test.append(rows[:held]), train.append(rows[held:])
    if len(test) < 2:
        raise NotComputed("fewer than two entities have two or more rows")
    return np.concatenate(train), np.concatenate(test)


def nearest_neighbours(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Labels Int[test rows] by majority of the 5 nearest train rows in cosine similarity; ties go to the more similar
    class."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train, test))
    close = b @ a.T
    nearest = np.argsort(-close, axis=1, kind="stable")[:, :NEIGHBOURS]
    votes = np.zeros((len(test), labels.max() + 1))
    for i, picked in enumerate(nearest):
        np.add.at(votes[i], labels[picked], 1 + 1e-3 * close[i, picked])
    return votes.argmax(1)


def linear(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Labels Int[test rows] by L2-regularised logistic regression (C = 1) on standardised features.

    Fitted in the span of the train rows, where the solution lies: exact, and fast when rows are fewer than features.
    """
    from sklearn.linear_model import LogisticRegression

    centre, scale = train.mean(0), np.maximum(train.std(0), 1e-8)
    train, test = (train - centre) / scale, (test - centre) / scale
    basis = np.linalg.svd(train, full_matrices=False)[2]
    return LogisticRegression(C=1.0, max_iter=2000, tol=1e-3).fit(train @ basis.T, labels).predict(test @ basis.T)


def probe(tables: Tables, classify: Classifier, rows: str = "*", role: str = "subject") -> PerRow:
    """Hits per test row, averaged over layers. ``extra``: ``control`` the same with train labels shuffled (mean of
    ``CONTROLS`` shuffles), ``chance`` one over the number of entities, the best layer with the control's own best."""
    layers = shared_layers(tables, role, rows=rows)
    hits, control = [], []
    for layer in layers:
        found = states(tables, layer, role, rows=rows)
        names = {name: i for i, name in enumerate(dict.fromkeys(found.entities))}
        labels = np.array([names[e] for e in found.entities])
        train, test = split(labels)
        x = found.vectors[0]
        hits.append(classify(x[train], labels[train], x[test]) == labels[test])
        shuffles = [np.random.default_rng([SPLIT_SEED, layer, i]).permutation(labels[train]) for i in range(CONTROLS)]
        control.append([np.mean(classify(x[train], mixed, x[test]) == labels[test]) for mixed in shuffles])
    by_layer = np.mean(hits, axis=1)
    best = int(by_layer.argmax())
    extra = {
        "control": float(np.mean(control)),
        "chance": 1 / len(np.unique(labels[train])),
        "best": float(by_layer[best]),
        "best_layer": float(layers[best]),
        "best_control": float(np.max(control, axis=0).mean()),
    }
    return PerRow(np.mean(hits, axis=0), [found.rows[i] for i in test], [found.entities[i] for i in test], extra)


@metric(
    "knn_accuracy",
    needs=HIDDEN,
    directions=KNOWLEDGE,
    families=FAMILIES,
    card=Card(
        "k-NN probe",
        "Are We Truly Forgetting? (arXiv 2503.06991)",
        "yongwookim1/UUEF",
        "Accuracy of a 5-nearest-neighbour classifier (cosine) that names the entity of a row from its hidden state; "
        "80/20 split with a fixed seed, mean over layers. `control`: train labels shuffled. `best`: the best layer.",
        derived=("entities as classes for text", "the headline: mean over layers"),
        fooled_by=LIMITS,
    ),
)
def knn_accuracy(tables: Tables) -> PerRow:
    """Share of layers at which each test row's entity is found by its neighbours."""
    return probe(tables, nearest_neighbours)


@metric(
    "linear_probe",
    needs=HIDDEN,
    directions=KNOWLEDGE,
    families=FAMILIES,
    card=Card(
        "Linear probe",
        "Alain and Bengio 2016 (arXiv 1610.01644); controls: Hewitt and Liang 2019 (arXiv 1909.03368)",
        "",
        "Accuracy of a logistic regression that names the entity of a row from its hidden state; same split, control "
        "and mean over layers as knn_accuracy.",
        derived=("entities as classes", "C = 1 on standardised features"),
        fooled_by=LIMITS,
    ),
)
def linear_probe(tables: Tables) -> PerRow:
    """Share of layers at which each test row's entity is found by a linear classifier."""
    return probe(tables, linear)
