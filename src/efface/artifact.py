"""Artifact: what a method returns. ``attach`` puts it on the target and gives a model again.

Kinds: ``weights`` (changed tensors), ``edit`` (the same, from a closed-form change), ``adapter`` (LoRA),
``logit_wrapper`` (changes next-token logits), ``input_guard`` (changes what the model is asked) and ``retrieval_guard``
(answers from a store). Strength 0 is the target itself, bit for bit; save -> load gives the same outputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from efface.errors import ModelError, NeedsError, SpecError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from efface.models.base import ModelAdapter

KINDS = ("weights", "edit", "adapter", "logit_wrapper", "input_guard", "retrieval_guard")
CLASSES: dict[str, type[Artifact]] = {}


@dataclass
class Artifact:
    """Base of all kinds. ``target``: weight fingerprint of the model it belongs to; ``config``: plain JSON."""

    target: str
    method: str = ""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = ""
    form: ClassVar[str] = ""  # tells two classes of one kind apart

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.kind:
            if cls.kind not in KINDS:
                raise SpecError(
                    "artifact.unknown-kind", f"{cls.kind!r} is not an artifact kind.", nearest(cls.kind, KINDS)
                )
            CLASSES["/".join(filter(None, (cls.kind, cls.form)))] = cls

    def attach(self, target: ModelAdapter, strength: float = 1.0) -> ModelAdapter:
        """A new adapter with this artifact on it; ``target`` stays untouched. Strength 0 is the target, bit for bit."""
        from efface.passes.cache import fingerprint

        if (found := fingerprint(target)) != self.target:
            raise ModelError(
                "artifact.other-target",
                f"This {self.kind} artifact was made for a model with fingerprint "
                f"{self.target[:12]}, not {found[:12]}.",
                "attach it to the target it was made from.",
            )
        model = target.clone()
        if strength:
            self._put_on(model, strength)
        return model

    def save(self, folder: Path) -> None:
        """Write ``artifact.json`` and ``artifact.safetensors``."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        if self.tensors:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}, folder / "artifact.safetensors"
            )
        self.save_head(folder)

    def save_head(self, folder: Path) -> None:
        """Write ``artifact.json`` only: for a full model folder, whose own weights are the tensors."""
        head = {
            "schema": 1,
            "kind": self.kind,
            "form": self.form,
            "target": self.target,
            "method": self.method,
            "config": self.config,
        }
        (folder / "artifact.json").write_text(json.dumps(head, indent=1, sort_keys=True))

    @staticmethod
    def load(folder: Path) -> Artifact:
        """Read what ``save`` wrote (JSON and safetensors only)."""
        from safetensors.torch import load_file

        path = folder / "artifact.json"
        if not path.is_file():
            raise ModelError(
                "artifact.missing", f"{folder} holds no artifact.json.", "point at the `model` folder of a run."
            )
        head = json.loads(path.read_text())
        own = folder / "artifact.safetensors"
        tensors: dict[str, Tensor] = {}
        for part in [own] if own.is_file() else sorted(folder.glob("*.safetensors")):
            tensors |= load_file(part)
        found = artifact_class(head.get("kind", ""), head.get("form", ""))
        return found(head["target"], head["method"], tensors, head["config"])

    def _put_on(self, model: ModelAdapter, strength: float) -> None:
        raise NeedsError(
            "artifact.abstract", f"{type(self).__name__} does not say how it is attached.", "use a registered kind."
        )


def artifact_class(kind: str, form: str = "") -> type[Artifact]:
    """The class of a kind and form; one that nothing provides here is refused by name."""
    if kind not in KINDS:
        raise SpecError("artifact.unknown-kind", f"{kind!r} is not an artifact kind.", nearest(kind, KINDS))
    import efface.guards  # noqa: F401  (registers the guard kinds)

    name = f"{kind}/{form}" if form else kind
    if name not in CLASSES:
        raise NeedsError(
            "artifact.no-provider",
            f"Nothing installed provides artifacts of kind {name}.",
            "install the plug-in that made it; it registers by subclassing Artifact.",
        )
    return CLASSES[name]


class Weights(Artifact):
    """Changed parameters. Strength s between 0 and 1 mixes: target + s * (unlearned - target), in float32."""

    kind = "weights"

    @classmethod
    def between(cls, target: ModelAdapter, changed: ModelAdapter, method: str) -> Self:
        """Keep every parameter and buffer of ``changed`` that differs from ``target``."""
        import torch

        from efface.passes.cache import fingerprint

        before = dict(target.module.state_dict())
        after = dict(changed.module.state_dict())
        moved = {k: v.detach().clone() for k, v in after.items() if not torch.equal(v, before[k].to(v.device))}
        return cls(fingerprint(target), method, moved)

    def _put_on(self, model: ModelAdapter, strength: float) -> None:
        import torch

        state = model.module.state_dict()
        done: set[int] = set()
        with torch.no_grad():
            for name, value in self.tensors.items():
                place = state[name]
                if place.data_ptr() in done:  # a tied tensor under its second name
                    continue
                done.add(place.data_ptr())
                new = value.to(place.device, place.dtype)
                place.copy_(new if strength == 1 else place + strength * (new - place))


class Edit(Weights):
    """Parameters changed in closed form (task vectors, dampening)."""

    kind = "edit"


class LoRA(Artifact):
    """A low-rank adapter. Strength scales its delta."""

    kind = "adapter"

    @classmethod
    def of(cls, trained: ModelAdapter, target: ModelAdapter, method: str) -> Self:
        """Take the LoRA tensors and settings out of a peft-wrapped module."""
        from efface.passes.cache import fingerprint

        config = trained.module.peft_config["default"]  # type: ignore[index]
        tensors = {n: p.detach().clone() for n, p in trained.module.named_parameters() if "lora_" in n}
        chosen = sorted({n.split(".lora_")[0].rsplit(".", 1)[-1] for n in tensors})
        return cls(
            fingerprint(target),
            method,
            tensors,
            {
                "rank": config.r,
                "alpha": config.lora_alpha,
                "dropout": config.lora_dropout,
                "modules": chosen,
                "layers": config.layers_to_transform,
            },
        )

    def _put_on(self, model: ModelAdapter, strength: float) -> None:
        import torch

        from efface.engine.select import add_lora
        from efface.engine.settings import Select

        layers = self.config.get("layers")
        span = {"first": min(layers), "last": max(layers)} if layers else {}
        add_lora(
            model,
            Select(
                kind="lora",
                rank=self.config["rank"],
                alpha=self.config["alpha"],
                modules=tuple(self.config["modules"]),
                **span,
            ),
            seed=0,
        )
        with torch.no_grad():
            for name, p in model.module.named_parameters():
                if name in self.tensors:
                    scale = strength if ".lora_B." in name or ".lora_embedding_B." in name else 1.0
                    p.copy_(self.tensors[name].to(p.device) * scale)
        model.module.eval()
