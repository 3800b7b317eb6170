"""Artifacts that leave the weights alone: a bias on next-token logits, an instruction in front of every question."""

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
