"""Task vector negation: learn the forget rows even better, then go the same way backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.card import Card
from efface.data.rows import Rows
from efface.engine.batches import cut
from efface.engine.finetune import fit
from efface.engine.seeds import derive
from efface.errors import NeedsError, RunFailed
from efface.methods.base import Context, Method, Needs, method
from efface.methods.plain_training import check_no_loss
from efface.models.base import ModelAdapter
from efface.settings import Settings, setting

CARD = Card(
    title="Task vector negation",
    source="arXiv:2212.04089, section 3",
    code="jaechan-repo/muse_bench (baselines/task_vector.py)",
    summary="theta' = theta - k (theta_reinforced - theta); a pure edit, no retain loss.",
    confirmed=(
        "theta_reinforced = the target fine-tuned further on the forget rows",
        "k = 1 in the MUSE code, k chosen on validation in the paper",
    ),
    derived=(
        "k = the largest on a grid whose mean retain probability on held retain rows is at least tau of the target's",
        "probability of a row = exp(mean token log-prob)",
    ),
    tested=("people on the tiny model, seeds 0-2: forget probability .997 -> .607 (retrained .010), retain .965",),
    fooled_by=("a short reinforcement: the target fits the forget rows already, so the vector is mostly noise",),
)


@method("task_vector", CARD)
class TaskVector(Method):
    """Fine-tunes a copy with the run's training settings (plain cross-entropy on forget rows), then edits."""

    class Settings(Settings):
        scale: float | None = setting(
            None, "k; 0 = the target (none: chosen on held retain rows)", source="MUSE code: 1", ge=0
        )
        grid: tuple[float, ...] = setting(
            (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), "values of k that are tried", source="derived"
        )
        tau: float = setting(
            0.95, "share of the target's retain probability that must stay", source="sheet M2-8 (UWC)", gt=0, le=1
        )
        held: int = setting(64, "retain rows on which k is chosen, drawn by the run's seed", source="derived", ge=1)

    needs = Needs(retain=True, second_model="a reinforced copy, only while the vector is read")
    artifact = "edit"
    family_tag = "edit"
    strength = "scale"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.scale is not None:
            self.needs = Needs(second_model=self.needs.second_model)

    def check(self, context: Context) -> None:
        """Also refuses an empty or negative grid."""
        super().check(context)
        check_no_loss(self.name, context.train)
        if self.settings.scale is None and (not self.settings.grid or min(self.settings.grid) <= 0):
            raise NeedsError(
                "task_vector.bad-grid",
                f"method.grid must hold positive values (got {self.settings.grid}).",
                "give a grid, or set method.scale.",
            )

    def apply(self, context: Context) -> None:
        """Edit ``context.adapter`` in place; ``context.notes["task_vector"]`` holds k and the curve behind it."""
        self.check(context)
        own = self.settings
        if own.scale == 0:
            context.notes["task_vector"] = {"scale": 0.0, "curve": []}
            return
        vector = self._vector(context)
        start = {name: p.detach().clone() for name, p in context.adapter.module.named_parameters() if name in vector}
        curve = [] if own.scale is not None else self._curve(context, start, vector)
        scale = own.scale if own.scale is not None else self._choose(curve)
        put(context.adapter, start, vector, scale)
        context.notes["task_vector"] = {"scale": scale, "curve": curve}
        context.log({"event": "task-vector", "scale": scale, "curve": curve})

    def _vector(self, context: Context) -> dict[str, Tensor]:
        """theta_reinforced - theta for every weight that moved."""
        copy = context.adapter.clone()
        context.notes["reinforced"] = fit(
            copy,
            context.forget,
            context.train,
            seed=context.seed,
            label="reinforce",
            progress=context.progress,
            checkpoints=context.checkpoints,
            log=context.log,
        )
        if context.train.select.kind == "lora":
            copy.module = copy.module.merge_and_unload()  # type: ignore[operator]
        after = dict(copy.module.named_parameters())
        with torch.no_grad():
            moved = {
                name: after[name] - p
                for name, p in context.adapter.module.named_parameters()
                if not torch.equal(after[name], p)
            }
        if not moved:
            raise RunFailed(
                "task_vector.no-change",
                "Fine-tuning on the forget rows changed no weight, so there is no vector.",
                "raise train.lr or train.epochs.",
            )
        return moved

    def _curve(self, context: Context, start: dict[str, Tensor], vector: dict[str, Tensor]) -> list[dict[str, float]]:
        """Mean retain probability at every k, k = 0 first; ends at the first k below half of the floor."""
        order = np.random.default_rng(derive(context.seed, "task vector rows")).permutation(len(context.retain))
        held = [context.retain[int(i)] for i in order[: self.settings.held]]
        curve = [{"k": 0.0, "retain_probability": probability(context.adapter, held, context.train.token_budget)}]
        for k in sorted(self.settings.grid):
            put(context.adapter, start, vector, k)
            curve.append({"k": k, "retain_probability": probability(context.adapter, held, context.train.token_budget)})
            if curve[-1]["retain_probability"] < 0.5 * self.settings.tau * curve[0]["retain_probability"]:
                break
        put(context.adapter, start, vector, 0.0)
        return curve

    def _choose(self, curve: Sequence[dict[str, float]]) -> float:
        floor = self.settings.tau * curve[0]["retain_probability"]
        passing = [point["k"] for point in curve[1:] if point["retain_probability"] >= floor]
        if not passing:
            raise RunFailed(
                "task_vector.no-scale",
                f"No k on the grid keeps the retain probability at {floor:.3f} (tau {self.settings.tau:g} of the "
                f"target's {curve[0]['retain_probability']:.3f}); at k = {curve[1]['k']:g} it is "
                f"{curve[1]['retain_probability']:.3f}.",
                "add smaller values to method.grid, lower method.tau, or set method.scale.",
            )
        return max(passing)


def put(adapter: ModelAdapter, start: dict[str, Tensor], vector: dict[str, Tensor], scale: float) -> None:
    """Set every named weight to start - scale * vector; scale 0 restores the bits."""
    named = dict(adapter.module.named_parameters())
    with torch.no_grad():
        for name, delta in vector.items():
            named[name].copy_(start[name] - scale * delta if scale else start[name])


def probability(adapter: ModelAdapter, rows: Rows, token_budget: int) -> float:
    """Mean over rows of exp(mean token log-prob of the answer); rows that cannot be encoded are left out."""
    encoded = [e for e in (adapter.encode(row) for row in rows) if not e.problem]
    if not encoded:
        raise NeedsError(
            "task_vector.no-held-rows",
            "None of the held retain rows can be scored.",
            "raise method.held or shorten the retain rows.",
        )
    values: list[float] = []
    with adapter.evaluating():
        for part in cut(encoded, range(len(encoded)), token_budget):
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            logits = adapter.forward(batch).logits
            assert logits is not None
            logp = torch.log_softmax(logits, dim=-1).gather(1, batch.label_id[:, None]).squeeze(1)
            values += [float(logp[batch.label_row == k].mean().exp()) for k in range(len(part))]
    return float(np.mean(values))
