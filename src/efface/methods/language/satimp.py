"""SatImp: gradient ascent on tokens that are known but not yet saturated."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import Needs, method
from efface.methods.retain_term import RetainSettings, WithRetain
from efface.settings import setting

CARD = Card(
    title="Saturation and importance reweighting (SatImp)",
    source="arXiv:2505.11953",
    code="Puning97/SatImp-for-LLM-Unlearning; locuslab/open-unlearning (SatImp)",
    summary="mean_t p^beta1 (1-p)^beta2 log p with a constant weight: p^beta1 spares forgotten tokens, (1-p)^beta2 "
    "certain ones.",
    confirmed=("weights detached, mean over answer tokens", "beta1 5, beta2 1, lr 1e-5, 5 epochs"),
    differs=(
        "forget : retain is 1 : 0.1 in open-unlearning's README and class but 0.1 : 1 in its yaml; both are presets "
        "here",
        "no reference model is held (the released class copies one that it never uses)",
    ),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .009 (retrained .010), retain .996",),
    fooled_by=("a fully memorised token (p = 1) has weight 0: such a target hardly moves at the start",),
)

WEIGHTS = {"readme": (1.0, 0.1), "yaml": (0.1, 1.0), "equal": (1.0, 1.0)}


@method("satimp", CARD)
class SatImp(WithRetain):
    """a * mean_tokens sg(p^beta1 (1-p)^beta2) log p + b * retain term; (a, b) from the preset."""

    class Settings(RetainSettings):
        beta1: float = setting(5.0, "exponent of p (saturation)", source="paper; open-unlearning", ge=0)
        beta2: float = setting(1.0, "exponent of 1 - p (importance); 0 = WGA", source="paper; open-unlearning", ge=0)
        preset: Literal["readme", "yaml", "equal"] = setting(
            "readme",
            "forget : retain weight: readme 1 : 0.1, yaml 0.1 : 1, equal 1 : 1",
            source="open-unlearning, which contradicts itself",
        )

    needs = Needs(retain=True)
    family_tag = "divergence"

    def forget_loss(self, view: View) -> Tensor:
        """Weighted log-likelihood, to be minimised."""
        logp = view.logp.detach()
        weight = torch.exp(self.settings.beta1 * logp) * (-torch.expm1(logp)).clamp(min=0) ** self.settings.beta2
        return WEIGHTS[self.settings.preset][0] * view.mean_tokens(weight * view.logp)

    def retain_loss(self, view: View) -> Tensor | None:
        """The chosen retain term, times the preset's weight."""
        kept = super().retain_loss(view)
        return None if kept is None else WEIGHTS[self.settings.preset][1] * kept
