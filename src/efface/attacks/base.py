"""Attack: a transform under a stated budget. It never defines a score; the same metrics are run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from efface.card import Card
from efface.data.rows import Bundle, Rows
from efface.engine.settings import TrainSettings
from efface.models.base import ModelAdapter
from efface.passes.generate import GenerateSettings
from efface.progress import SILENT, Progress
from efface.registry import Registry
from efface.settings import Settings, parse

ATTACKS: Registry[type[Attack]] = Registry("attack", "efface.attacks")


@dataclass
class AttackContext:
    """What an attack is given. ``adapter`` is a private copy that the attack may change; ``seed`` fixes its randomness.

    ``original`` gives the target (the model before unlearning) to attacks that declare ``needs_original``.
    ``built_with``: training settings that taught the target, where they are known (an attacker's default learning rate
    hangs on them). ``naive`` gives a model that never knew (a second reference, which is no control; else the
    reference, else the base model; None where there is none of them) to attacks that declare ``needs_naive``.
    """

    adapter: ModelAdapter
    data: Bundle
    seed: int = 0
    original: Callable[[], ModelAdapter] | None = None
    built_with: TrainSettings | None = None
    progress: Progress = SILENT
    naive: Callable[[], ModelAdapter] | None = None


@dataclass(frozen=True)
class AttackPoint:
    """The model under attack at one budget.

    ``budget``: one number per dimension (steps, bits, words ...); ``axis`` names the one curves are drawn over.
    ``adapter``: measured at once, before the generator goes on (it may change the same weights further). ``rows``: maps
    an evaluation set's rows to attacked ones (prompt attacks). ``supplied``: what the attacker put in (trained
    parameters, context tokens, label tokens), logged beside every recovery. ``decoding``: sample the answers instead of
    taking the greedy ones (one sample per row). ``best``: each row counts with its best value over this point and the
    ones before it (an attacker who tries many things and keeps what works); controls are treated the same way.
    ``quiet``: a try that counts for ``best`` but is no point of the curve (fewer points, less to correct for).
    ``scores_as_before``: scores of given answers are those without the attack (only how answers are drawn differs), so
    they are taken from point 0.
    """

    budget: Mapping[str, float]
    axis: str
    adapter: ModelAdapter
    rows: Callable[[str, Rows], Rows] | None = None
    supplied: Mapping[str, float] = field(default_factory=dict)
    decoding: GenerateSettings | None = None
    best: bool = False
    quiet: bool = False
    scores_as_before: bool = False


class Attack:
    """Base of all attacks. ``points`` yields the attacked model at rising budgets; point 0 (no attack) is implied.

    ``threat``: black-box (prompts in, text out), grey-box (log-probs or activations), white-box (weights).
    ``controls``: roles the attack is also run on; without one, excess is "not computed". ``measures``: evaluation sets
    that are scored at each point. ``forwards`` is the price of one curve in row forwards, for planning under a time
    budget (a training step costs three per row).
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    threat: ClassVar[str] = "white-box"
    controls: ClassVar[tuple[str, ...]] = ("reference",)
    measures: ClassVar[tuple[str, ...]] = ("forget",)
    families: ClassVar[tuple[str, ...]] = ("causal_lm",)
    needs_original: ClassVar[bool] = False
    needs_naive: ClassVar[bool] = False
    reads_all: ClassVar[bool] = False  # along its curve every plain metric of the forget rows, not the suite's few
    reads: ClassVar[str] = ""  # metric the conclusion reads this attack by, where the suite measures it
    version: ClassVar[int] = 1  # raised when the same settings would give another curve

    class Settings(Settings):
        """Settings of the attack; every value names its source."""

    def __init__(self, **settings: Any) -> None:
        self.settings = parse(self.Settings, settings, "attack")

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """Evaluation sets that are scored at each point; an attack that trains on some facts leaves those out."""
        return {name: data.eval[name] for name in self.measures if name in data.eval}

    def check(self, data: Bundle) -> str:
        """Why this attack cannot run on this data ("" if it can)."""
        return ""

    def key(self) -> str:
        """What the curve depends on besides settings, models and rows (contents of files), for its cache key."""
        return ""

    def forwards(self, data: Bundle) -> float:
        """Row forwards that one curve costs, measuring included; a rough figure, made without a model."""
        return 5.0 * sum(len(rows) for rows in self.measured(data).values())

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """The attacked model at each budget, cheapest first."""
        raise NotImplementedError


def attack(name: str, card: Card) -> Callable[[type[Attack]], type[Attack]]:
    """Register an attack class under ``name`` with its Card."""

    def add(cls: type[Attack]) -> type[Attack]:
        cls.name, cls.card = name, card
        return ATTACKS.register(name, cls)

    return add
