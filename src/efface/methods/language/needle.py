"""Needle: find the value vectors that hold the forgotten concepts, put noise on them, and train nothing else.

An upper bound for localised erasure, and the yardstick of the parametric metrics; not a method to deploy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.engine.select import Select
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context, LossMethod, Needs, method
from efface.metrics.base import NotComputed
from efface.passes.attribution_of_values import attributed
from efface.passes.concept_index import gaussian, locate
from efface.passes.concept_tokens import concepts
from efface.passes.value_vectors import projections
from efface.settings import Settings, setting

COLUMNS = Select(modules=("down_proj",))

CARD = Card(
    title="Needle (localised oracle)",
    source="arXiv:2406.11614, section 5",
    code="yihuaihong/ConceptVectors",
    summary="v <- v + noise for the value vectors of the forgotten concepts, then only these columns are trained on "
    "the forget loss.",
    confirmed=("noise on the concept's value vector, then a gradient mask that lets this column alone move",),
    derived=(
        "the vectors are found without a judge (metric concept_cosine), or given",
        "the forget loss is NPO's, which is bounded; the noise is a multiple of the vector's own size",
    ),
    tested=(
        "one person taught into 24 known neurons: .57 of the gap to the model that never knew goes, .02 elsewhere",
        "tiny ladder, seed 0, one of five people: 10 vectors by attribution take .20 of the gap (.015 from retained "
        "people), 100 of 1,536 vectors without noise .59 (.008); the smaller bench (width 64, 2 blocks) does not "
        "localise: .43 and .41",
    ),
    fooled_by=("knowledge that is spread over many vectors stays", "the vectors are found with the forget answers"),
)


@method("needle", CARD)
class Needle(LossMethod):
    """(2/beta) * mean_rows softplus(beta * (log pi(y|x) - log ref(y|x))) on the chosen columns of ``down_proj``."""

    class Settings(Settings):
        vectors: tuple[tuple[int, int], ...] = setting(
            (), "(block from 1, column) of the value vectors (none: they are found)", source="benchmark records"
        )
        per_concept: int = setting(
            0,
            "take this many vectors a concept, by activation x gradient, instead of the confirmed ones; 0 = those",
            ge=0,
        )
        noise: float = setting(
            1.0,
            "noise in units of the vector's root mean square",
            source="derived; paper: N(0, .1^2), whatever the scale",
            ge=0,
        )
        beta: float = setting(0.1, "inverse temperature of the forget loss", source="arXiv:2404.05868", gt=0)

    needs = Needs(nll=("forget",))
    family_tag = "localised"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.columns: dict[int, list[int]] = {}

    def check(self, context: Context) -> None:
        """Also refuses a selection of its own and weight decay: only single columns may move."""
        super().check(context)
        if context.train.select not in (Select(), COLUMNS) or context.train.weight_decay:
            raise NeedsError(
                "needle.columns-only",
                "needle chooses which columns of down_proj are trained: another selection or weight decay would move "
                "others.",
                "leave train.select out and set train.weight_decay to 0.",
            )

    def apply(self, context: Context) -> None:
        """Find the vectors, then train; ``context.notes["needle"]`` names them."""
        self.check(context)
        self.columns = self._chosen(context)
        own = replace(context, train=context.train.model_copy(update={"select": COLUMNS}))
        handles = self._masks(context)
        try:
            super().apply(own)
        finally:
            for handle in handles:
                handle.remove()
        context.reference = own.reference
        context.notes["needle"] = {"vectors": [[layer, c] for layer, found in self.columns.items() for c in found]}

    def start(self, context: Context) -> None:
        """The noise, once the values of the model before it are known."""
        for layer, found in self.columns.items():
            weight = projections(context.adapter)[layer - 1].weight
            for column in found:
                noise = gaussian(context.adapter, layer, column, context.seed, self.settings.noise)
                with torch.no_grad():
                    weight[:, column] += noise.to(weight.device, weight.dtype)  # type: ignore[index]

    def forget_loss(self, view: View) -> Tensor:
        """NPO's loss."""
        beta = self.settings.beta
        return view.mean_rows(2 / beta * F.softplus(beta * (view.ref_nll - view.nll)))

    def _chosen(self, context: Context) -> dict[int, list[int]]:
        """{block: columns}."""
        try:
            modules = projections(context.adapter)
            places = list(self.settings.vectors) or self._found(context)
        except NotComputed as why:
            raise NeedsError(
                "needle.no-vectors", f"needle finds no value vectors: {why}.", "use another method."
            ) from None
        chosen: dict[int, list[int]] = {}
        for layer, column in dict.fromkeys(places):
            if not 1 <= layer <= len(modules) or not 0 <= column < modules[layer - 1].weight.shape[1]:
                raise NeedsError(
                    "needle.no-such-vector",
                    f"method.vectors names column {column} of block {layer}, which this model does not have.",
                    "blocks count from 1, columns from 0.",
                )
            chosen.setdefault(layer, []).append(column)
        return chosen

    def _found(self, context: Context) -> list[tuple[int, int]]:
        known = concepts(context.adapter, context.forget)  # type: ignore[arg-type]
        if count := self.settings.per_concept:
            rows = [[context.forget[i] for i in places] for places in known.rows.values()]
            return [place for mine in rows for place in attributed(context.adapter, mine, count)]
        if not known.sets:
            raise NotComputed("no answer has a token of its own")
        found = locate(context.adapter, context.forget, known, seed=context.seed)  # type: ignore[arg-type]
        return [(one.layer, one.column) for one in found if one.used]

    def _masks(self, context: Context) -> list[Any]:
        """Hooks that zero the gradient of every other column."""
        handles = []
        for layer, module in enumerate(projections(context.adapter), 1):
            mask = torch.zeros_like(module.weight)
            mask[:, self.columns.get(layer, [])] = 1
            module.weight.requires_grad_(True)
            handles.append(module.weight.register_hook(_times(mask)))
        return handles


def _times(mask: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * mask
