"""Refusal of a LoRA adapter on a tied embedding. Not a method."""

from __future__ import annotations

from efface.engine.settings import Select
from efface.errors import NeedsError
from efface.models.base import ModelAdapter


def check_untied(adapter: ModelAdapter, select: Select, name: str) -> None:
    """An adapter on one end of a tied pair would untie them: the head would change, the embeddings would not, and
    neither merging nor saving the merged model would give the model that was trained. Without ``select.modules`` the
    adapter is on linear layers inside the blocks only. Raises ``NeedsError`` ``method.lora-on-tied-embedding``.
    """
    model = getattr(adapter, "hf", None) if select.kind == "lora" and select.modules else None
    if model is None:
        return
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if last is None or first.weight is not last.weight:
        return
    ends = [n for n, module in model.named_modules() if module is first or module is last]
    hit = [n for n in ends if any(n == part or n.endswith(f".{part}") for part in select.modules)]
    if hit:
        raise NeedsError(
            "method.lora-on-tied-embedding",
            f"{name}: train.select.modules puts the adapter on {hit[0]}, which shares its weights with the other end "
            "of the model.",
            "leave it out of train.select.modules, or train full weights with train.select.freeze_head: false.",
        )
