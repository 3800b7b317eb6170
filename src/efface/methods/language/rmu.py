"""RMU and adaptive RMU: forget text is steered to a random direction at one layer, retain text is held in place."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from efface.card import Card
from efface.engine.representation import Steering, at_depth, check_layers, positions
from efface.engine.view import View
from efface.methods.base import Context, LossMethod, Needs, method
from efface.methods.plain_training import check_no_stop
from efface.settings import Settings, setting

CARD = Card(
    title="Representation Misdirection for Unlearning (RMU)",
    source="arXiv:2403.03218, section 4",
    code="centerforaisafety/wmdp",
    summary="||h - c u||^2 on forget text + alpha ||h - h_ref||^2 on retain text at one layer; the forward stops "
    "there.",
    confirmed=(
        "u drawn once, unit length, fixed",
        "c 6.5, alpha 1200, layer 7 of 32 (0-based block), down_proj of blocks 5-7, lr 5e-5",
        "all tokens of the forget text",
    ),
    derived=(
        "u is Gaussian; the released code draws from [0, 1), an all-positive direction (`direction: positive`)",
        "both errors are divided by the squared mean norm of the reference states at forget text (`normalise`)",
        "the layer is carried to other models by relative depth (8 of 32 = 0.25)",
    ),
    differs=(
        "padding and position 0 (the attention sink) are left out; the released code averages over both",
        "each row counts the same (mean over its positions, then over rows), so micro-batches add up",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .001 (retrained .010), retain .997",
        "small bench, coefficient of adaptive_rmu: cosine to the old states .15 on forget rows, .99 on retain rows",
    ),
    fooled_by=("shallow: relearning and fine-tuning on other data bring it back",),
    systems=("S08",),
)

ADAPTIVE = Card(
    title="Adaptive RMU",
    source="arXiv:2408.06223",
    code="RebelsNLU-jaist/llm-unlearning",
    summary="RMU with c = factor * mean ||h_ref(x_f)||: the coefficient follows the model's own activation norm.",
    confirmed=(
        "c proportional to the norm of the reference states of the forget text at the same layer",
        "factor 5 (sheet: 3-5)",
    ),
    derived=("the mean runs over all forget rows before training; the published code sets it batch by batch",),
    differs=CARD.differs,
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .001 (retrained .010), retain .996",
        "small bench: cosine to the old states .15 on forget rows, .99 on retain rows",
    ),
    fooled_by=CARD.fooled_by,
)


class Steered(Settings):
    """Settings of RMU."""

    adaptive: bool = setting(False, "set the coefficient from the model's own activation norm (adaptive RMU)")
    coefficient: float = setting(
        6.5, "length c of the target vector (not adaptive)", source="WMDP script; meaningless on another model", gt=0
    )
    factor: float = setting(
        5.0,
        "adaptive: c = factor x mean norm of the reference states of the forget rows",
        source="adaptive RMU; sheet 3-5",
        gt=0,
    )
    alpha: float = setting(
        1200.0, "weight of the retain error; 0 = none", source="WMDP script (open-unlearning: 1)", ge=0
    )
    layer: int | None = setting(
        None,
        "layer read: output of block 1..n (none: a quarter of the depth)",
        source="WMDP: 8 of 32, derived share",
        ge=1,
    )
    direction: Literal["gaussian", "positive"] = setting(
        "gaussian", "random direction; positive = U[0,1) as released", source="derived; code"
    )
    where: Literal["all", "answer"] = setting(
        "all", "positions of the forget rows that are steered (never position 0)", source="WMDP code: all"
    )
    normalise: bool = setting(
        True, "divide both errors by the squared reference norm instead of the width", source="derived, sheet M2-5 (h)"
    )


@method("rmu", CARD)
class RMU(LossMethod):
    """mean_rows ||h - c u||^2 / s + alpha * mean_rows ||h - h_ref||^2 / s, s = (mean ||h_ref(x_f)||)^2."""

    Settings = Steered
    needs = Needs(retain=True, hidden=("forget", "retain"))
    needs_logits: ClassVar[bool] = False
    family_tag = "representation"
    layer: int
    steering: Steering

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.alpha == 0:
            self.needs = Needs(hidden=("forget",))

    def check(self, context: Context) -> None:
        """Also refuses a layer that does not exist or that nothing trained can reach."""
        super().check(context)
        check_no_stop(self.name, context.train)
        check_layers(context.adapter, context.train.select, self.hidden_layers(context), self.name)

    def hidden_layers(self, context: Context) -> tuple[int, ...]:
        """The one layer that is read."""
        self.layer = self.settings.layer or at_depth(context.adapter, 0.25)
        return (self.layer,)

    def start(self, context: Context) -> None:
        """Fix direction, coefficient and scale for the whole run."""
        assert context.reference is not None
        norm = context.reference.mean_norm("forget", self.layer)
        coefficient = self.settings.factor * norm if self.settings.adaptive else self.settings.coefficient
        self.steering = Steering(
            context.seed, self.settings.direction, coefficient, norm**2 if self.settings.normalise else None
        )
        context.notes["steering"] = {"layer": self.layer, "reference_norm": norm, "coefficient": coefficient}

    def forget_loss(self, view: View) -> Tensor:
        """Squared distance of the forget states to c * u."""
        return view.mean_rows(self.steering.away(view.hidden(self.layer), positions(view, self.settings.where)))

    def retain_loss(self, view: View) -> Tensor | None:
        """alpha times the squared distance of the retain states to what they were."""
        if self.settings.alpha == 0:
            return None
        kept = self.steering.keep(view.hidden(self.layer), view.ref_hidden(self.layer), view.mask)
        return self.settings.alpha * view.mean_rows(kept)


@method("adaptive_rmu", ADAPTIVE)
class AdaptiveRMU(RMU):
    """RMU whose coefficient is ``factor`` times the model's own norm."""

    class Settings(Steered):
        adaptive: bool = setting(
            True, "set the coefficient from the model's own activation norm", source="arXiv:2408.06223"
        )
