"""PDU: flatten the logits on forget answers, subject to a bound on the retain loss that a dual variable enforces."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context, LossMethod, Needs, method
from efface.settings import Settings, setting

CARD = Card(
    title="Primal-dual unlearning (constrained entropic unlearning)",
    source="arXiv:2506.05314",
    code="locuslab/open-unlearning (PDU)",
    summary="min mean (max logit - mean logit)^2 on forget tokens, subject to retain CE <= eps; loss = flat + a "
    "(CE_r - eps), "
    "a <- max(0, a + step (CE_r - eps)).",
    confirmed=(
        "a starts at 100, step 5, first half of the run without dual steps, lr 1e-5 (TOFU script)",
        "MUSE: a 50, step 1, eps 1.5 News / 0.1 Books, warm-up 3 of 10 epochs",
        "the dual step uses the retain loss of the same batch",
    ),
    derived=(
        "eps, which the code demands, is set to the target's own retain loss on the first batch plus `margin` when "
        "it is not given",
        "warm-up as a share of the run instead of epochs",
    ),
    differs=(
        "forget positions are those that predict answer tokens; the released mask is not shifted, so it is off by one",
        "one dual step per optimizer step; the released code takes one per micro-batch",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> below .001 (retrained .010), retain .995",
    ),
    fooled_by=("eps below what the model can reach makes a grow without end, and forgetting stops",),
)


@method("pdu", CARD)
class PDU(LossMethod):
    """mean_tokens (max_v z - mean_v z)^2 on forget + a (mean_tokens CE - eps) on retain."""

    class Settings(Settings):
        dual: float = setting(100.0, "dual variable a at the start", source="TOFU script; MUSE 50", ge=0)
        dual_step: float = setting(5.0, "step size of the dual variable", source="TOFU script; MUSE 1", ge=0)
        eps: float | None = setting(
            None,
            "bound on the retain loss in nats per token (none: the target's own plus margin)",
            source="TOFU script: 0.3",
            ge=0,
        )
        margin: float = setting(
            0.1, "eps not given: nats per token above the target's own retain loss", source="derived", ge=0
        )
        dual_warmup: float = setting(
            0.5, "share of the run before the dual variable moves", source="TOFU script: 5 of 10 epochs", ge=0, le=1
        )

    needs = Needs(retain=True)
    family_tag = "divergence"
    looks_ahead = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.dual, self.eps, self.warm_steps = self.settings.dual, self.settings.eps, 0

    def check(self, context: Context) -> None:
        """Also refuses a retain weight of 0, which would leave the constraint out."""
        super().check(context)
        if context.train.retain_weight == 0:
            raise NeedsError(
                "method.needs-retain",
                f"{self.name} is a constraint on the retain loss, and train.retain_weight is 0.",
                "give it a weight, or use a method without a retain set (grad_ascent).",
            )

    def start(self, context: Context) -> None:
        """Dual variable and bound as set; length of the warm-up in steps."""
        self.dual, self.eps = self.settings.dual, self.settings.eps
        self.warm_steps = round(self.settings.dual_warmup * context.steps)

    def forget_loss(self, view: View) -> Tensor:
        """Squared distance of the largest logit from the mean logit; 0 = uniform."""
        _ = view.logp  # the loop logs it as forget_nll and compares it with stop_nll
        return view.mean_tokens((view.logits.max(-1).values - view.logits.mean(-1)) ** 2)

    def retain_loss(self, view: View) -> Tensor:
        """The Lagrangian's second term; eps shifts its value, not its gradient."""
        share = len(view.batch.label_id) / view.tokens_total
        return self.dual * (view.mean_tokens(-view.logp) - (self.eps or 0.0) * share)

    def after_step(self, step: int, report: dict[str, float]) -> None:
        """Dual ascent. The first report holds the target's own retain loss: no weight had moved when it was taken."""
        if self.eps is None:
            self.eps = report["retain_nll"] + self.settings.margin
        if step > self.warm_steps:
            self.dual = max(0.0, self.dual + self.settings.dual_step * (report["retain_nll"] - self.eps))
        report |= {"dual": self.dual, "eps": self.eps}

    def state(self) -> dict[str, Any]:
        """Dual variable and bound."""
        return {"dual": self.dual, "eps": self.eps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with them."""
        self.dual, self.eps = float(state["dual"]), None if state["eps"] is None else float(state["eps"])
