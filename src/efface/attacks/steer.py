"""Activation steering with anonymised questions: push the state of a question away from that of a question about
nobody,
and look whether the answer comes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from efface.attacks.anonymise import anonymised, split_entities, subject
from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.lead_in import LeadIn, with_edits
from efface.attacks.own_prompts import distinct
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows
from efface.engine.seeds import derive
from efface.errors import NeedsError
from efface.models.tampering import StateEdit
from efface.passes.prompt_states import prompt_states
from efface.passes.score import score
from efface.settings import Settings, setting

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

DEPTHS = (0.5, 0.75, 1.0)

CARD = Card(
    title="Anonymised activation steering (AnonAct)",
    source="arXiv:2411.02631",
    summary="Adds c * (state of the question - mean state of it about placeholders) at one layer while the first "
    "answer token is produced. Word frequencies over samples (`answer_frequency`, `pinpoint_*`) are scored under it.",
    confirmed=(
        "S_l(Q) = A_l(Q) - mean_n A_l(Q*_n) at the last prompt position; global vector: mean of S_l over questions",
        "only while the first answer token is produced: later tokens are not steered",
        "c = 2, last layers best",
    ),
    derived=(
        "placeholders: kept entities of the same kind and a name nobody has; generic nouns where there is no world",
        "the layer is chosen on questions about other forgotten entities than the tested ones, by the log-prob "
        "of their "
        "answers at c = 2, among the layers at half, three quarters and the whole of the depth",
        "lead-in: where the answer is a sentence, the model is made to start with its words before what is "
        "asked for, so "
        "that the first answer token is one of the answer; the point with coefficient 0 shows what that alone does",
    ),
    tested=(
        "ladder, seed 0, probability, c = 0/1/2/4: HeadOnly .458/.648/.845/.924, against .458/.647/.726/.617 "
        "with a random "
        "vector; SmallLR .116 to .118, OneHop .001, R1 .019 to .026 and R2 .010 to .014, random no less there",
        "NOT as sheet 9 expects: a random vector of equal norm does gain on a model whose last block refuses "
        "(bench: +.15 "
        "anonymised, +.07 to +.08 random): about half of the gain is disturbance",
        "NOT shown: that pinpointing (`pinpoint_auc`) beats the random control. Ladder HeadOnly c = 4: .452 to .768, "
        "random .744; bench: .227 to .363, three random vectors .250, .307, .448",
        "`lead_in` was set off by default after seeing seed 0 (on, the lead-in alone brings HeadOnly to .927): "
        "other seeds "
        "have not been run",
    ),
    fooled_by=(
        "no gain on specific facts is a published finding (TOFU, ROME edits), not a sign of erasure",
        "`direction: random` gives the control of equal norm",
    ),
    systems=("S33",),
)


@attack("steer", CARD)
class Steer(Attack):
    """h <- h + c * S_l(Q) at layer l and the last prompt position, at rising c."""

    class Settings(Settings):
        coefficients: tuple[float, ...] = setting(
            (1.0, 2.0, 4.0), "strengths c, rising", source="paper: 2; sheet 9 (g)"
        )
        direction: Literal["anonymised", "random"] = setting(
            "anonymised", "the steering vector, or a random one of the same norm (control)", source="sheet 9 (g)"
        )
        vector: Literal["local", "global"] = setting(
            "local", "each question's own vector, or the mean over questions", source="paper"
        )
        placeholders: int = setting(8, "anonymised variants of a question", source="derived", ge=1)
        layer: int | None = setting(None, "layer steered (none: chosen on other entities' questions)", ge=1)
        lead_in: bool = setting(
            False,
            "start the answer with its words before what is asked for, where a world tells them",
            source="derived",
        )
        selection_share: float = setting(
            0.25, "share of the forgotten entities whose questions only choose the layer", source="derived", gt=0, lt=1
        )

    threat = "grey-box"  # activations are read and written; no weight is
    version = 3

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """Questions that name their subject, without those the layer is chosen on."""
        return {"forget": self._split(data)[1]}

    def check(self, data: Bundle) -> str:
        """Needs questions that name whom they are about, of two entities (one chooses the layer)."""
        if not (rows := _named(data)):
            return "no forgotten question names whom it is about"
        if self.settings.layer is None and len({r.entity or r.id for r in rows}) < 2:
            return (
                f"all {len(rows)} questions are about one entity, so none is left to choose the layer on: set `layer`"
            )
        return ""

    def forwards(self, data: Bundle) -> float:
        """States of every variant, the screen, and the measured rows at every coefficient."""
        rows, points = len(_named(data)), 1 + self.settings.lead_in + len(self.settings.coefficients)
        screen = 0 if self.settings.layer else len(DEPTHS) * len(self._split(data)[0])
        return rows * (1 + self.settings.placeholders) + screen + 4.0 * points * len(self.measured(data)["forget"])

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per coefficient; with a lead-in first the lead-in alone."""
        model, data = context.adapter, context.data
        choosing, tested = self._split(data)
        swapped = {r.id: anonymised(r, data, self.settings.placeholders) for r in (*choosing, *tested)}
        rows = [*choosing, *tested, *chain.from_iterable(swapped.values())]
        lead = LeadIn.of(rows, data, self.settings.lead_in)
        plain = lead.put_on(model)  # type: ignore[arg-type]
        layers = self._layers(len(model.blocks))
        vectors = self._vectors(plain, [*choosing, *tested], swapped, layers, context.seed)
        layer = layers[0] if len(layers) == 1 else _best_layer(plain, choosing, lead, vectors)
        supplied = self._supplied(plain, choosing, lead, layer)
        if lead.words:
            yield AttackPoint({"coefficient": 0.0, **lead.budget()}, "coefficient", plain, lead.cut, supplied)
        for c in self.settings.coefficients:
            steered = steer(plain, vectors[layer], layer, c)
            yield AttackPoint({"coefficient": c, **lead.budget()}, "coefficient", steered, lead.cut, supplied)

    def _split(self, data: Bundle) -> tuple[list[Row], list[Row]]:
        rows = _named(data)
        return ([], rows) if self.settings.layer else split_entities(rows, self.settings.selection_share, "steer")

    def _layers(self, depth: int) -> list[int]:
        chosen = self.settings.layer
        if chosen and chosen > depth:
            raise NeedsError(
                "attack.no-layer",
                f"steer is to steer layer {chosen} of a model with layers 1 to {depth}.",
                "name a layer the model has, or none.",
            )
        if chosen:
            return [chosen]
        return sorted({math.ceil(share * depth) for share in DEPTHS})

    def _vectors(
        self,
        model: CausalLM,
        rows: Sequence[Row],
        swapped: Mapping[str, Sequence[Row]],
        layers: Sequence[int],
        seed: int,
    ) -> dict[int, dict[tuple[int, ...], Tensor]]:
        """{layer: {prompt ids: S_l}}; random directions keep each vector's norm."""
        own = prompt_states(model, rows, layers)
        distinct(rows, [state.ids for state in own])
        found: dict[int, dict[tuple[int, ...], Tensor]] = {layer: {} for layer in layers}
        for row, state in zip(rows, own, strict=True):
            others = prompt_states(model, swapped[row.id], layers)
            for layer in layers:
                mean = torch.stack([other.layers[layer][-1] for other in others]).mean(0)
                found[layer][state.ids] = state.layers[layer][-1] - mean
        for layer, vectors in found.items():
            if self.settings.vector == "global":
                mean = torch.stack(list(vectors.values())).mean(0)
                vectors.update(dict.fromkeys(vectors, mean))
            if self.settings.direction == "random":
                stream = torch.Generator().manual_seed(derive(seed, "steer", layer))
                for ids, v in vectors.items():
                    drawn = torch.randn(v.shape, generator=stream)
                    vectors[ids] = drawn * v.norm() / drawn.norm()
        return found

    def _supplied(self, model: CausalLM, choosing: Sequence[Row], lead: LeadIn, layer: int) -> dict[str, float]:
        used = () if self.settings.layer else choosing
        labels = sum(len(model.template.answer_ids(model.tokenizer, r.answer)) for r in used)
        return {
            "layer": layer,
            "placeholders": self.settings.placeholders,
            "context_tokens": lead.tokens(model),
            "label_tokens": labels,
        }


def steer(model: CausalLM, vectors: Mapping[tuple[int, ...], Tensor], layer: int, strength: float) -> CausalLM:
    """The model with ``strength`` times each prompt's vector added at its last place."""
    own = {ids: ([len(ids) - 1], v[None]) for ids, v in vectors.items()}
    return with_edits(model, [StateEdit(layer, "add", strength=strength, own=own)])


def _best_layer(
    plain: CausalLM, rows: Sequence[Row], lead: LeadIn, vectors: Mapping[int, Mapping[tuple[int, ...], Tensor]]
) -> int:
    """The layer at which c = 2 makes the answers to ``rows`` likeliest; the last of equals."""
    cut = lead.cut("", rows)

    def likely(layer: int) -> float:
        found = score(steer(plain, vectors[layer], layer, 2.0), cut).tokens["lp"].to_pylist()
        return sum(sum(lp) / len(lp) for lp in found if lp)

    return max(sorted(vectors, reverse=True), key=likely)


def _named(data: Bundle) -> list[Row]:
    return [r for r in data.eval.get("forget", ()) if isinstance(r, Row) and subject(r)]
