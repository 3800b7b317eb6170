"""ELM: the model is trained towards what it would say if it spoke as a novice and not as an expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from efface.card import Card
from efface.data.rows import Row, Rows
from efface.engine.losses import kl_to_reference
from efface.engine.seeds import derive
from efface.engine.targets import Targets, each_row, soft_cross_entropy
from efface.engine.view import View
from efface.errors import DataError, NeedsError
from efface.methods.base import Context, LossMethod, Needs, method
from efface.models.base import Encoded, ModelAdapter
from efface.settings import Settings, setting

EXPERT = "What follows was written by someone who knows everything about {concept}, exact in every detail:\n"
NOVICE = "What follows was written by someone who has never heard of {concept} and soon talks about something else:\n"
CHANGES = (
    "Let us leave that aside and talk about the weather instead: it has been mild and sunny this week.",
    "I would rather tell you about gardening: tomatoes need a lot of light and a little patience.",
    "That is nothing I can speak about, so here is a cheerful thought: fresh bread makes any morning better.",
    "Let us turn to a happier subject, such as the best way to spend a free afternoon by the sea.",
    "I will change the subject: have you ever tried to learn a song by ear?",
)

CARD = Card(
    title="Erasure of Language Memory (ELM)",
    source="arXiv:2410.02760, section 4",
    code="rohitgandikota/erasing-llm",
    summary="CE to p (p_novice / p_expert)^eta on forget text + retain CE + fluency CE on a change of subject after "
    "the forget prompt.",
    confirmed=(
        "log target = log p - eta (log p_expert - log p_novice), top 50, temperature 1.2, soft labels",
        "eta grows linearly from 1 at the first token of the row to 1000 at its last",
        "three weights of 1",
        "LoRA on blocks 4-7, lr 5e-5, dropout 0.05, accumulation 4",
    ),
    derived=(
        "our own wording of the two contexts, and one of each (the code draws from ten)",
        "the concept of a row is its entity unless `concept` names one",
    ),
    differs=(
        "erased are the answer tokens, not the question (a document has no question: all its tokens)",
        "the fluency rows are fixed changes of subject, not text sampled from the guided model",
        "the targets are computed once from the model before unlearning, not with the adapter switched off at every "
        "step",
        "the code's retain term is CE to its own argmax; here CE to the text, or KL to the model before unlearning",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> .003 (retrained .010), retain .990",
        "family signature not shown on the small bench: no forget question gets a change of subject; a model "
        "this small reads no context, so novice and expert differ by noise",
    ),
    systems=("S08",),
)


@method("elm", CARD)
class ELM(LossMethod):
    """erase + fluency * CE(change of subject) on forget rows, CE or KL on retain rows."""

    class Settings(Settings):
        eta_first: float = setting(1.0, "strength at a row's first token", source="code, start_eta", ge=0)
        eta: float = setting(
            1000.0, "strength at a row's last token; both 0 = the model's own top tokens", source="code, eta", ge=0
        )
        top: int = setting(50, "tokens kept of each target distribution", source="code, topk", ge=1)
        temperature: float = setting(1.2, "temperature of the three distributions", source="code", gt=0)
        concept: str = setting(
            "", "what is to be erased, as the contexts name it (empty: each row's entity)", source="derived"
        )
        expert: str = setting(EXPERT, "expert context, with {concept}", source="derived wording")
        novice: str = setting(NOVICE, "novice context, with {concept}", source="derived wording")
        fluency: float = setting(
            1.0, "weight of the fluency term; 0 = none", source="code, consistence_loss_scale", ge=0
        )
        retain: Literal["nll", "kl"] = setting(
            "nll", "retain term: CE to the text or KL(ref || model)", source="code (CE), paper (KL)"
        )

    needs = Needs(retain=True)
    family_tag = "rejection"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.targets = Targets()
        if self.settings.retain == "kl":
            self.needs = Needs(retain=True, top=("retain",))

    def check(self, context: Context) -> None:
        """Also refuses rows whose concept nobody names."""
        super().check(context)
        nameless = next((row for row in context.forget if not (self.settings.concept or row.entity)), None)
        if nameless is not None:
            raise NeedsError(
                "elm.needs-concept",
                f"elm does not know what row {nameless.id!r} is about: it has no entity.",
                "set method.concept, or give the forget rows an entity.",
            )

    def streams(self, context: Context) -> dict[str, Rows]:
        """Each forget prompt with a change of subject as its answer."""
        if self.settings.fluency == 0:
            return {}
        shift = derive(context.seed, "elm fluency")
        return {
            "fluent": [
                replace(row, prompt=row.prompt or row.answer, answer=CHANGES[(shift + i) % len(CHANGES)])
                for i, row in enumerate(context.forget)
            ]
        }

    def start(self, context: Context) -> None:
        """Compute all targets from the model before unlearning: three forwards over the forget rows."""
        rows = [row for row in context.forget if not context.adapter.encode(row).problem]
        for at in range(0, len(rows), 16):
            self._read(context.adapter, rows[at : at + 16], context.train.token_budget)

    def forget_loss(self, view: View) -> Tensor:
        """Token-mean CE to the targets, plus the fluency term."""
        _ = view.logp  # the loop logs it as forget_nll and compares it with stop_nll
        erase = view.mean_tokens(soft_cross_entropy(view.logits, *self.targets.of(view.batch)))
        if self.settings.fluency == 0:
            return erase
        fluent = view.other("fluent")
        return erase + self.settings.fluency * fluent.mean_tokens(-fluent.logp)

    def retain_loss(self, view: View) -> Tensor:
        """Token-mean CE to the text, or KL to the model before unlearning."""
        return view.mean_tokens(kl_to_reference(view) if self.settings.retain == "kl" else -view.logp)

    # -- targets ----------------------------------------------------------------------------------------------------
    def _read(self, adapter: ModelAdapter, rows: Sequence[Row], token_budget: int) -> None:
        plain = [adapter.encode(row) for row in rows]
        own = self._logp(adapter, plain, token_budget)
        expert, novice = (
            self._logp(adapter, [self._in_context(adapter, row, text) for row in rows], token_budget)
            for text in (self.settings.expert, self.settings.novice)
        )
        for i, encoded in enumerate(plain):
            ids, eta = self._strength(adapter, encoded)
            tail = len(ids)
            self.targets.put(
                encoded.row_id, own[i] - eta[:, None] * (expert[i][-tail:] - novice[i][-tail:]), self.settings.top
            )

    def _logp(self, adapter: ModelAdapter, rows: Sequence[Encoded], token_budget: int) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        each_row(
            adapter,
            rows,
            token_budget,
            lambda i, logits: found.__setitem__(
                i, torch.log_softmax(logits.double() / self.settings.temperature, dim=-1)
            ),
        )
        return [found[i] for i in range(len(rows))]

    def _in_context(self, adapter: ModelAdapter, row: Row, text: str) -> Encoded:
        context = text.format(concept=self.settings.concept or row.entity)
        changed = replace(row, prompt=context + row.prompt) if row.prompt else replace(row, answer=context + row.answer)
        encoded, plain = adapter.encode(changed), adapter.encode(row)
        if encoded.problem:
            raise DataError(
                "elm.context-too-long",
                f"Row {row.id!r} no longer fits with the context in front: {encoded.problem}.",
                "shorten method.expert and method.novice, or leave the row out.",
            )
        ids = adapter.collate([plain], [0]).label_id
        if not torch.equal(adapter.collate([encoded], [0]).label_id[-len(ids) :], ids):
            raise DataError(
                "elm.context-changes-tokens",
                f"Row {row.id!r} is tokenised differently behind the context.",
                "end method.expert and method.novice with a line break.",
            )
        return encoded

    def _strength(self, adapter: ModelAdapter, row: Encoded) -> tuple[Tensor, Tensor]:
        """(gold ids, eta Float64[labels]) of one row; eta is linear in the position of the predicting token."""
        batch = adapter.collate([row], [0]).to(adapter.device)
        share = batch.label_at.double() / max(1, row.length - 1)
        return batch.label_id, self.settings.eta_first + (self.settings.eta - self.settings.eta_first) * share.clamp(
            max=1
        )
