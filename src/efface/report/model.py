"""The plain data a report is made of, read from a run alone; HTML and Markdown show the same.

Strings here have passed ``visible``; none is escaped yet. "None" never means 0: a cell without a value has a reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from efface.report.charts import Plot


@dataclass(frozen=True)
class Fact:
    """One line of a table of facts. ``code``: shown in a fixed-width font (hashes, versions)."""

    label: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class Found:
    """One finding. ``flag``: it speaks against the claim that the data is gone (or that nothing else was lost)."""

    title: str
    says: str
    flag: bool
    evidence: tuple[Fact, ...]


@dataclass(frozen=True)
class Answer:
    """The conclusion: one word with its meaning, its sentences, its limits."""

    label: str
    meaning: str
    sentences: tuple[str, ...]
    limits: tuple[str, ...]
    found: tuple[Found, ...]
    power: str


@dataclass(frozen=True)
class Said:
    """What one role answered. ``scores``: its values for this row, as text."""

    text: str
    scores: str


@dataclass(frozen=True)
class Example:
    """One row, as each role of the report answers it (None: it was not asked)."""

    row: str
    prompt: str
    gold: str
    said: tuple[Said | None, ...]


@dataclass(frozen=True)
class ExampleGroup:
    """Examples of one evaluation set."""

    title: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Cell:
    """One number as text, with what goes below it. ``reason``: not computed, because ..."""

    value: str = ""
    range: str = ""
    note: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ScoreLine:
    """One measure: a cell for each role, which way is good, and a small picture of (role, value, low, high)."""

    title: str
    gloss: str
    good: str
    cells: tuple[Cell, ...]
    picture: tuple[tuple[str, float, float | None, float | None], ...] = ()
    change: Cell | None = None


@dataclass(frozen=True)
class ScoreGroup:
    """All measures on one evaluation set."""

    title: str
    note: str
    lines: tuple[ScoreLine, ...]


@dataclass(frozen=True)
class AttackView:
    """One attack: what it does, what came of it, its charts and the numbers behind them."""

    title: str
    about: str
    threat: str
    sentences: tuple[str, ...]
    plots: tuple[Plot, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    reason: str = ""
    partial: bool = False


@dataclass(frozen=True)
class Cost:
    """Time, memory and the training itself."""

    stages: tuple[tuple[str, ...], ...]
    facts: tuple[Fact, ...]
    warnings: tuple[str, ...]
    plot: Plot | None


@dataclass(frozen=True)
class Report:
    """Everything, in the order in which it is shown. ``hidden``: texts of forget rows are not
    kept, only keyed hashes. ``raw``: the same as data, embedded for machines."""

    title: str
    subtitle: str
    date: str
    run: str
    notice: str
    asked: tuple[Fact, ...]
    answer: Answer | None
    examples: tuple[ExampleGroup, ...]
    examples_note: str
    hidden: bool
    roles: tuple[str, ...]
    scores: tuple[ScoreGroup, ...]
    attacks: tuple[AttackView, ...]
    damage: tuple[ScoreGroup, ...]
    cost: Cost
    provenance: tuple[Fact, ...]
    commands: tuple[str, ...]
    not_shown: tuple[str, ...]
    raw: dict[str, Any] = field(default_factory=dict)
