"""Relearning attack: a few steps of fine-tuning, and a look at what comes back that was not trained."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Literal

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows
from efface.engine.finetune import fit_in_parts
from efface.engine.settings import Select, TrainSettings
from efface.errors import NeedsError
from efface.settings import Settings, setting

CARD = Card(
    title="Relearning",
    source="arXiv:2406.13356 (benign relearning), arXiv:2410.08827 (RTT: train on some facts, test on others)",
    summary="Fine-tunes on data that does not hold the tested answers and measures how fast they return, against a model that never knew them.",
    confirmed=(
        "train and test facts are disjoint",
        "equal budget, optimizer and data for unlearned and reference model",
    ),
    derived=(
        "default learning rate: a fifth of the one that taught the target",
        "benign rows: retain rows that mention neither a forgotten entity nor a tested answer",
    ),
)


@attack("relearn", CARD)
class Relearn(Attack):
    """``in_domain``: half of the forgotten facts of every entity, tested on the other half. ``benign``: retain rows only."""

    class Settings(Settings):
        data: Literal["in_domain", "benign"] = setting(
            "in_domain", "what the attacker trains on", source="evaluation sheet 11 c1"
        )
        steps: tuple[int, ...] = setting(
            (1, 3, 8, 16),
            "optimizer steps at which is measured",
            source="sheet 11: 0..60; short for two cores [derived]",
        )
        batch_size: int = setting(8, "rows per step", source="arXiv:2406.13356", ge=1)
        lr: float | None = setting(
            None, "learning rate (none: a fifth of the one the target was trained with, else 5e-5)", source="derived"
        )
        lora: bool = setting(False, "train a LoRA adapter instead of all weights")
        test_share: float = setting(
            0.5, "in_domain: share of each entity's facts that is tested, never trained", source="RTT", gt=0, lt=1
        )

    threat = "white-box"
    controls = ("reference",)
    families = ("causal_lm",)

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """Only facts that are not trained."""
        trained, forget = self._trained_facts(data), data.eval["forget"]
        return {"forget": [r for r in forget if _fact(r) not in trained]}

    def check(self, data: Bundle) -> str:
        """In-domain needs at least two facts per entity; benign needs retain rows."""
        if not self.measured(data)["forget"]:
            return "no fact is left to be tested"
        return "" if self._rows(data) else f"there are no {self.settings.data} rows to train on"

    def forwards(self, data: Bundle) -> float:
        """Three per trained row and step, and the tested rows at every stop."""
        tested = len(self.measured(data)["forget"])
        return 3.0 * max(self.settings.steps) * self.settings.batch_size + 4.0 * tested * (1 + len(self.settings.steps))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """Yields after each number of steps; the optimizer goes on."""
        rows = self._rows(context.data)
        leaks = overlap(rows, self.measured(context.data)["forget"])
        if leaks:
            raise NeedsError(
                "attack.test-answers",
                f"Relearning rows hold tested answers (first: {leaks[0]}).",
                "remove these rows from the attack data.",
            )
        lr = self.settings.lr or (context.built_with.lr / 5 if context.built_with else 5e-5)
        settings = TrainSettings(
            lr=lr,
            batch_size=self.settings.batch_size,
            schedule="constant",
            warmup=0.0,
            select=Select(kind="lora" if self.settings.lora else "full"),
        )
        labels = 0
        for step in fit_in_parts(
            context.adapter, rows, settings, seed=context.seed, stops=self.settings.steps, progress=context.progress
        ):
            labels = step * min(self.settings.batch_size, len(rows))
            yield AttackPoint(
                {"steps": step},
                "steps",
                context.adapter,
                supplied={
                    "rows": len(rows),
                    "row_presentations": labels,
                    "learning_rate": lr,
                    "trained_parameters": sum(
                        p.numel() for p in context.adapter.module.parameters() if p.requires_grad
                    ),
                },
            )

    def _trained_facts(self, data: Bundle) -> set[str]:
        if self.settings.data != "in_domain":
            return set()
        by_entity: dict[str, list[str]] = {}
        for row in data.eval["forget"]:
            facts = by_entity.setdefault(row.entity, [])
            if _fact(row) not in facts:
                facts.append(_fact(row))
        trained: set[str] = set()
        for entity, facts in sorted(by_entity.items()):
            order = random.Random(f"relearn/{entity}").sample(facts, len(facts))
            trained.update(order[max(1, round(self.settings.test_share * len(order))) :])
        return trained

    def _rows(self, data: Bundle) -> list[Row]:
        tested = self.measured(data)["forget"]
        if self.settings.data == "in_domain":
            trained = self._trained_facts(data)
            rows = [r for r in data.train["forget"] if _fact(r) in trained]
            return [r for r in rows if not overlap([r], tested)]
        return [r for r in data.train["retain"] if not overlap([r], tested) and not _names(r, tested)]


def overlap(rows: Rows, tested: Rows) -> list[str]:
    """Ids of rows whose text holds a tested row's whole answer, or asks a tested question."""
    answers = {_plain(t.answer) for t in tested if t.answer} - {""}
    questions = {_plain(t.prompt) for t in tested if t.prompt} - {""}
    return [
        r.id
        for r in rows
        if any(a in _plain(f"{r.prompt} {r.answer}") for a in answers) or _plain(r.prompt) in questions
    ]


def _names(row: Row, tested: Rows) -> bool:
    text = _plain(f"{row.prompt} {row.answer}")
    return any(t.entity and _plain(t.entity) in text for t in tested)


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()


def _fact(row: Row) -> str:
    return row.fact or row.id
