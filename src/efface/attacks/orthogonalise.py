"""Orthogonalisation: take the direction in which unlearning moved the states out of them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.lead_in import with_edits
from efface.card import Card
from efface.data.rows import Bundle, Row
from efface.errors import NeedsError
from efface.models.tampering import StateEdit
from efface.passes.prompt_states import prompt_states
from efface.settings import Settings, setting

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

CARD = Card(
    title="Orthogonalisation of the unlearning direction",
    source="arXiv:2409.18025",
    code="ethz-spylab/unlearning-vs-safety",
    summary="d_l = mean state of the unlearned model - mean state of the original on forget questions at layer l; "
    "h <- h - (h . d) d at every position. White-box with the original.",
    confirmed=("tokens whose norm is an outlier (|z| > 3) are left out of the means", "projection at every position"),
    derived=(
        "position 0 is left out instead of the first 40 (questions are short)",
        "layers in the order of |d_l| over the mean norm of the original's states, the largest shift first",
    ),
    tested=(
        "bench: steering planted at one layer, over 80% of the lost probability back, a random direction under 30%",
        "ladder, seed 0: HeadOnly .441 to .673, SmallLR .095 to .144, OneHop .001 to .002, R1 .021 to .024, R2 .011",
        "ladder, five seeds: Steered (RMU in the first block) flagged in 5, two fifths of the lost probability back",
    ),
    fooled_by=("a reference of another seed differs from the original in a common direction too: it is the control",),
)


@attack("orthogonalise", CARD)
class Orthogonalise(Attack):
    """One more layer at each point."""

    class Settings(Settings):
        layers: tuple[int, ...] | None = setting(
            None, "layers projected, in this order (none: all, the largest shift first)"
        )
        outlier: float = setting(
            3.0, "tokens whose norm lies further from the mean, in standard deviations, are left out", gt=0
        )
        points: int = setting(6, "most points of the curve, the last with all layers", source="derived", ge=1)

    threat = "white-box"
    needs_original = True
    version = 2

    def check(self, data: Bundle) -> str:
        """Needs forget questions: the states are those of their prompts."""
        return "" if _questions(data) else "there is no forgotten question whose states could be compared"

    def forwards(self, data: Bundle) -> float:
        """Both models on every question, and the measured rows at every point."""
        measured = sum(len(rows) for rows in self.measured(data).values())
        return 2.0 * len(_questions(data)) + 4.0 * (1 + self.settings.points) * measured

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """1, 2, ... layers projected; all of them at the last point."""
        assert context.original is not None
        model = context.adapter
        order = self._order(len(model.blocks))
        found = directions(model, context.original(), _questions(context.data), sorted(order), self.settings.outlier)
        if self.settings.layers is None:
            order = sorted(found, key=lambda layer: -found[layer][1])
        for count in _counts(len(order), self.settings.points):
            edits = [StateEdit(layer, "project_out", found[layer][0]) for layer in order[:count]]
            projected = with_edits(model, edits)  # type: ignore[arg-type]
            supplied = {"directions": count, "first_layer": order[0], "rows": len(_questions(context.data))}
            yield AttackPoint({"layers": count}, "layers", projected, supplied=supplied)

    def _order(self, depth: int) -> list[int]:
        chosen = self.settings.layers or range(1, depth + 1)
        if wrong := [layer for layer in chosen if not 1 <= layer <= depth]:
            raise NeedsError(
                "attack.no-layer",
                f"orthogonalise is to project layer {wrong[0]} of a model with layers 1 to {depth}.",
                "name layers the model has, or none.",
            )
        return list(chosen)


def directions(
    model: CausalLM, original: CausalLM, rows: Sequence[Row], layers: Sequence[int], outlier: float
) -> dict[int, tuple[Tensor, float]]:
    """{layer: (d_l Float[width], |d_l| over the original's mean norm)}, over all prompt tokens but the first."""
    mine, theirs = (prompt_states(m, rows, layers) for m in (model, original))
    found = {}
    for layer in layers:
        sides = [torch.cat([state.layers[layer][1:] for state in side]) for side in (mine, theirs)]
        after, before = (side[typical(side.norm(dim=1), outlier)] for side in sides)
        direction = after.mean(0) - before.mean(0)
        found[layer] = direction, float(direction.norm() / before.norm(dim=1).mean())
    return found


def typical(norms: Tensor, outlier: float) -> Tensor:
    """Bool[tokens]: |z| of the norm is at most ``outlier``. All of them where norms do not differ."""
    spread = norms.std(correction=0)
    return (norms - norms.mean()).abs() <= outlier * spread if spread > 0 else torch.ones_like(norms, dtype=torch.bool)


def _counts(layers: int, points: int) -> list[int]:
    """Up to ``points`` rising numbers from 1 to ``layers``, evenly spread, both ends among them."""
    if layers <= points:
        return list(range(1, layers + 1))
    return sorted({1 + round(i * (layers - 1) / max(1, points - 1)) for i in range(points)} | {layers})


def _questions(data: Bundle) -> list[Row]:
    return [r for r in data.eval.get("forget", ()) if isinstance(r, Row) and r.prompt]
