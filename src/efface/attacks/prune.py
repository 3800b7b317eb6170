"""Pruning attack: take out the neurons that forgotten questions need and kept ones do not; a gate may go with them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from efface.attacks.bare import bare, merged
from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.layer_inputs import linear_layers, read_inputs
from efface.attacks.some_rows import RETAIN_ROWS, evenly, with_some_retain
from efface.card import Card
from efface.data.rows import Bundle, Rows
from efface.errors import NeedsError
from efface.models.base import ModelAdapter
from efface.settings import Settings, setting

CARD = Card(
    title="Pruning of the set difference",
    source="arXiv:2402.05162 (set difference of important neurons); on unlearned models arXiv:2409.18025",
    code="ethz-spylab/unlearning-vs-safety",
    summary="Zeroes neurons whose weight times activation is among the largest on forgotten questions and not on kept "
    "ones. If unlearning built a gate for these questions, it may go with them.",
    confirmed=("importance is weight times activation norm", "a grid over the two shares"),
    derived=(
        "neuron j of a linear layer: its input j; importance ||W[:, j]|| * ||x_j||, compared inside the layer",
        "activations are read at the questions alone, so that no tested answer is put in",
        "shares of the grid",
    ),
    tested=(
        "tiny ladder, seed 0, forget probability, none and most pruned: HeadOnly .44 -> .57 (ROUGE .15 -> .45), "
        "SmallLR .10 -> .10, references .01 -> .01 and .02 -> .02, retain probability .98 and above",
    ),
    fooled_by=("pruning that breaks the model lowers everything: read it with the retain rows",),
)


@attack("prune", CARD)
class Prune(Attack):
    """Points over a grid of (share of neurons counted as important for forgotten, for kept questions)."""

    class Settings(Settings):
        forget_shares: tuple[float, ...] = setting(
            (0.01, 0.03, 0.1),
            "share of a layer's neurons that counts as important for forgotten questions",
            source="derived",
        )
        retain_shares: tuple[float, ...] = setting(
            (0.3, 0.05),
            "share that counts as important for kept questions and is spared, widest first",
            source="derived",
        )
        rows: int = setting(
            128, "most questions of each kind that are read, evenly spread", source="as calibration", ge=1
        )
        retain_rows: int = setting(
            RETAIN_ROWS, "most retain rows measured at each point, evenly spread over the set", source="derived", ge=1
        )

    threat = "white-box"
    controls = ("reference", "target")
    measures = ("forget", "retain")
    families = ("causal_lm",)

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """All forget rows, and enough retain rows to see whether pruning broke the model."""
        return with_some_retain(super().measured(data), self.settings.retain_rows)

    def check(self, data: Bundle) -> str:
        """Needs questions of both kinds."""
        lacking = [name for name in ("forget", "retain") if not self._questions(data, name)]
        return f"there are no {' and no '.join(lacking)} questions" if lacking else ""

    def forwards(self, data: Bundle) -> float:
        """Two readings, and every measured row at every point."""
        points = len(self.settings.forget_shares) * len(self.settings.retain_shares)
        read = sum(len(self._questions(data, name)) for name in ("forget", "retain"))
        return read + 4.0 * sum(map(len, self.measured(data).values())) * (1 + points)

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """Few neurons first, each point from the unpruned weights. Guards stay on, but are not read through."""
        adapter = merged(context.adapter)
        layers = {k: v for i, b in enumerate(adapter.blocks) for k, v in linear_layers(b, f"{i}.").items()}
        if not layers:
            raise NeedsError(
                "attack.no-linear-layers",
                "prune: the blocks of this model hold no linear layers.",
                "leave prune out of the suite.",
            )
        reader = bare(copy.copy(adapter))
        forget, retain = (importance(reader, self._questions(context.data, n), layers) for n in ("forget", "retain"))
        original = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        for p in self.settings.forget_shares:
            for q in self.settings.retain_shares:
                with torch.no_grad():
                    count = 0
                    for name, layer in layers.items():
                        gone = set_difference(forget[name], retain[name], p, q)
                        layer.weight.copy_(original[name].masked_fill(gone, 0.0))
                        count += int(gone.sum())
                budget = {"forget_share": p, "retain_share": q}
                yield AttackPoint(budget, "forget_share", adapter, supplied={"pruned_neurons": count})

    def _questions(self, data: Bundle, name: str) -> Rows:
        rows = [r for r in data.train.get(name, ()) if getattr(r, "prompt", "")]
        return evenly(rows, self.settings.rows)  # type: ignore[arg-type]


def importance(adapter: ModelAdapter, rows: Rows, layers: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """{layer: Float[in]}: ||W[:, j]||_2 * sqrt(sum over positions of x_j^2), over the questions of ``rows``."""
    squares = {name: torch.zeros(layer.in_features, device=layer.weight.device) for name, layer in layers.items()}

    def take(name: str, x: Tensor) -> None:
        squares[name] += (x * x).sum(0)

    read_inputs(adapter, rows, layers, take, depth=len(adapter.blocks), answers=False)
    return {name: layer.weight.detach().float().norm(dim=0) * squares[name].sqrt() for name, layer in layers.items()}


def set_difference(forget: Tensor, retain: Tensor, p: float, q: float) -> Tensor:
    """Bool[in]: among the ``p`` share with the largest ``forget`` importance and not among the ``q`` share with the
    largest ``retain`` importance; both round to whole neurons, at least one."""
    return _top(forget, p) & ~_top(retain, q)


def _top(values: Tensor, share: float) -> Tensor:
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen[values.topk(max(1, round(share * len(values)))).indices] = True
    return chosen
