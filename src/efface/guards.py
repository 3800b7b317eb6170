"""Artifacts that leave the weights alone: a bias on next-token logits, and an instruction in front of every question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from efface.artifact import Artifact
from efface.errors import NeedsError

if TYPE_CHECKING:
    from efface.models.base import ModelAdapter


class LogitBias(Artifact):
    """``bias`` Float[vocabulary] is added to every next-token logit. Conceals, erases nothing. Strength scales it."""

    kind = "logit_wrapper"

    def _put_on(self, model: ModelAdapter, strength: float) -> None:
        _language(model, self.kind).logit_bias = strength * self.tensors["bias"].float()


class Instruction(Artifact):
    """``config["instruction"]`` is put in front of every question. Conceals, erases nothing. Strength is on or off."""

    kind = "input_guard"

    def _put_on(self, model: ModelAdapter, strength: float) -> None:
        _language(model, self.kind).instruction = str(self.config["instruction"])


def _language(model: Any, kind: str) -> Any:
    if model.family != "causal_lm":
        raise NeedsError(
            "artifact.wrong-family",
            f"A {kind} belongs on a language model, not on a {model.family}.",
            "choose another kind of artifact.",
        )
    return model
