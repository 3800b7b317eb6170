"""Training as an attacker does it: pausing at budgets, choosing the rate that brings back most on validation rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from efface.attacks.base import AttackContext
from efface.data.rows import Rows
from efface.engine.batches import Sampler
from efface.engine.finetune import fit_in_parts
from efface.engine.settings import TrainSettings
from efface.errors import RunFailed
from efface.models.base import ModelAdapter
from efface.passes.score import score


@dataclass
class Course:
    """One training of one model at one rate."""

    adapter: ModelAdapter
    rows: Rows
    train: TrainSettings
    context: AttackContext

    def run(self, stops: tuple[int, ...]) -> Iterator[int]:
        """Train, pausing at each of ``stops``."""
        c = self.context
        yield from fit_in_parts(self.adapter, self.rows, self.train, seed=c.seed, stops=stops, progress=c.progress)

    @cached_property
    def _labels(self) -> list[int]:
        """Answer tokens of each row that can be trained on."""
        encoded = (self.adapter.encode(row) for row in self.rows)
        return [e.labels for e in encoded if not e.problem]

    def trained(self) -> dict[str, Tensor]:
        """The parameters that move."""
        return {n: p for n, p in self.adapter.module.named_parameters() if p.requires_grad}

    def supplied(self, step: int) -> dict[str, float]:
        """What the attacker put in until ``step``: of rows and answer tokens, those that were shown by then."""
        sampler = Sampler(len(self._labels), self.train.batch_size, self.context.seed, "forget")  # as engine.finetune
        batches = [sampler.rows(s) for s in range(step)]
        shown = set(chain.from_iterable(batches))
        return {
            "rows": len(shown),
            "row_presentations": sum(map(len, batches)),
            "label_tokens": sum(self._labels[i] for i in shown),
            "learning_rate": self.train.lr,
            "trained_parameters": sum(p.numel() for p in self.trained().values()),
        }


def worst_case(courses: Iterable[Course], stops: tuple[int, ...], validation: Rows) -> Iterator[tuple[int, Course]]:
    """Train each course once; then the one that brought back most of ``validation`` at any stop, stop by stop.

    Keeps the moved parameters of two courses at every stop. A course that diverges is out; ``RunFailed`` if all do.
    """
    best: Tried | None = None
    failed: RunFailed | None = None
    for course in courses:
        try:
            tried = Tried.of(course, stops, validation)
        except RunFailed as error:
            failed = error
            continue
        if best is None or tried.value > best.value:
            best = tried
    if best is None:
        raise failed or RunFailed("attack.no-rate", "No learning rate was tried.", "give relearn.sweep a factor.")
    for step, state in best.states.items():
        with torch.no_grad():
            for name, p in best.course.trained().items():
                p.copy_(state[name])
        yield step, best.course


@dataclass
class Tried:
    """A finished course: its highest validation value, and the moved parameters at every stop."""

    course: Course
    value: float
    states: dict[int, dict[str, Tensor]]

    @classmethod
    def of(cls, course: Course, stops: tuple[int, ...], validation: Rows) -> Tried:
        """Train ``course`` to its end."""
        value, states = float("-inf"), {}
        for step in course.run(stops):
            value = max(value, answer_probability(course.adapter, validation))
            states[step] = {n: p.detach().clone() for n, p in course.trained().items()}
        return cls(course, value, states)


def answer_probability(adapter: ModelAdapter, rows: Rows) -> float:
    """Mean over rows of the geometric mean probability of an answer token (the metric ``probability``)."""
    scored = [np.mean(lp) for lp in score(adapter, rows).tokens["lp"].to_pylist() if lp]
    return float(np.mean(np.exp(scored))) if scored else float("nan")
