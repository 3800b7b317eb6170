"""Rounding attack: store the weights in few bits and look whether the memory is back."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.card import Card
from efface.data.rows import Bundle, Rows
from efface.models.rounding import round_tensor, roundable
from efface.settings import Settings, setting

CARD = Card(
    title="Weight rounding (quantisation attack)",
    source="arXiv:2410.16454 (ICLR 2025), sections 3-4",
    code="zzwjames/FailureLLMUnlearning",
    summary="Rounds every weight matrix to 8, 4 and 3 bits. Small unlearning updates stay inside their rounding bucket and vanish.",
    confirmed=("symmetric step max|w| / 2^(bits-1)", "embeddings, head and norms are not rounded"),
    differs=(
        "groups of 64 inputs by default instead of per-tensor steps",
        "the target under the same rounding is a control: where it "
        "loses the facts itself, the attack has no power at that width",
    ),
    systems=("S41",),
)


@attack("round_weights", CARD)
class RoundWeights(Attack):
    """Round-to-nearest at falling bit widths; works on any weights, needs no data."""

    class Settings(Settings):
        bits: tuple[int, ...] = setting(
            (8, 4, 3), "bit widths, widest first", source="paper section 4; 3 bits as stress [derived]"
        )
        retain_rows: int = setting(
            24, "most retain rows measured at each width, evenly spread over the set", source="derived", ge=1
        )
        group: int = setting(
            64, "inputs per step; 0: one step per output row; -1: one per tensor", source="stack.md 2.4", ge=-1
        )

    threat = "white-box"
    controls = ("reference", "target")
    measures = ("forget", "retain")
    families = ("causal_lm", "classifier")

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """All forget rows, and enough retain rows to see whether rounding broke the model."""
        sets = super().measured(data)
        if len(kept := sets.get("retain", ())) > self.settings.retain_rows:
            picked = [i * len(kept) // self.settings.retain_rows for i in range(self.settings.retain_rows)]
            sets["retain"] = [kept[i] for i in picked]  # type: ignore[assignment]
        return sets

    def forwards(self, data: Bundle) -> float:
        """Every measured row at every width."""
        return 4.0 * sum(map(len, self.measured(data).values())) * (1 + len(self.settings.bits))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per width, each from the unrounded weights."""
        weights = roundable(context.adapter)
        original = {name: p.detach().clone() for name, p in weights.items()}
        for bits in self.settings.bits:
            with torch.no_grad():
                for name, p in weights.items():
                    p.copy_(round_tensor(original[name], bits, self.settings.group))
            yield AttackPoint({"bits": bits}, "bits", context.adapter)
