"""Rounding attack: store the weights in few bits and look whether the memory is back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from efface.attacks.bare import merged
from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.calibrated import round_calibrated
from efface.attacks.some_rows import RETAIN_ROWS, evenly, with_some_retain
from efface.card import Card
from efface.data.rows import Bundle, Rows
from efface.errors import NeedsError
from efface.models.rounding import round_tensor, roundable
from efface.settings import Settings, setting

CARD = Card(
    title="Weight rounding (quantisation attack)",
    source="arXiv:2410.16454 (ICLR 2025), sections 3-4; GPTQ arXiv:2210.17323; AWQ arXiv:2306.00978",
    code="zzwjames/FailureLLMUnlearning",
    summary="Rounds every weight matrix to 8, 4 and 3 bits. Small unlearning updates stay inside their rounding bucket "
    "and vanish.",
    confirmed=("symmetric step max|w| / 2^(bits-1)", "embeddings, head and norms are not rounded"),
    derived=(
        "calibration: GPTQ with damping .01 and AWQ with five alphas, our own code, on retain rows of the bundle",
    ),
    differs=(
        "groups of 64 inputs by default instead of per-tensor steps",
        "the target under the same rounding is a control: where it "
        "loses the facts itself, the attack has no power at that width",
        "weights are rounded in place and computed with in full precision; kernels do not change what is stored",
    ),
    tested=(
        "tiny ladder, seed 0, forget probability unrounded and at 8, 4 and 3 bits: an update held inside the buckets "
        "(`testing.buckets`) .012, .012, .998, .998; the target .998 and a reference .021 throughout; GradDiff with a "
        "small rate (SmallLR, 6% of the weights' norm) .095, .095, .097, .094: nothing comes back",
        "gptq and awq bring back next to nothing of it (at 3 bits .014 and .036): their grids are others",
    ),
    fooled_by=(
        "a small update that many weights share survives: the few that change their bucket carry on average all of it "
        "(E[Q(w + d)] = w + d over the places in a bucket), so that equal codes alone do not bring a memory back",
        "weights that lie on a rounding grid already (GGUF): rounding onto that grid undoes any fine-tuning",
    ),
    systems=("S41",),
)


@attack("round_weights", CARD)
class RoundWeights(Attack):
    """Rounding at falling bit widths: to nearest (needs no data), or calibrated on retain rows."""

    class Settings(Settings):
        bits: tuple[int, ...] = setting(
            (8, 4, 3), "bit widths, widest first", source="paper section 4; 3 bits as stress [derived]"
        )
        retain_rows: int = setting(
            RETAIN_ROWS, "most retain rows measured at each width, evenly spread over the set", source="derived", ge=1
        )
        group: int = setting(
            64, "inputs per step; 0: one step per output row; -1: one per tensor", source="stack.md 2.4", ge=-1
        )
        calibrate: Literal["none", "gptq", "awq"] = setting(
            "none", "none: round to nearest; gptq, awq: our own forms of the two", source="paper section 4; sheet 8 c"
        )
        calibration_rows: int = setting(
            128, "gptq, awq: most retain rows that are read, evenly spread", source="sheet 8 g: 128 sequences", ge=1
        )

    threat = "white-box"
    controls = ("reference", "target")
    measures = ("forget", "retain")
    families = ("causal_lm", "classifier")
    version = 3

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """All forget rows, and enough retain rows to see whether rounding broke the model."""
        return with_some_retain(super().measured(data), self.settings.retain_rows)

    def check(self, data: Bundle) -> str:
        """Calibration reads retain rows."""
        wanted = self.settings.calibrate != "none"
        return "there are no retain rows to calibrate on" if wanted and not data.train.get("retain") else ""

    def forwards(self, data: Bundle) -> float:
        """Every measured row at every width; calibration reads its rows once a block, half the depth on average."""
        widths = len(self.settings.bits)
        measuring = 4.0 * sum(map(len, self.measured(data).values())) * (1 + widths)
        return measuring + 6.0 * widths * len(self._calibration(data))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per width, each from the unrounded weights. A LoRA adapter is merged first, as before storing."""
        adapter = merged(context.adapter)
        if self.settings.calibrate != "none" and adapter.family != "causal_lm":
            raise NeedsError(
                "attack.wrong-family",
                f"round_weights with calibrate {self.settings.calibrate} works on language models.",
                "set calibrate to none.",
            )
        rows, weights = self._calibration(context.data), roundable(adapter)
        original = {name: p.detach().clone() for name, p in weights.items()}
        for bits in self.settings.bits:
            with torch.no_grad():
                for name, p in weights.items():
                    p.copy_(original[name] if rows else round_tensor(original[name], bits, self.settings.group))
            if rows:
                round_calibrated(adapter, rows, self.settings.calibrate, bits, self.settings.group)
            supplied = {"calibration_rows": len(rows)} if rows else {}
            yield AttackPoint({"bits": bits}, "bits", adapter, supplied=supplied)

    def _calibration(self, data: Bundle) -> Rows:
        if self.settings.calibrate == "none":
            return ()
        return evenly(data.train.get("retain", ()), self.settings.calibration_rows)
