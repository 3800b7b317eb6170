"""Patching: write the original's hidden states into the unlearned model, and see from which layer on it knows again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from efface.attacks.anonymise import subject
from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.lead_in import LeadIn, with_edits
from efface.attacks.own_prompts import same_prompts
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows
from efface.errors import NeedsError
from efface.models.tampering import StateEdit
from efface.passes.prompt_states import prompt_states, span
from efface.settings import Settings, setting

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

CARD = Card(
    title="Activation patching from the original",
    source="arXiv:2603.11266 (causal confirmation); arXiv:2605.24614 (unlearning depth score)",
    code="gnueaj/unlearning-depth-score",
    summary="The output of block l of the original replaces the unlearned model's, at the subject's last token and the "
    "last token of each question. How much of the answer comes back, by layer: early layers that suffice mean that all "
    "later weights still read the knowledge. White-box with the original.",
    confirmed=("one layer at a time; the states of the same question, row by row",),
    derived=(
        "the direction (original into unlearned); which tokens",
        "lead-in: answers that are sentences start with their words before what is asked for, so that the last "
        "token is "
        "the one that must know it; the point with layer 0 shows what that alone does",
    ),
    tested=(
        "ladder, seed 0, lead-in alone to last layer: HeadOnly .933 to .952, SmallLR .117 to .528, OneHop .002 "
        "to .012, "
        "R1 .234 to .594, R2 .210 to .585: SmallLR and OneHop lie BELOW the reference, so the attack does not "
        "flag them, and "
        "HeadOnly's excess is the lead-in's",
        "without lead-in HeadOnly .441 to .947 at the last layer only, R1 .042; the subject's token alone: no effect",
    ),
    fooled_by=(
        "it hands the knowledge in: the last layers give it to any model, the reference included. Only what the "
        "reference does not regain at the same layer speaks of residue",
        "a reference of another seed reads the original's states less well: a second such seed shows by how much",
    ),
)


@attack("patch", CARD)
class Patch(Attack):
    """One point per layer, first to last."""

    class Settings(Settings):
        where: Literal["last", "subject", "both"] = setting(
            "both", "patched tokens: the question's last, its subject's last, or both", source="sheet 1 (c); derived"
        )
        lead_in: bool = setting(
            True, "start the answer with its words before what is asked for, where a world tells them", source="derived"
        )
        layers: tuple[int, ...] | None = setting(None, "layers patched (none: all, at most `points` of them)")
        points: int = setting(6, "most points of the curve", source="derived", ge=1)

    threat = "white-box"
    needs_original = True
    version = 2

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """Forget questions; where the subject is patched, those that name it."""
        return {"forget": self._questions(data)}

    def check(self, data: Bundle) -> str:
        """Needs questions, and subjects in them where those are patched."""
        if self._questions(data):
            return ""
        return "there is no forgotten question" + ("" if self.settings.where == "last" else " that names its subject")

    def forwards(self, data: Bundle) -> float:
        """The original once, and the measured rows at every layer."""
        rows = len(self._questions(data))
        return rows + 4.0 * rows * (2 + self.settings.points)

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """The model with block l of the original, for each l; with a lead-in first the lead-in alone."""
        assert context.original is not None
        rows, original = self._questions(context.data), context.original()
        lead = LeadIn.of(rows, context.data, self.settings.lead_in)
        model, source = lead.put_on(context.adapter), lead.put_on(original)  # type: ignore[arg-type]
        layers = self._layers(len(model.blocks))
        states = prompt_states(source, rows, layers)
        same_prompts(model, rows, [state.ids for state in states])
        places = [self._places(model, row, state.ids) for row, state in zip(rows, states, strict=True)]
        supplied = {
            "vectors": sum(map(len, places)),
            "width": states[0].layers[layers[0]].shape[1],
            "context_tokens": lead.tokens(model),
        }
        if lead.words:
            yield AttackPoint({"layer": 0, **lead.budget()}, "layer", model, lead.cut, supplied | {"vectors": 0})
        for layer in layers:
            own = {s.ids: (at, s.layers[layer][at]) for s, at in zip(states, places, strict=True)}
            patched = with_edits(model, [StateEdit(layer, "replace", own=own)])
            yield AttackPoint({"layer": layer, **lead.budget()}, "layer", patched, lead.cut, supplied)

    def _questions(self, data: Bundle) -> list[Row]:
        rows = [r for r in data.eval.get("forget", ()) if isinstance(r, Row) and r.prompt]
        return rows if self.settings.where == "last" else [r for r in rows if subject(r)]

    def _layers(self, depth: int) -> list[int]:
        chosen = self.settings.layers
        if chosen is None:
            return sorted(
                {1 + round(i * (depth - 1) / max(1, self.settings.points - 1)) for i in range(self.settings.points)}
            )
        if wrong := [layer for layer in chosen if not 1 <= layer <= depth]:
            raise NeedsError(
                "attack.no-layer",
                f"patch is to write layer {wrong[0]} of a model with layers 1 to {depth}.",
                "name layers the model has, or none.",
            )
        return list(chosen)

    def _places(self, model: CausalLM, row: Row, ids: Sequence[int]) -> list[int]:
        last, named = len(ids) - 1, span(model, ids, subject(row)) if self.settings.where != "last" else []
        if self.settings.where != "last" and not named:
            raise NeedsError(
                "attack.no-subject",
                f"The subject of row {row.id} cannot be found among the tokens of its prompt.",
                "patch the last token only (where: last).",
            )
        return {"last": [last], "subject": named[-1:], "both": [*named[-1:], last]}[self.settings.where]
