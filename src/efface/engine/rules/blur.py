"""BLUR: bi-level unlearning by projection; the retain gradient loses exactly the part that fights forgetting."""

from __future__ import annotations

from typing import Literal

import torch

from efface.card import Card
from efface.engine.rules.base import Gradients, Rule, dot, rule
from efface.settings import Settings, setting

CARD = Card(
    title="BLUR: bi-level optimisation for unlearning",
    source="arXiv:2506.08164, algorithm 1",
    code="OptimAI-Lab/BLURLLMUnlearning",
    summary="u = g_r + xi * g_f, xi = gamma - <g_r, g_f> / ||g_f||^2: forgetting is the lower, prioritised problem.",
    confirmed=(
        "inner products over all trained tensors together",
        "gamma = 1",
        "xi may be negative and is not clamped",
        "the `upper` ablation exchanges the roles",
    ),
    derived=("no projection where ||g_f|| < 1e-8 ||g_r||: the quotient is noise there",),
    differs=("clipping acts on u; in the released code it runs before u is written and so has no effect",),
)


@rule("blur", CARD)
class BLUR(Rule):
    """Two gradient buffers, one pass each. Under SGD the forget loss falls to first order
    whatever the retain gradient is: <g_f, u> = gamma ||g_f||^2. Under Adam this holds only approximately."""

    class Settings(Settings):
        gamma: float = setting(
            1.0, "weight of the forget gradient", source="paper; hard-coded 1 in the TOFU code", gt=0
        )
        priority: Literal["forget", "retain"] = setting(
            "forget",
            "whose decrease is guaranteed; retain = the paper's ablation with exchanged roles",
            source="code: BLO_forget_lower / BLO_forget_upper",
        )
        clamp: bool = setting(False, "keep xi >= 0 (then the guarantee is lost)", source="derived")

    def compose(self, gradients: Gradients, generator: torch.Generator) -> dict[str, float]:
        """Write u."""
        forget, retain = gradients.forget(), gradients.retain()
        inner, f2, r2 = float(dot(retain, forget)), float(dot(forget, forget)), float(dot(retain, retain))
        if self.settings.priority == "forget":
            xi = self._xi(inner, f2, r2)
            composed = [r.add_(f, alpha=xi) for r, f in zip(retain, forget, strict=True)]
        else:
            xi = self._xi(inner, r2, f2)
            composed = [f.add_(r, alpha=xi) for r, f in zip(retain, forget, strict=True)]
        gradients.write(composed)
        cosine = inner / max(f2 * r2, 1e-30) ** 0.5
        return {"xi": xi, "cosine": cosine, "forget_gradient": f2**0.5, "retain_gradient": r2**0.5}

    def _xi(self, inner: float, own: float, other: float) -> float:
        """gamma - inner / own; ``own`` and ``other`` are squared norms, ``own`` that of the prioritised gradient."""
        if own <= 1e-16 * other or own == 0:
            return self.settings.gamma
        xi = self.settings.gamma - inner / own
        return max(xi, 0.0) if self.settings.clamp else xi
