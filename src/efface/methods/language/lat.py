"""RMU+LAT: RMU on forget rows whose residual stream an adversary has pushed towards the forget answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.engine.representation import Steering, at_depth, check_layers
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context, LossMethod, Needs, method
from efface.methods.plain_training import check_no_stop
from efface.models.base import ModelAdapter
from efface.models.sharing import whole_forwards
from efface.settings import Settings, setting

CARD = Card(
    title="RMU with latent adversarial training (RMU+LAT)",
    source="arXiv:2407.15549, section 4.3",
    code="aengusl/latent-adversarial-training",
    summary="PGD finds a perturbation of the residual stream that restores the forget answers; RMU is then trained "
    "under it.",
    confirmed=(
        "targeted: the adversary minimises the forget answers' NLL",
        "projected on an L2 ball per position, start at 0, 16 iterations",
        "forget loss perturbed, retain loss not",
        "eps 2, RMU at block 7 or 8, blocks 5-7 or 6-8 trained, alpha 1200, c 6.5",
    ),
    derived=(
        "eps is a share of each position's own norm by default: 2 is far below the norms of a small model's stream",
        "step of a fixed share of eps along the unit gradient of each position; the released code uses AdamW with lr "
        "0.05",
        "perturbed is the stream before a block (the released code adds to the MLP output inside a block)",
    ),
    differs=(
        "position 0 and padding are never perturbed nor steered",
        "one model step per attack (the sheet's 4 reuse the same attack)",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .028 (retrained .010), retain .990",
        "small bench: cosine to the old states .25 on forget rows, .96 on retain rows",
    ),
    fooled_by=("local robustness only: no gain over RMU against relearning in the 'Full-Stack' study",),
    systems=("S08",),
)


@method("lat", CARD)
class LAT(LossMethod):
    """Adaptive or fixed RMU on perturbed states. Costs ``iterations`` extra passes through the whole model per step."""

    class Settings(Settings):
        adaptive: bool = setting(True, "c = factor x mean reference norm", source="adaptive RMU, sheet M2-9")
        coefficient: float = setting(6.5, "length c of the target vector (not adaptive)", source="sheet M2-7", gt=0)
        factor: float = setting(5.0, "adaptive: multiple of the mean reference norm", source="adaptive RMU", gt=0)
        alpha: float = setting(1200.0, "weight of the retain error", source="sheet M2-7", gt=0)
        layer: int | None = setting(
            None, "layer steered: output of block 1..n (none: a quarter of the depth)", source="paper: 8 of 32", ge=1
        )
        attack_layer: int | None = setting(
            None, "layer perturbed: 0 = embeddings, below `layer` (none: the one before)", source="paper: 7 of 32", ge=0
        )
        epsilon: float = setting(
            0.5, "radius of the perturbation per position", source="derived; paper 2 absolute", ge=0
        )
        unit: Literal["relative", "absolute"] = setting(
            "relative", "radius as a share of the position's own norm, or as it is", source="derived"
        )
        iterations: int = setting(16, "PGD iterations", source="paper", ge=1)
        step: float = setting(0.2, "PGD step as a share of the radius", source="derived", gt=0)

    needs = Needs(retain=True, hidden=("forget", "retain"))
    needs_logits: ClassVar[bool] = False
    family_tag = "representation"
    layer: int
    attack_layer: int
    steering: Steering

    def check(self, context: Context) -> None:
        """Also refuses layers that do not fit together."""
        super().check(context)
        check_no_stop(self.name, context.train)
        check_layers(context.adapter, context.train.select, self.hidden_layers(context), self.name)
        if not 0 <= self.attack_layer < self.layer:
            raise NeedsError(
                "method.bad-layer",
                f"{self.name} perturbs layer {self.attack_layer} but steers layer {self.layer}.",
                "set method.attack_layer below method.layer.",
            )

    def hidden_layers(self, context: Context) -> tuple[int, ...]:
        """The one layer that is steered."""
        self.layer = self.settings.layer or at_depth(context.adapter, 0.25)
        self.attack_layer = self.layer - 1 if self.settings.attack_layer is None else self.settings.attack_layer
        return (self.layer,)

    def start(self, context: Context) -> None:
        """Fix direction, coefficient and scale for the whole run."""
        assert context.reference is not None
        norm = context.reference.mean_norm("forget", self.layer)
        coefficient = self.settings.factor * norm if self.settings.adaptive else self.settings.coefficient
        self.steering = Steering(context.seed, "gaussian", coefficient, norm**2)

    def forget_loss(self, view: View) -> Tensor:
        """Squared distance of the perturbed states to c * u."""
        delta = self.attack(view)
        with perturbed(view.adapter, self.attack_layer, delta), view.adapter.autocast():
            hidden = view.adapter.forward(view.batch, logits=False, hidden=(self.layer,)).hidden[self.layer]
        return view.mean_rows(self.steering.away(hidden, view.mask))

    def retain_loss(self, view: View) -> Tensor:
        """alpha times the squared distance of the unperturbed retain states to what they were."""
        kept = self.steering.keep(view.hidden(self.layer), view.ref_hidden(self.layer), view.mask)
        return self.settings.alpha * view.mean_rows(kept)

    def attack(self, view: View) -> Tensor:
        """Float[B, T, width]: the perturbation in the ball that restores the answers; 0 outside ``view.mask``."""
        clean, mask = self._clean(view), view.mask[..., None]
        norms = clean.norm(dim=-1, keepdim=True)
        radius = self.settings.epsilon * (norms if self.settings.unit == "relative" else torch.ones_like(norms))
        delta = torch.zeros_like(clean)
        for _ in range(self.settings.iterations):
            delta.requires_grad_(True)
            gradient = self._nll_gradient(view, delta)
            with torch.no_grad():
                unit = gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-20)
                delta = (delta - self.settings.step * radius * unit) * mask
                delta = delta * (radius / delta.norm(dim=-1, keepdim=True).clamp(min=1e-20)).clamp(max=1)
        return delta.detach()

    def _nll_gradient(self, view: View, delta: Tensor) -> Tensor:
        with torch.enable_grad(), perturbed(view.adapter, self.attack_layer, delta), view.adapter.autocast():
            logits = view.adapter.forward(view.batch).logits
            assert logits is not None
            nll = F.cross_entropy(logits, view.batch.label_id, reduction="sum")
            return torch.autograd.grad(nll, delta)[0]

    def _clean(self, view: View) -> Tensor:
        """Float32[B, T, width]: the stream at the attacked layer as it is."""
        with torch.no_grad(), view.adapter.autocast():
            return (
                view.adapter.forward(view.batch, logits=False, hidden=(self.attack_layer,))
                .hidden[self.attack_layer]
                .float()
            )


@contextmanager
def perturbed(adapter: ModelAdapter, layer: int, delta: Tensor) -> Iterator[None]:
    """Add ``delta`` Float[B, T, width] to the residual stream after ``layer``, i.e. to what block ``layer`` (0-based)
    receives."""

    def add(
        module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0] + delta.to(args[0].dtype), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] + delta.to(kwargs["hidden_states"].dtype)}

    handle = adapter.blocks[layer].register_forward_pre_hook(add, with_kwargs=True)
    try:
        with whole_forwards(adapter):
            yield
    finally:
        handle.remove()
