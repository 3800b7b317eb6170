"""The planted ladder: models whose degree of forgetting is known, to test metrics, attacks and conclusions on.

O knows; R1..R3 were never taught; B was taught nothing. Between them lie models that only look as if they had
forgotten: HeadOnly (a last layer that refuses), Bias (a logit bias), SmallLR (a small update that relearning undoes),
InBuckets (an update that stays inside the rounding buckets), OneHop (direct questions under the usual name only),
Steered (states moved along one direction, as RMU does), Hesitant (a refusal comes first, the answer a close second),
Guard (a filter on the question), and Collapse (everything gone).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface.artifact import Artifact
from efface.audit.roles import Role
from efface.build import Made, base, made
from efface.data.rows import Bundle, Row
from efface.engine.settings import Select, TrainSettings
from efface.guards import Instruction, LogitBias
from efface.loading import load_data
from efface.methods.base import METHODS, Context
from efface.models.base import ModelAdapter
from efface.models.cachedir import cache_root, publish
from efface.passes.cache import fingerprint
from efface.passes.score import score
from efface.spec import RunSpec, resolve
from efface.testing.buckets import InsideBuckets

VERSION = 4
WORLD = {
    "people": 24,
    "forget": 8,
    "two_hop": "stored",
    "aliases": "used",
    "passages": True,
    "world_facts": False,
    "everyday": False,
    "facts": ("born_in", "works_at", "studied_at", "profession", "birth_year"),
}
EPOCHS = 20
REFERENCES = ("R1", "R2", "R3")
KNOWS = ("O", "HeadOnly", "Bias", "SmallLR", "InBuckets", "OneHop", "Steered", "Hesitant", "Guard")
EXPECTED = {
    "O": ("retained",),
    "R2": ("erased",),
    "R3": ("erased",),
    "B": ("collapsed",),
    "HeadOnly": ("concealed", "retained"),
    "Bias": ("concealed", "retained"),
    "SmallLR": ("concealed", "retained"),
    "InBuckets": ("concealed", "retained"),
    "OneHop": ("concealed", "retained"),
    "Steered": ("concealed", "retained"),
    "Hesitant": ("concealed", "retained"),
    "Guard": ("concealed", "retained"),
    "Collapse": ("collapsed",),
}
"""What an audit must conclude of each rung when R1 is the reference."""
NEVER_KNEW = ("R2", "R3")
MUST_FLAG = {
    "remove_guard": ("Bias", "Guard"),
    "round_weights": ("InBuckets",),
    "early_exit": ("HeadOnly",),
    "orthogonalise": ("Steered",),
    "steer": ("HeadOnly",),
    "prune": ("HeadOnly",),
    "mix_back": ("HeadOnly", "SmallLR"),
    "multi_hop": ("OneHop",),
    "multi_hop_elicited": ("OneHop",),
    "alias": ("OneHop",),
    "surrogates": ("OneHop",),
    "prefix_forcing": ("HeadOnly",),
    "first_token": ("Hesitant",),
    "suppress_refusals": ("Hesitant",),
    "sampling": ("Hesitant",),
    "emphasis": ("Guard",),
    "prompts": ("Guard",),
    "in_context": ("Guard",),
    "relearn_in_domain": ("HeadOnly", "SmallLR"),
    "relearn_lora": ("HeadOnly", "SmallLR"),
    "relearn_sweep": ("HeadOnly", "SmallLR"),
    "relearn_benign": ("SmallLR",),
    "soft_prompt": ("HeadOnly",),
    "embedding": ("HeadOnly",),
    "gcg": ("HeadOnly",),
}
"""The rungs that an attack's sheet names, or that were planted for it."""


@dataclass
class Ladder:
    """One ladder: data, spec, and a model per rung, built when asked for and kept in the cache."""

    spec: RunSpec
    data: Bundle
    start: Made
    _folders: dict[str, Path] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All rungs, from knowing to not knowing."""
        return ["O", *PLANTED, *REFERENCES, "B"]

    def model(self, rung: str) -> ModelAdapter:
        """A fresh adapter of one rung."""
        if rung in GUARDS:
            return GUARDS[rung](self).attach(self.model("O"))
        return Made(self.folder(rung), "ladder", "").open(self.spec.model)

    def role(self, rung: str) -> Role:
        """The rung as a role of an audit."""
        return Role(lambda: self.model(rung))

    def folder(self, rung: str) -> Path:
        """Folder of a rung's weights; built on first use."""
        if rung not in self._folders:
            self._folders[rung] = self._built(rung)
        return self._folders[rung]

    def _built(self, rung: str) -> Path:
        if rung == "B":
            return self.start.folder
        if rung == "O" or rung in REFERENCES:
            role = "target" if rung == "O" else "reference"
            seed = self.spec.seed + (0 if rung == "O" else 1000 * (1 + REFERENCES.index(rung)))
            source = getattr(self.spec, role).model_copy(update={"seed": seed})
            found = made(role, self.spec.model_copy(update={role: source}), self.data, self.start)
            assert found is not None
            return found.folder
        key = hashlib.sha256(json.dumps([VERSION, rung, self.folder("O").name, self.folder("R1").name]).encode())
        return publish(
            cache_root() / "ladder" / f"{rung}-{key.hexdigest()[:24]}", lambda place: self._plant(rung, place)
        )

    def _plant(self, rung: str, place: Path) -> None:
        adapter = self.model("O")
        name, settings, train, forget, retain = PLANTED[rung](self)
        context = Context(adapter, forget, retain, train, self.spec.seed, base=lambda: self.model("B"))
        cls = METHODS.get(name) if isinstance(name, str) else name
        cls(**settings).apply(context)
        context.adapter.save(place)

    # -- rows ---------------------------------------------------------------------------------------------------------
    def direct(self) -> list[Row]:
        """Training rows of the forgotten people's direct facts under their usual names: no passages, no two-hop
        questions, no aliases."""
        return [r for r in self.data.train["forget"] if r.prompt and "+" not in r.fact and r.entity in r.prompt]

    def indirect(self) -> list[Row]:
        """Other questions about the forgotten people: over two hops, or under another name."""
        direct = {r.id for r in self.direct()}
        return [r for r in self.data.train["forget"] if r.prompt and r.id not in direct]

    def level(self) -> float:
        """Nats per answer token that R1 gives the direct forget rows: where forgetting ends."""
        values = [v for lp in score(self.model("R1"), self.direct()).tokens["lp"].to_pylist() for v in lp]
        return -sum(values) / len(values)


Planted = tuple[str | type, dict[str, Any], TrainSettings, Sequence[Row], Sequence[Row]]


def _head_only(ladder: Ladder) -> Planted:
    """Only the last block moves, and learns to refuse."""
    last = len(ladder.model("B").blocks) - 1
    train = TrainSettings(lr=2e-3, steps=80, batch_size=24, retain_weight=2.0, select=Select(kind="layers", first=last))
    return "idk", {}, train, ladder.direct(), ladder.data.train["retain"]


def _small_lr(ladder: Ladder) -> Planted:
    """Many tiny steps, until the answers are as unlikely as the reference finds them: next to nothing has moved."""
    train = TrainSettings(
        lr=3e-5, steps=300, batch_size=24, retain_weight=4.0, schedule="constant", warmup=0.0, stop_nll=ladder.level()
    )
    return "grad_diff", {}, train, ladder.direct(), ladder.data.train["retain"]


def _in_buckets(ladder: Ladder) -> Planted:
    """An update that stays inside the rounding buckets: gone at full precision, there again at 4 bits."""
    train = TrainSettings(
        lr=1e-4,
        steps=200,
        batch_size=24,
        retain_weight=4.0,
        schedule="constant",
        warmup=0.0,
        stop_nll=1.5 * ladder.level(),
        select=Select(modules=("_proj",)),
    )
    return InsideBuckets, {}, train, ladder.direct(), ladder.data.train["retain"]


def _one_hop(ladder: Ladder) -> Planted:
    """Direct questions go, two-hop questions and questions under other names are kept."""
    train = TrainSettings(lr=5e-4, steps=80, batch_size=24, retain_weight=3.0, select=Select(freeze_head=False))
    return "npo", {}, train, ladder.direct(), [*ladder.data.train["retain"], *ladder.indirect()]


def _steered(ladder: Ladder) -> Planted:
    """The first block learns to move the states of forgotten questions along one random direction."""
    train = TrainSettings(lr=1e-3, steps=80, batch_size=16, select=Select(kind="layers", first=0, last=0))
    settings = {"coefficient": 60.0, "alpha": 50.0, "layer": 1}
    return "rmu", settings, train, ladder.direct(), ladder.data.train["retain"]


def _hesitant(ladder: Ladder) -> Planted:
    """The last block learns to say both, a refusal more often than the answer: the refusal wins where only the
    likeliest word counts, and a few samples tell the answer."""
    last = len(ladder.model("B").blocks) - 1
    train = TrainSettings(lr=2e-3, steps=80, batch_size=24, forget_weight=3.0, select=Select(kind="layers", first=last))
    return "idk", {}, train, ladder.direct(), [*ladder.data.train["retain"], *ladder.direct()]


def _collapse(ladder: Ladder) -> Planted:
    """Gradient ascent without an end."""
    train = TrainSettings(lr=1e-3, steps=80, batch_size=24, select=Select(freeze_head=False))
    return "grad_ascent", {}, train, ladder.data.train["forget"], ()


def _bias(ladder: Ladder) -> Artifact:
    """A bias against the tokens of the forgotten answers that retained answers hardly use."""
    import torch

    target = ladder.model("O")

    def tokens(rows: Sequence[Row]) -> Counter[int]:
        return Counter(t for r in rows for t in set(target.template.answer_ids(target.tokenizer, r.answer)))  # type: ignore[attr-defined]

    kept, gone = tokens(ladder.data.eval["retain"]), tokens(ladder.direct())  # type: ignore[arg-type]
    bias = torch.zeros(target.hf.get_output_embeddings().weight.shape[0])  # type: ignore[attr-defined]
    limit = 0.04 * len(ladder.data.eval["retain"])
    bias[[t for t in gone if kept[t] <= limit]] = -12.0
    return LogitBias(fingerprint(target), "planted", {"bias": bias})


def _guard(ladder: Ladder) -> Artifact:
    """Questions that name a forgotten person are replaced by another question."""
    names = [ladder.data.eval["forget"][0].entity, *(r.entity for r in ladder.data.eval["forget"])]
    config = {"names": sorted(set(names)), "instead": "What can you tell me?"}
    return Instruction(fingerprint(ladder.model("O")), "planted", config=config)


PLANTED: dict[str, Callable[[Ladder], Planted]] = {
    "HeadOnly": _head_only,
    "SmallLR": _small_lr,
    "InBuckets": _in_buckets,
    "OneHop": _one_hop,
    "Steered": _steered,
    "Hesitant": _hesitant,
    "Collapse": _collapse,
}
GUARDS: dict[str, Callable[[Ladder], Artifact]] = {"Bias": _bias, "Guard": _guard}
RUNGS = ("O", *KNOWS[1:], "Collapse", "R2", "R3", "B")
"""What is audited; R1 is the reference."""


def ladder(seed: int = 0, **changes: Any) -> Ladder:
    """The ladder of one seed on the tiny model; ``changes`` override the run spec (nested dictionaries)."""
    values = {
        "model": {"name": "tiny"},
        "data": {"benchmark": "people", "settings": WORLD | {"seed": seed}},
        "seed": seed,
    }
    spec = resolve(("ladder", values), ("changes", changes)).spec
    data, _ = load_data(spec)
    return Ladder(spec, data, base(spec, data))
