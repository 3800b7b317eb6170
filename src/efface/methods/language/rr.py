"""RR (circuit breakers): forget states are turned away from where they were, retain states are held."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.engine.representation import Steering, at_depth, check_layers, mean_positions, positions
from efface.engine.view import View
from efface.methods.base import Context, LossMethod, Needs, method
from efface.methods.plain_training import check_no_stop
from efface.settings import Settings, setting

CARD = Card(
    title="Representation Rerouting (circuit breakers)",
    source="arXiv:2406.04313, section 3, algorithm 1",
    code="GraySwanAI/circuit-breakers",
    summary="relu(cos(h, h_ref)) on forget text, ||h - h_ref||_2 on retain text, with weights that move from forget "
    "to retain.",
    confirmed=(
        "relu of the cosine at the target layers, L2 norm (not squared) for retention",
        "forget weight alpha (1 - t/2T), retain weight alpha t/2T, alpha 10 (read in copies of "
        "lorra_circuit_breaker.py)",
        "layers 10 and 20 of 32, LoRA r 16, lr 1e-4, 150 steps",
    ),
    derived=(
        "the retain norm is divided by the mean reference norm of its layer (`normalise`): the cosine has no scale, "
        "the norm has",
        "layers carried to other models by relative depth",
    ),
    differs=(
        "h = h_ref is a stationary point of the cosine, which the released code leaves through dropout and rounding; "
        "here a small "
        "seeded nudge does it (`nudge`)",
        "retention is held at the target layers by default, not at all layers: all reference states of all retain "
        "rows would have "
        "to be kept (`retain_layers: all` does it)",
        "padding and position 0 are left out of both means",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .001 (retrained .010), retain .973",
        "small bench: cosine to the old states .30 on forget rows, .99 on retain rows",
    ),
    fooled_by=("the states stay linearly decodable; relearning restores the original score in the 'Full-Stack' study",),
    systems=("S08",),
)


@method("rr", CARD)
class RR(LossMethod):
    """alpha (1 - p) mean relu(cos(h, h_ref)) + alpha p mean ||h - h_ref|| / s, p = t / (horizon T)."""

    class Settings(Settings):
        alpha: float = setting(10.0, "weight of both terms before the schedule", source="code, lorra_alpha", gt=0)
        layers: tuple[int, ...] = setting(
            (),
            "target layers: outputs of blocks 1..n (none: 31% and 62% of the depth)",
            source="paper: 10 and 20 of 32",
        )
        retain_layers: Literal["target", "all"] = setting(
            "target", "where retain states are held", source="code: all; derived default"
        )
        horizon: float = setting(
            2.0, "the schedule reaches p = 1 after this many run lengths", source="code: progress = t / 2T", ge=1
        )
        where: Literal["all", "answer"] = setting(
            "all", "positions of the forget rows that are rerouted (never position 0)", source="code: all"
        )
        nudge: float = setting(
            0.01, "size of the seeded offset inside the cosine, as a share of ||h_ref||", source="derived", ge=0
        )
        normalise: bool = setting(True, "divide retain norms by the layer's mean reference norm", source="derived")

    needs = Needs(retain=True, hidden=("forget", "retain"))
    needs_logits: ClassVar[bool] = False
    aim = "concealment"
    family_tag = "representation"
    looks_ahead = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.step, self.total = 0, 1
        self.norms: dict[int, float] = {}

    def check(self, context: Context) -> None:
        """Also refuses layers that do not exist or that nothing trained can reach."""
        super().check(context)
        check_no_stop(self.name, context.train)
        check_layers(context.adapter, context.train.select, self._targets(context), self.name)

    def hidden_layers(self, context: Context) -> tuple[int, ...]:
        """Target layers, or every layer when retain states are held everywhere."""
        if self.settings.retain_layers == "all":
            return tuple(range(1, len(context.adapter.blocks) + 1))
        return self._targets(context)

    def start(self, context: Context) -> None:
        """Length of the run and reference norms, which the schedule and the retain term need."""
        assert context.reference is not None
        self.total = max(1, context.steps)
        self.direction = Steering(context.seed, "gaussian", 1.0, None)
        self.targets, self.held = self._targets(context), self.hidden_layers(context)
        self.norms = {
            layer: context.reference.mean_norm("forget", layer) if self.settings.normalise else 1.0
            for layer in self.held
        }

    def forget_loss(self, view: View) -> Tensor:
        """Weighted relu(cosine to the reference state), mean over positions, rows and target layers."""
        mask = positions(view, self.settings.where)
        cosines = [
            mean_positions(self._aligned(view.hidden(layer), view.ref_hidden(layer)), mask) for layer in self.targets
        ]
        return self.settings.alpha * (1 - self.progress) * view.mean_rows(sum(cosines) / len(cosines))

    def _aligned(self, hidden: Tensor, reference: Tensor) -> Tensor:
        offset = self.settings.nudge * reference.norm(dim=-1, keepdim=True) * self.direction.unit(hidden)
        return F.relu(F.cosine_similarity(hidden + offset, reference, dim=-1))

    def retain_loss(self, view: View) -> Tensor:
        """Weighted distance to the reference state, mean over positions, rows and held layers."""
        drifts = [
            mean_positions((view.hidden(layer) - view.ref_hidden(layer)).norm(dim=-1), view.mask) / self.norms[layer]
            for layer in self.held
        ]
        return self.settings.alpha * self.progress * view.mean_rows(sum(drifts) / len(drifts))

    @property
    def progress(self) -> float:
        """p of the schedule, 0 at the first step."""
        return min(1.0, self.step / (self.settings.horizon * self.total))

    def after_step(self, step: int, report: dict[str, float]) -> None:
        """Advance the schedule."""
        self.step = step
        report["schedule"] = self.progress

    def state(self) -> dict[str, Any]:
        """Where the schedule stands."""
        return {"step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where it stood."""
        self.step = int(state["step"])

    def _targets(self, context: Context) -> tuple[int, ...]:
        found = self.settings.layers or (at_depth(context.adapter, 10 / 32), at_depth(context.adapter, 20 / 32))
        return tuple(sorted(set(found)))
