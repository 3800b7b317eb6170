"""Mixing back: an attacker who has the original goes a little of the way from the unlearned weights towards it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from efface.attacks.bare import merged
from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.card import Card
from efface.data.rows import Bundle
from efface.errors import NeedsError
from efface.models.base import ModelAdapter
from efface.settings import Settings, setting

CARD = Card(
    title="Mixing back towards the original",
    source="model mixing of arXiv:2406.09179 (UWC), used as an attack; control and reading derived",
    summary="theta_U + s (theta_O - theta_U) for small s. A memory that returns at a small s lies close by; the "
    "reference, mixed in the same way, shows what the original alone brings in.",
    derived=(
        "an attacker who has the original has the memory already: the curve says how far the weights are, not what can "
        "be had from the unlearned model alone. What was supplied is the whole original",
        "the reference has its own path to the original; weights between two models trained apart can be bad for both",
    ),
    tested=(
        "tiny ladder, seed 0, forget probability at s = 0, .2, .4: SmallLR .10, .16, .25; HeadOnly .44, .54, .75; "
        "references .01, .02, .09 and .02, .03, .10",
    ),
    fooled_by=("a method that moves far in directions that do not matter looks thorough",),
)


@attack("mix_back", CARD)
class MixBack(Attack):
    """A curve over s, the share of the way back."""

    class Settings(Settings):
        shares: tuple[float, ...] = setting(
            (0.05, 0.1, 0.2, 0.4), "shares s of the way to the original, rising", source="derived", min_length=1
        )

    threat = "white-box"
    controls = ("reference",)
    families = ("causal_lm", "classifier")
    needs_original = True

    def forwards(self, data: Bundle) -> float:
        """Every measured row at every share."""
        return 4.0 * sum(map(len, self.measured(data).values())) * (1 + len(self.settings.shares))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per share, each from the unmixed weights. Guards stay where they are; LoRA adapters are merged."""
        assert context.original is not None
        adapter = merged(context.adapter)
        mine, theirs = floats(adapter), {n: t.clone() for n, t in floats(merged(context.original())).items()}
        if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in theirs.items()}:
            raise NeedsError(
                "attack.other-shape",
                "mix_back: the original does not have the same parameters as this model.",
                "audit a model that was made from the target, or leave mix_back out.",
            )
        start = {n: t.clone() for n, t in mine.items()}
        weights = sum(t.numel() for t in theirs.values())
        for share in self.settings.shares:
            with torch.no_grad():
                for name, t in mine.items():
                    t.copy_(torch.lerp(start[name], theirs[name].to(t.device, t.dtype), share))
            supplied = {"original_weights": weights, "bits": 32.0 * weights}
            yield AttackPoint({"share": share}, "share", adapter, supplied=supplied)


def floats(adapter: ModelAdapter) -> dict[str, Tensor]:
    """All floating-point parameters and buffers that are saved, by name; they share memory with the model."""
    return {n: t.detach() for n, t in adapter.module.state_dict().items() if t.is_floating_point()}
