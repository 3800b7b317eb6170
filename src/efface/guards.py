"""Artifacts that leave the weights alone: a bias on next-token logits, an instruction in front of every question."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

from efface.artifact import Artifact
from efface.errors import NeedsError

if TYPE_CHECKING:
    from torch import nn

    from efface.models.base import ModelAdapter


class LogitBias(Artifact):
    """``bias`` Float[vocabulary] is added to every next-token logit. Conceals, erases nothing. Strength scales it."""

    kind = "logit_wrapper"

    def _put_on(self, model: ModelAdapter, strength: float) -> None:
        _language(model, self.kind).logit_bias = strength * self.tensors["bias"].float()


class Contrast(Artifact):
    """Next-token logits set against those of a second model, which differs from the target in ``tensors`` (``models.
    contrasted``). Strength scales ``config["alpha"]``. Conceals, erases nothing."""

    kind = "logit_wrapper"
    form = "contrast"

    @classmethod
    def between(cls, target: ModelAdapter, other: nn.Module, alpha: float, method: str) -> Self:
        """Keep every tensor of ``other`` that differs from ``target``."""
        import torch

        from efface.passes.cache import fingerprint

        before = _language(target, cls.kind).hf.state_dict()
        after = other.state_dict()
        moved = {k: v.detach().clone() for k, v in after.items() if not torch.equal(v, before[k].to(v.device))}
        return cls(fingerprint(target), method, moved, {"alpha": alpha})

    def attach(self, target: ModelAdapter, strength: float = 1.0) -> ModelAdapter:
        """The target with the second model beside it; ``target`` is left untouched."""
        from efface.models.contrasted import Contrasted

        model = super().attach(target, 0.0)
        if not strength:
            return model
        other = copy.deepcopy(_language(model, self.kind).hf)
        state = other.state_dict()
        for name, value in self.tensors.items():
            state[name].copy_(value)
        return Contrasted.of(model, other, strength * float(self.config["alpha"]))  # type: ignore[arg-type]


class Instruction(Artifact):
    """``config["instruction"]`` is put in front of every question. With ``config["names"]``, only of questions that
    hold one of these texts (whole words, any case); ``config["instead"]``, if there, then replaces such a question
    altogether. Conceals, erases nothing. Strength is on or off."""

    kind = "input_guard"

    def _put_on(self, model: ModelAdapter, strength: float) -> None:
        guarded = _language(model, self.kind)
        guarded.instruction = str(self.config.get("instruction", ""))
        guarded.guarded_names = tuple(map(str, self.config.get("names", ())))
        guarded.instead = str(self.config.get("instead", ""))


def _language(model: Any, kind: str) -> Any:
    if model.family != "causal_lm":
        raise NeedsError(
            "artifact.wrong-family",
            f"A {kind} belongs on a language model, not on a {model.family}.",
            "choose another kind of artifact.",
        )
    return model
