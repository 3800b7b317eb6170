"""Quantisation attack with the libraries people deploy with: bitsandbytes NF4 and torchao int8 weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from efface.attacks.bare import merged
from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.some_rows import RETAIN_ROWS, with_some_retain
from efface.card import Card
from efface.data.rows import Bundle, Rows
from efface.errors import NeedsError
from efface.settings import Settings, setting

CARD = Card(
    title="Quantisation by bitsandbytes and torchao",
    source="arXiv:2410.16454 (ICLR 2025); NF4: arXiv:2305.14314",
    code="bitsandbytes, torchao",
    summary="Stores every linear layer but the output head as int8 or NF4 with the library's own quantiser. What small "
    "updates hid may be back.",
    confirmed=(
        "as transformers does it: all linear layers are quantised, embeddings, output head and norms are not",
        "NF4 in blocks of 64 without double quantisation, int8 with one scale per output row: the libraries' defaults",
    ),
    differs=(
        "the stored weights are the library's, the arithmetic is ours: they are read back into floats, so that CPU and "
        "GPU agree and no kernel is needed",
        "the target under the same quantiser is a control, as in `round_weights`",
    ),
    tested=(
        "tiny ladder, seed 0, forget probability plain, int8, NF4: an update held inside the buckets .012, .012, .998; "
        "SmallLR .095, .094, .099; the target .998 throughout, a never-trained reference .021 throughout",
        "equal to the libraries' own layers: Linear4bit and torchao's quantised Linear, to 1e-4",
    ),
    fooled_by=("as round_weights",),
    systems=("S41",),
)


@dataclass(frozen=True)
class Quantiser:
    """One library's way to store a weight matrix. ``through``: a float matrix as it comes back from storage."""

    library: str
    bits: int
    through: Callable[[Tensor], Tensor]


def int8(weight: Tensor) -> Tensor:
    """torchao ``Int8WeightOnlyConfig``: symmetric, one scale per output row."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    quantize_(holder := nn.Sequential(layer), Int8WeightOnlyConfig())
    return holder[0].weight.dequantize()


def nf4(weight: Tensor) -> Tensor:
    """bitsandbytes NF4: blocks of 64 neighbouring weights, each with its largest as scale."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    stored, state = quantize_4bit(weight.detach().contiguous(), blocksize=64, quant_type="nf4")
    return dequantize_4bit(stored, state)


QUANTISERS = {"int8": Quantiser("torchao", 8, int8), "nf4": Quantiser("bitsandbytes", 4, nf4)}


@attack("quantise", CARD)
class Quantise(Attack):
    """int8, then NF4, each from the unquantised weights."""

    class Settings(Settings):
        kinds: tuple[Literal["int8", "nf4"], ...] = setting(
            ("int8", "nf4"), "quantisers, widest first", source="stack.md section 3", min_length=1
        )
        retain_rows: int = setting(
            RETAIN_ROWS, "most retain rows measured at each width, evenly spread over the set", source="derived", ge=1
        )

    threat = "white-box"
    controls = ("reference", "target")
    measures = ("forget", "retain")
    families = ("causal_lm",)
    version = 2

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """All forget rows, and enough retain rows to see whether quantising broke the model."""
        return with_some_retain(super().measured(data), self.settings.retain_rows)

    def check(self, data: Bundle) -> str:
        """Every library asked for must be there."""
        return missing(self.settings.kinds)

    def forwards(self, data: Bundle) -> float:
        """Every measured row under every quantiser."""
        return 4.0 * sum(map(len, self.measured(data).values())) * (1 + len(self.settings.kinds))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per quantiser. ``supplied`` counts the weights that were quantised and those that were kept."""
        if reason := missing(self.settings.kinds):
            raise NeedsError("attack.needs-extra", f"quantise: {reason}.", "pip install 'efface[quant]'.")
        adapter = merged(context.adapter)
        if not (weights := quantisable(adapter)):
            raise NeedsError(
                "attack.no-linear-layers",
                "quantise: this model holds no linear layer but its output head.",
                "round its weights with round_weights instead.",
            )
        original = {name: p.detach().clone() for name, p in weights.items()}
        count = sum(p.numel() for p in weights.values())
        kept = sum(p.numel() for p in adapter.module.parameters()) - count
        for kind in self.settings.kinds:
            quantiser = QUANTISERS[kind]
            with torch.no_grad():
                for name, p in weights.items():
                    p.copy_(quantiser.through(original[name]))
            supplied = {"quantised_weights": count, "kept_weights": kept}
            yield AttackPoint({"bits": quantiser.bits}, "bits", adapter, supplied=supplied)


def missing(kinds: tuple[str, ...]) -> str:
    """Which library is not installed, and how to get it; "" if all are."""
    lacking = sorted({QUANTISERS[k].library for k in kinds if find_spec(QUANTISERS[k].library) is None})
    return f"{' and '.join(lacking)} not installed (pip install 'efface[quant]')" if lacking else ""


def quantisable(adapter: Any) -> dict[str, Tensor]:
    """Weights of all linear layers but the output head (tied to the embeddings or not), by name."""
    head = {id(p) for p in adapter.hf.get_output_embeddings().parameters()}
    found = {f"{name}.weight": m.weight for name, m in adapter.module.named_modules() if isinstance(m, nn.Linear)}
    return {name: p for name, p in found.items() if id(p) not in head}
