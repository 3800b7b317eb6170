"""Bounded ascent: raise the loss of each forgotten token, but not for ever."""

from __future__ import annotations

from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import LossMethod, Needs, method
from efface.settings import Settings, setting

CARD = Card(
    title="Bounded ascent",
    source="own choice, an example",
    summary="-min(-log p, floor) on forget tokens, cross-entropy on retain tokens.",
)


@method("bounded_ascent", CARD)
class BoundedAscent(LossMethod):
    """A token at ``floor`` nats or more counts as forgotten and pulls no further."""

    class Settings(Settings):
        floor: float = setting(5.0, "nats per token at which a token counts as forgotten", source="own choice", gt=0)

    needs = Needs(retain=True)

    def forget_loss(self, view: View) -> Tensor:
        """-mean min(-log p, floor)."""
        return -view.mean_tokens((-view.logp).clamp(max=self.settings.floor))

    def retain_loss(self, view: View) -> Tensor:
        """Token-mean cross-entropy."""
        return view.mean_tokens(-view.logp)
