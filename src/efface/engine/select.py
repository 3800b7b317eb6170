"""Which parameters are trained: all, a LoRA adapter, a range of blocks, named modules, or salient rows of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from efface.engine.settings import Select
from efface.errors import NeedsError
from efface.models.base import ModelAdapter


def trainable(adapter: ModelAdapter, select: Select, seed: int) -> dict[str, nn.Parameter]:
    """Freeze everything else and return {name: parameter} to train. LoRA wraps ``adapter.module`` with peft."""
    if select.kind == "lora":
        add_lora(adapter, select, seed)
        chosen = {n: p for n, p in adapter.module.named_parameters() if "lora_" in n}
    else:
        chosen = _weights(adapter, select)
    if not chosen:
        raise NeedsError(
            "train.nothing-selected",
            f"train.select leaves no parameter to train ({select.kind}, modules={list(select.modules)}).",
            "widen train.select; `efface show model` lists module names.",
        )
    for p in adapter.module.parameters():
        p.requires_grad_(False)
    for p in chosen.values():
        p.requires_grad_(True)
    return chosen


def _weights(adapter: ModelAdapter, select: Select) -> dict[str, nn.Parameter]:
    named = dict(adapter.module.named_parameters())
    head = set(adapter.head_parameters()) if select.freeze_head else set()
    inside = None
    if select.kind == "layers":
        first, last = span(adapter, select)
        inside = {id(p) for block in list(adapter.blocks)[first : last + 1] for p in block.parameters()}
    return {
        name: p
        for name, p in named.items()
        if name not in head
        and (inside is None or id(p) in inside)
        and (not select.modules or any(part in name for part in select.modules))
    }


def span(adapter: ModelAdapter, select: Select) -> tuple[int, int]:
    """(first, last) block that is trained. Raises ``NeedsError`` ``train.bad-layers`` for blocks there are not."""
    last = len(adapter.blocks) - 1 if select.last is None else select.last
    if not 0 <= select.first <= last < len(adapter.blocks):
        raise NeedsError(
            "train.bad-layers",
            f"train.select asks for blocks {select.first}..{last} of {len(adapter.blocks)}.",
            "choose blocks that the model has.",
        )
    return select.first, last


def check_untied(adapter: ModelAdapter, select: Select) -> None:
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
            f"train.select.modules puts the adapter on {hit[0]}, which shares its weights with the other end of the "
            "model.",
            "leave it out of train.select.modules, or train full weights with train.select.freeze_head: false.",
        )


def add_lora(adapter: ModelAdapter, select: Select, seed: int) -> None:
    """Wrap the module with a LoRA adapter on its linear layers (never on a tied embedding)."""
    check_untied(adapter, select)
    from peft import LoraConfig, get_peft_model
    from peft.utils.peft_types import TaskType

    torch.manual_seed(seed)
    kind = TaskType.CAUSAL_LM if adapter.family == "causal_lm" else None
    layers = {}
    if select.first or select.last is not None:
        first, last = span(adapter, select)
        layers = {"layers_to_transform": list(range(first, last + 1))}
    config = LoraConfig(
        r=select.rank,
        lora_alpha=select.alpha,
        lora_dropout=select.dropout,
        task_type=kind,
        target_modules=list(select.modules) or (_linear(adapter) if layers else "all-linear"),
        **layers,
    )
    adapter.module = get_peft_model(adapter.module, config)  # type: ignore[arg-type]


def _linear(adapter: ModelAdapter) -> list[str]:
    """Last parts of the names of all matrices inside the blocks: peft takes a range of layers with names only."""
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for block in adapter.blocks
            for name, module in block.named_modules()
            if (weight := getattr(module, "weight", None)) is not None and weight.dim() == 2
        }
    )


class Saliency:
    """Row masks by forget-gradient norm (SURE, arXiv 2410.16454 section 6): only rows at or above the percentile move.

    Gradients of frozen rows are zeroed and the rows are restored after each optimizer step, because weight decay and
    momentum would leak into them.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], percentile: float) -> None:
        self.params, self.percentile = dict(params), percentile
        self.start: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}

    def measure(self, gradient: list[Tensor]) -> None:
        """Set the masks from a forget gradient: row norms over all tensors, one global threshold. From now on frozen
        rows go back to what they are now."""
        self.start = {n: p.detach().clone() for n, p in self.params.items()}
        rows = {n: g.float().reshape(g.shape[0], -1).norm(dim=1) for n, g in zip(self.params, gradient, strict=True)}
        sizes = torch.cat([r.new_full(r.shape, self.params[n][0].numel()) for n, r in rows.items()])
        flat, order = torch.cat(list(rows.values())).sort()
        share = sizes[order].cumsum(0) / sizes.sum()
        place = int((share <= self.percentile / 100).sum().clamp(max=len(flat) - 1))
        self.masks = {n: r >= flat[place] for n, r in rows.items()}

    def filter_gradients(self) -> None:
        """Zero the gradients of frozen rows."""
        for n, p in self.params.items():
            if p.grad is not None:
                p.grad[~self.masks[n]] = 0

    def restore(self) -> None:
        """Put frozen rows back to what they were when the masks were set."""
        with torch.no_grad():
            for n, p in self.params.items():
                p[~self.masks[n]] = self.start[n][~self.masks[n]]

    def share(self) -> float:
        """Share of weights that may move."""
        free = sum(int(m.sum()) * self.params[n][0].numel() for n, m in self.masks.items())
        return free / sum(p.numel() for p in self.params.values())
