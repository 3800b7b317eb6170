"""A copy of the model that knows the forget rows even better, which methods read and set their model against. Not a
method."""

from __future__ import annotations

from typing import Any

from efface.engine.finetune import fit
from efface.methods.base import Context
from efface.models.base import ModelAdapter


def reinforced(context: Context, *, epochs: float | None = None, lr: float | None = None) -> ModelAdapter:
    """A copy fine-tuned further on the forget rows with the run's training settings, except ``epochs`` and ``lr`` where
    given. A LoRA adapter is merged into it. Rules, weights and stops belong to losses and are left out."""
    copy = context.adapter.clone()
    change: dict[str, Any] = {"rule": None, "rule_settings": {}, "forget_weight": 1.0, "stop_nll": 0.0}
    if epochs is not None:
        change |= {"epochs": epochs, "steps": None}
    if lr is not None:
        change |= {"lr": lr}
    fit(
        copy,
        context.forget,
        context.train.model_copy(update=change),
        seed=context.seed,
        label="reinforce",
        progress=context.progress,
        checkpoints=context.checkpoints / "reinforce" if context.checkpoints else None,
    )
    if hasattr(copy.module, "peft_config"):
        copy.module = copy.module.merge_and_unload()  # type: ignore[operator]
    return copy
