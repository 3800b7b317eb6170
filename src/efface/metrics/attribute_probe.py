"""Attribute probe: can an attribute of a forgotten person be read off the hidden states by a classifier that learned it
on people who are to be kept?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from efface.card import Card
from efface.metrics.base import KNOWLEDGE, Need, NotComputed, PerRow, Tables, metric
from efface.metrics.probes import CONTROLS, SPLIT_SEED, linear, nearest_neighbours

TRAIN, TEST = Need("attribute_states", "retain", variants=()), Need("attribute_states", "forget", variants=())
PLACES = ("answer", "question")


@dataclass(frozen=True)
class Task:
    """One attribute at one layer: train states of kept people, test states of forgotten ones. Labels Int[rows]; test
    rows whose class no kept person has are left out."""

    layer: int
    train: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    wanted: np.ndarray
    rows: list[str]
    entities: list[str]


@metric(
    "attribute_probe",
    needs=[TRAIN, TEST],
    directions=KNOWLEDGE,
    fixed_rows="forget",
    card=Card(
        "Attribute probe",
        "Are We Truly Forgetting? (arXiv 2503.06991), read for language models; controls: Hewitt and Liang 2019 (arXiv "
        "1909.03368)",
        "yongwookim1/UUEF",
        "Accuracy of a logistic regression that reads the city, company, ... of a forgotten person off the "
        "hidden state, "
        "trained on the questions about kept people; mean over layers, one classifier per attribute and layer. "
        "The state "
        "is that of the last token before the words that tell (the answer's frame is given). `curve` by layer; "
        "`control`: "
        "train labels shuffled; `knn` and `question` (last token of the question): other readings; `chance`: one over "
        "the classes.",
        derived=(
            "attributes as downstream classes, trained on kept and tested on forgotten people",
            "mean over layers; only test rows whose class some kept person has",
        ),
        tested=(
            "ladder, seed 0, 15 rows: O and HeadOnly .978, SmallLR .333, OneHop .067, R1 .089, R2 .111; "
            "control .08 to .12",
        ),
        fooled_by=(
            "few people of each class in a small world: compare with the reference and the control",
            "the wrong attribute that a model makes up is as readable as a remembered one, and counts as a miss",
        ),
    ),
)
def attribute_probe(tables: Tables) -> PerRow:
    """Share of layers at which each forgotten person's attribute is read right; the reference's value is the target."""
    both = [_columns(tables, need) for need in (TRAIN, TEST)]
    tasks = {place: list(_tasks(*both, place)) for place in PLACES}
    if not tasks["answer"]:
        raise NotComputed("no forgotten person shares a class of any attribute with a kept one")
    hits, control, chance, neighbours = [], [], [], []
    for task in tasks["answer"]:
        hits.append(linear(task.train, task.labels, task.test) == task.wanted)
        control.append(_control(task))
        neighbours.append(float(np.mean(nearest_neighbours(task.train, task.labels, task.test) == task.wanted)))
        chance.append(1 / len(np.unique(task.labels)))
    values: dict[str, list[float]] = {}
    names: dict[str, str] = {}
    layers: dict[int, list[float]] = {}
    for task, hit in zip(tasks["answer"], hits, strict=True):
        layers.setdefault(task.layer, []).extend(hit.astype(float))
        for row, entity, value in zip(task.rows, task.entities, hit, strict=True):
            values.setdefault(row, []).append(float(value))
            names[row] = entity
    sizes = [len(task.rows) for task in tasks["answer"]]
    extra = {
        "curve": [float(np.mean(layers[layer])) for layer in sorted(layers)],
        "control": float(np.average(control, weights=sizes)),
        "chance": float(np.average(chance, weights=sizes)),
        "knn": float(np.average(neighbours, weights=sizes)),
        "question": _accuracy(tasks["question"]),
    }
    return PerRow(np.array([np.mean(v) for v in values.values()]), list(values), [names[r] for r in values], extra)


def _accuracy(tasks: list[Task]) -> float:
    hits = [linear(task.train, task.labels, task.test) == task.wanted for task in tasks]
    return float(np.mean(np.concatenate(hits)))


def _control(task: Task) -> float:
    shuffles = [np.random.default_rng([SPLIT_SEED, task.layer, i]).permutation(task.labels) for i in range(CONTROLS)]
    return float(np.mean([np.mean(linear(task.train, mixed, task.test) == task.wanted) for mixed in shuffles]))


@dataclass(frozen=True)
class _Columns:
    relation: np.ndarray
    layer: np.ndarray
    place: np.ndarray
    label: np.ndarray
    rows: np.ndarray
    entities: np.ndarray
    vectors: np.ndarray


def _columns(tables: Tables, need: Need) -> _Columns:
    table = tables.table(need)
    plain = [np.array(table[name].to_pylist()) for name in ("variant", "layer", "pooling", "label", "row", "entity")]
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return _Columns(*plain, flat.reshape(table.num_rows, -1).astype(np.float64))


def _tasks(train: _Columns, test: _Columns, place: str) -> Iterator[Task]:
    """Every (attribute, layer) with two or more classes to learn and a test row of one of them."""
    for relation in sorted(set(train.relation) & set(test.relation)):
        for layer in sorted(set(train.layer)):
            seen, asked = (
                np.flatnonzero((side.relation == relation) & (side.layer == layer) & (side.place == place))
                for side in (train, test)
            )
            labels = train.label[seen]
            asked = asked[np.isin(test.label[asked], labels)]
            if len(np.unique(labels)) > 1 and len(asked):
                yield Task(
                    int(layer),
                    train.vectors[seen],
                    labels,
                    test.vectors[asked],
                    test.label[asked],
                    test.rows[asked].tolist(),
                    test.entities[asked].tolist(),
                )
