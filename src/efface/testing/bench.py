"""A small bench for tests and plug-ins: a fictitious world, a tiny target that knows it, and one that never did."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from efface.build import Made, base, made
from efface.data.rows import Bundle
from efface.loading import load_data
from efface.models.base import ModelAdapter
from efface.spec import RunSpec, resolve

TEXT = {
    "model": {"name": "tiny", "tiny": {"width": 64, "layers": 2, "ff": 128, "heads": 2}},
    "data": {
        "benchmark": "people",
        "settings": {"people": 8, "forget": 2, "holdout": 2, "world_facts": True, "everyday": False},
    },
    "target": {"train": {"lr": 6e-3, "epochs": 22, "batch_size": 24}},
    "reference": {"train": {"lr": 6e-3, "epochs": 22, "batch_size": 24}},
}
IMAGE = {
    "model": {"name": "cnn"},
    "data": {"benchmark": "digits", "settings": {}},
    "audit": {"suite": "digits"},
    "target": {"train": {"epochs": 6}},
    "reference": {"train": {"epochs": 6}},
}


@dataclass(frozen=True)
class Bench:
    """Data and models of one family. Adapters are fresh at every call."""

    spec: RunSpec
    data: Bundle
    made: dict[str, Made]

    def model(self, role: str) -> ModelAdapter:
        """A fresh ``base``, ``target`` or ``reference``."""
        return self.made[role].open(self.spec.model)


@cache
def bench(family: str = "causal_lm", **changes: object) -> Bench:
    """The bench of a family; built once per cache (seconds)."""
    values = TEXT if family == "causal_lm" else IMAGE
    spec = resolve(("bench", values)).spec
    data, _ = load_data(spec)
    start = base(spec, data)
    models = {role: made(role, spec, data, start) for role in ("target", "reference")}
    return Bench(spec, data, {"base": start, **{r: m for r, m in models.items() if m}})
