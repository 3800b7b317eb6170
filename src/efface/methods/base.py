"""Method: how a model is made to forget. One file per method; see ``methods/language/npo.py`` for an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from efface.card import Card
from efface.data.rows import Rows
from efface.engine.reference import Reference
from efface.engine.select import check_untied
from efface.engine.settings import TrainSettings
from efface.engine.view import View
from efface.errors import NeedsError
from efface.models.base import ModelAdapter
from efface.progress import SILENT, Progress
from efface.registry import Registry
from efface.settings import Settings

if TYPE_CHECKING:
    from efface.artifact import Artifact

METHODS: Registry[type[Method]] = Registry("method", "efface.methods")


@dataclass(frozen=True)
class Needs:
    """What a method must be handed.

    ``retain``: retain rows. ``base``: the model before any fine-tuning. ``nll`` / ``logp`` / ``top`` / ``hidden``: what
    is computed once from the model before unlearning, by stream (``forget``, ``retain`` or an extra stream); ``hidden``
    maps a stream to layers. No method holds a second model unless ``second_model`` says why.
    """

    retain: bool = False
    base: bool = False
    nll: tuple[str, ...] = ()
    logp: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    second_model: str = ""


@dataclass
class Context:
    """What a method is given: a private working copy, its data and the run's settings. It opens no file itself.
    ``reference`` and ``steps`` (optimizer steps of the run) are set by the loop, before ``LossMethod.start``.
    ``each_epoch``: told by the loop how many passes over the forget rows are done, at the end of each, and with the
    state at hand saved in ``checkpoints``; training ends where it says True."""

    adapter: ModelAdapter
    forget: Rows
    retain: Rows
    train: TrainSettings
    seed: int = 0
    base: Callable[[], ModelAdapter] | None = None
    progress: Progress = SILENT
    checkpoints: Path | None = None
    log: Callable[[dict[str, Any]], None] = lambda event: None
    reference: Reference | None = None
    steps: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    each_epoch: Callable[[int], bool] | None = None

    def needs_retain(self, method: Method) -> bool:
        """Whether retain rows are drawn: the method wants them, they are there, and their weight is not 0."""
        return method.needs.retain and len(self.retain) > 0 and self.train.retain_weight > 0


class Method:
    """Base of all methods. ``apply`` changes ``context.adapter`` (or replaces it) so that it has forgotten.

    ``aim``: ``erasure`` (the weights no longer hold it) or ``concealment`` (outputs no longer show it).
    ``moves``: what must happen to the forget likelihood, ``down`` or ``any``; checked by the conformance battery.
    ``strength``: the setting that says how far a method without epochs of its own goes (``efface select``).
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    needs: ClassVar[Needs] = Needs()
    aim: ClassVar[str] = "erasure"
    artifact: ClassVar[str] = "weights"
    families: ClassVar[tuple[str, ...]] = ("causal_lm",)
    family_tag: ClassVar[str] = ""
    moves: ClassVar[str] = "down"
    strength: ClassVar[str] = ""

    class Settings(Settings):
        """Settings of the method; every value names its source."""

    def __init__(self, **settings: Any) -> None:
        from efface.settings import parse

        self.settings = parse(self.Settings, settings, "method")

    def check(self, context: Context) -> None:
        """Refuse by name what this method cannot work on, before anything is computed."""
        family = context.adapter.family
        if family not in self.families:
            raise NeedsError(
                "method.wrong-family",
                f"{self.name} works on {', '.join(self.families)}, not on a {family}.",
                "choose another method (`efface list methods`).",
            )
        if not len(context.forget):
            raise NeedsError(
                "method.no-forget", f"{self.name} was given an empty forget set.", "name at least one row to forget."
            )
        if self.needs.retain and not len(context.retain):
            raise NeedsError(
                "method.needs-retain",
                f"{self.name} needs a retain set and the request names none.",
                "add retain rows to the request, or use a method without one (grad_ascent).",
            )
        if self.needs.base and context.base is None:
            raise NeedsError(
                "method.needs-base",
                f"{self.name} needs the base model (before any fine-tuning) and none is given.",
                "name the model before fine-tuning with model.name, and the fine-tuned one with target.path.",
            )
        check_untied(context.adapter, context.train.select)

    def apply(self, context: Context) -> None:
        """Make ``context.adapter`` forget, in place."""
        raise NotImplementedError

    def guard(self, before: ModelAdapter, after: ModelAdapter) -> Artifact | None:
        """The artifact of a method that leaves the weights alone; None: what changed is in the weights."""
        return None


class LossMethod(Method):
    """A method that is a loss. Forget and retain terms stay separate, so that an update rule can see both gradients.

    Both are functions of a ``View`` and must add over rows. ``streams`` may add row-aligned variants of the forget rows
    (refusals, alternative answers), reached by ``view.other(name)``.
    """

    update_rule: ClassVar[str] = "sum"  # taken unless train.rule names one
    looks_ahead: ClassVar[bool] = False  # whether a step depends on how many there will be

    def streams(self, context: Context) -> dict[str, Rows]:
        """Extra streams aligned with the forget rows: {name: rows of the same length}."""
        return {}

    def retain_streams(self, context: Context) -> dict[str, Rows]:
        """Extra streams aligned with the retain rows."""
        return {}

    def hidden_layers(self, context: Context) -> tuple[int, ...]:
        """Layers whose hidden states the losses read."""
        return ()

    needs_logits: ClassVar[bool] = True

    def forget_loss(self, view: View) -> Tensor | None:
        """The part that removes; scalar, adds over rows."""
        raise NotImplementedError

    def retain_loss(self, view: View) -> Tensor | None:
        """The part that keeps; None when the method has none."""
        return None

    def start(self, context: Context) -> None:
        """Called once before the first step (draw directions, set adaptive coefficients)."""

    def after_step(self, step: int, report: dict[str, float]) -> None:
        """Called after every optimizer step with its logged figures (dual variables, schedules)."""

    def state(self) -> dict[str, Any]:
        """What ``after_step`` has changed, as plain JSON; saved in checkpoints."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` gave."""

    def apply(self, context: Context) -> None:
        """Train with this loss (``engine.loop``)."""
        from efface.engine.loop import train

        self.check(context)
        train(self, context)


def method(name: str, card: Card) -> Callable[[type[Method]], type[Method]]:
    """Register a method class under ``name`` with its Card."""

    def add(cls: type[Method]) -> type[Method]:
        cls.name, cls.card = name, card
        return METHODS.register(name, cls)

    return add
