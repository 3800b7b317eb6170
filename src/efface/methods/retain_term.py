"""The retain term that most losses share: none, cross-entropy, or KL to the model before unlearning. Not a method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from efface.engine.losses import kl_to_reference
from efface.engine.view import View
from efface.methods.base import LossMethod
from efface.settings import Settings, setting


class RetainSettings(Settings):
    """Settings of a loss with a retain term."""

    retain: Literal["none", "nll", "kl"] = setting(
        "nll",
        "retain term at label tokens: none, nll (token-mean cross-entropy) or kl (KL(ref || model))",
        source="open-unlearning: NLL",
    )


class WithRetain(LossMethod):
    """A loss whose retain term is a setting; the needs of an instance follow it."""

    Settings = RetainSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        kind = self.settings.retain
        top = tuple(stream for stream in self.needs.top if stream != "retain")
        self.needs = replace(self.needs, retain=kind != "none", top=(*top, "retain") if kind == "kl" else top)

    def retain_loss(self, view: View) -> Tensor | None:
        """Token-mean cross-entropy or KL(ref || model), reference first, without prompt and padding."""
        if self.settings.retain == "none":
            return None
        return view.mean_tokens(kl_to_reference(view) if self.settings.retain == "kl" else -view.logp)
