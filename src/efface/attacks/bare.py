"""The model behind what is put around it: what an attacker who holds the weights has at once."""

from __future__ import annotations

from typing import Any

import torch

from efface.models.base import ModelAdapter


def bare(adapter: Any) -> Any:
    """``adapter`` (changed in place) without input guard, logit bias, second model or tampering, and with its LoRA
    adapter merged into the weights. What unlearning did to the weights stays."""
    take_off_input_guard(adapter)
    take_off_output_guard(adapter)
    return merged(adapter)


def take_off_input_guard(adapter: Any) -> None:
    """No instruction, guarded names or replacement of questions any more; in place."""
    if adapter.family == "causal_lm":
        adapter.instruction, adapter.guarded_names, adapter.instead = "", (), ""


def take_off_output_guard(adapter: Any) -> None:
    """No logit bias, no second model beside the first and no edits around the forward any more; in place."""
    if adapter.family == "causal_lm":
        adapter.logit_bias, adapter.tampering = None, None
    if has_second_model(adapter):
        adapter.alpha = 0.0


def has_second_model(adapter: Any) -> bool:
    """Whether the logits of a second model are set against the first one's (``models.contrasted``)."""
    return bool(getattr(adapter, "alpha", 0.0))


def scale_adapter(adapter: ModelAdapter, scale: float) -> None:
    """Multiply what a LoRA adapter adds to the weights by ``scale``, in place; nothing happens where there is none."""
    with torch.no_grad():
        for name, p in adapter.module.named_parameters():
            if ".lora_B." in name:
                p.mul_(scale)


def merged(adapter: ModelAdapter) -> ModelAdapter:
    """``adapter`` (changed in place) with its LoRA adapter added to the weights that it sits on."""
    if hasattr(adapter.module, "peft_config"):
        adapter.module = adapter.module.merge_and_unload()
    return adapter
