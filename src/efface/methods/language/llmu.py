"""LLMU and the OPT gradient-ascent recipes: ascent on bad answers, random mismatched answers, KL on normal data.

Both papers share the three-term loss, the code and most settings; two registered methods, one skeleton.
"""

from __future__ import annotations

import random
from typing import Any, Literal

from torch import Tensor

from efface.card import Card
from efface.data.rows import Row, Rows
from efface.engine.losses import kl_to_reference
from efface.engine.reference import Reference
from efface.engine.seeds import derive
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context, LossMethod, Needs, method
from efface.methods.language.refusals import check_questions
from efface.methods.language.whole_text import mean_row_tokens, whole, whole_reference
from efface.settings import Settings, setting

CARD = Card(
    title="Large Language Model Unlearning (LLMU)",
    source="arXiv:2310.10683",
    code="kevinyaobytedance/llm_unlearn",
    summary="e1 (-CE on forget answers) + e2 (CE on 5 random normal answers to the forget prompt) + e3 KL(ref || "
    "model) on normal rows.",
    confirmed=(
        "e1, e2, e3 = 0.5, 1, 1; K = 5; batch 2, 1000 steps, lr 2e-6, linear decay",
        "answers only in the first two terms, each row a mean over its own tokens",
        "KL over all tokens of the normal data, reference first",
    ),
    derived=("normal answers are the answers of the retain rows",),
    differs=(
        "the K random answers of a row are drawn once per run, not at every step, and never equal its own answer",
        "padding is left out of the KL",
        "train.stop_nll compares the size of the forget loss; the code compares its negative, so it never stops",
    ),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .055 (retrained .010), retain .960",),
    fooled_by=("outputs on forget prompts tend to degenerate: read the repetition rate",),
)
OPT = Card(
    title="Machine Unlearning in Large Language Models: gradient ascent for harmful and copyrighted text",
    source="arXiv:2405.15152",
    code="shreya1313/llm-unlearning",
    summary=CARD.summary,
    confirmed=(
        "e1, e2, e3 = 0.5, 1, 1; K = 5; batch 2, 1000 steps, linear decay, stop at forget loss 100, seed 8888",
        "harm: full weights, lr 2e-6 (recipe section facebook/opt-1.3b)",
        "copyright: LoRA r 16 alpha 32 dropout 0.05, lr 1e-3 (set train.select and train.lr)",
    ),
    derived=CARD.derived,
    differs=(
        *CARD.differs,
        "the reference is taken before LoRA is added; in the copyright notebook it shares the wrapped modules, so "
        "its KL is about 0",
        "whole answers are drawn; the copyright code draws from one long string and so gets single characters",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .055 (retrained .010), retain .960",
        "harm on the tiny model, seeds 0-2: flagged answers 100% -> 0%, also for people the question was never trained "
        "about (reference 0%), retain ROUGE 1 -> 1",
        "book on the tiny model, seeds 0-2: BLEU of continuations 1 -> .25 (reference .24), cosine 1 -> .52 (.52), the "
        "other book 1 -> 1; no repetition",
    ),
    fooled_by=("the paper's own outputs on forget prompts are repeated symbols",),
    systems=("S27",),
)


class ThreeTerms(Settings):
    """Settings of the three-term loss."""

    forget: float = setting(0.5, "weight e1 of gradient ascent", source="both scripts, bad_weight", ge=0)
    random: float = setting(1.0, "weight e2 of random answers; 0 = none", source="both scripts, random_weight", ge=0)
    normal: float = setting(1.0, "weight e3 of the KL term", source="both scripts, normal_weight", ge=0)
    answers: int = setting(5, "random answers per forget row (K)", source="both scripts", ge=1, le=20)
    where: Literal["all", "answer"] = setting(
        "all", "positions of the normal rows in the KL: every token, or the answer's", source="both scripts: all"
    )


@method("llmu", CARD)
class LLMU(LossMethod):
    """-e1 CE(forget) + e2 mean_k CE(random answer k) on forget prompts + e3 KL(ref || model) on retain rows.

    CE is a mean over the tokens of a row, then over rows.
    """

    Settings = ThreeTerms
    needs = Needs(retain=True, top=("retain",))
    family_tag = "divergence"
    everywhere: Reference | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.terms = {"ascent": 0.0, "random": 0.0, "normal": 0.0}
        if self.settings.where == "all":
            self.needs = Needs(retain=True)

    def check(self, context: Context) -> None:
        """Also refuses forget rows without a prompt, and too few different normal answers."""
        super().check(context)
        if self.settings.random:
            check_questions(self.name, context.forget)
            self.streams(context)

    def start(self, context: Context) -> None:
        """Reference distributions at every token of the normal rows."""
        if self.settings.where == "all" and context.needs_retain(self):
            self.everywhere = whole_reference(context, "retain", context.retain)

    def streams(self, context: Context) -> dict[str, Rows]:
        """K streams ``random:k``: each forget prompt with a normal answer that is not its own."""
        if not self.settings.random:
            return {}
        drawn = [self._draw(row, context) for row in context.forget]  # type: ignore[arg-type]
        return {
            f"random:{k}": [
                Row(row.id, answers[k], row.prompt, row.entity)
                for row, answers in zip(context.forget, drawn, strict=True)
            ]  # type: ignore[union-attr]
            for k in range(self.settings.answers)
        }

    def _draw(self, row: Row, context: Context) -> list[str]:
        pool = sorted({other.answer for other in context.retain} - {row.answer})  # type: ignore[union-attr]
        if len(pool) < self.settings.answers:
            raise NeedsError(
                "method.few-answers",
                f"{self.name} draws {self.settings.answers} random answers for row {row.id}, and the retain "
                f"rows have {len(pool)} that differ from its own.",
                "lower method.answers or add retain rows.",
            )
        return random.Random(derive(context.seed, "random answers", row.id)).sample(pool, self.settings.answers)

    def forget_loss(self, view: View) -> Tensor:
        """Ascent on the gold answer, descent on the random ones; each row a mean over its tokens."""
        loss = self._weighed("ascent", self.settings.forget, -mean_row_tokens(view, -view.logp))
        for k in range(self.settings.answers if self.settings.random else 0):
            other = view.other(f"random:{k}")
            share = mean_row_tokens(other, -other.logp) / self.settings.answers
            loss = loss + self._weighed("random", self.settings.random, share)
        return loss

    def retain_loss(self, view: View) -> Tensor:
        """KL(ref || model) on the normal rows."""
        if self.settings.where == "answer":
            return self._weighed("normal", self.settings.normal, view.mean_tokens(kl_to_reference(view)))
        seen = whole(view, self.everywhere)
        return self._weighed("normal", self.settings.normal, mean_row_tokens(seen, kl_to_reference(seen)))

    def after_step(self, step: int, report: dict[str, float]) -> None:
        """The three terms of the step, unweighted, go into the log (a rule with several passes adds them up)."""
        report |= {f"{name}_term": value for name, value in self.terms.items()}
        self.terms = dict.fromkeys(self.terms, 0.0)

    def _weighed(self, name: str, weight: float, term: Tensor) -> Tensor:
        self.terms[name] += float(term.detach())
        return weight * term


@method("opt_ascent", OPT)
class OptAscent(LLMU):
    """The same loss with the settings of the OPT paper; its two recipes differ in what is trained."""
