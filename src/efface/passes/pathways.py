"""Pathways: which parts of a model carry an answer from its subject, by patching them one at a time into a corrupted
run.

A component is (layer, "attention" or "mlp", place), the place being the subject's tokens, the question's other
tokens, or
the last one. Sheet 1 (c), all of it derived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from efface.attacks.anonymise import placeholders, renamed, subject
from efface.attacks.lead_in import LeadIn
from efface.data.rows import Bundle, Row
from efface.errors import NeedsError
from efface.models.base import Batch
from efface.passes.score import reduce

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

PARTS = {"attention": ("self_attn", "attn", "attention", "self_attention"), "mlp": ("mlp", "feed_forward", "ffn")}
HANGS = 0.1  # nats per token that the answer must lose for the wrong subject; less makes ratios of noise
ROWS = 32  # components patched in one forward
STAND_INS = 12  # others tried for one whose name has as many tokens
Component = tuple[int, str, str]


@dataclass(frozen=True)
class Query:
    """A question whose subject was swapped for another of as many tokens. ``places`` {"subject", "relation", "last":
    prompt
    places}; the log-prob looked at is that of ``clean``'s answer."""

    clean: Row
    corrupt: Row
    places: Mapping[str, Sequence[int]]


def corrupted(model: CausalLM, row: Row, data: Bundle) -> tuple[Query, LeadIn] | None:
    """The question with the first stand-in whose prompt has as many tokens, and the lead-ins of both (answers start
    with their words before what is asked for, where a world tells them); None without one."""
    name = subject(row)
    for other in placeholders(row, data, STAND_INS) if name else ():
        swapped = replace(renamed(row, name, other), id=f"{row.id}~other")
        lead = LeadIn.of([row, swapped], data, True)
        begun = lead.put_on(model)
        a, b = (begun.encode(r, answers=()).payload.prompt for r in (row, swapped))
        if len(a) == len(b):
            named = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
            last = len(a) - 1
            rest = [i for i in range(1, last) if i not in named]
            clean, corrupt = lead.cut("", [row, swapped])
            return Query(clean, corrupt, {"subject": named, "relation": rest, "last": [last]}), lead
    return None


def components(model: CausalLM) -> dict[tuple[int, str], nn.Module]:
    """{(layer, part): module}; blocks without a known attention or MLP are refused (``NeedsError``
    ``model.no-parts``)."""
    found = {}
    for layer, block in enumerate(model.blocks, start=1):
        for part, names in PARTS.items():
            module = next((getattr(block, name) for name in names if hasattr(block, name)), None)
            if module is None:
                raise NeedsError(
                    "model.no-parts",
                    f"Block {layer} has no {part} under a known name ({', '.join(names)}).",
                    "analyse a model whose blocks have one attention and one MLP.",
                )
            found[layer, part] = module
    return found


def importance(model: CausalLM, query: Query) -> dict[Component, float]:
    """I_c = (log p(a | c patched) - log p(a | corrupt)) / (log p(a | clean) - log p(a | corrupt)) of every component;
    {} where the corruption costs the answer less than ``HANGS``."""
    modules = components(model)
    cells = [(layer, part, place) for layer, part in modules for place in query.places]
    with model.evaluating():
        clean = _batch(model, query.clean, query.clean.answer, 1)
        outputs, high = _run(model, clean, modules)
        low = _run(model, _batch(model, query.corrupt, query.clean.answer, 1), modules)[1]
        if not high[0] - low[0] >= HANGS:
            return {}
        patched: list[float] = []
        for part in (cells[i : i + ROWS] for i in range(0, len(cells), ROWS)):
            many = _batch(model, query.corrupt, query.clean.answer, len(part))
            patched += _run(model, many, modules, _patches(part, outputs, query.places))[1].tolist()
    return {cell: float((value - low[0]) / (high[0] - low[0])) for cell, value in zip(cells, patched, strict=True)}


def disruption(original: CausalLM, model: CausalLM, query: Query) -> dict[Component, float]:
    """D_c = 1 - cos of the outputs of component c under both models on the clean question, mean over its places."""
    both = []
    for side in (original, model):
        with side.evaluating():
            both.append(_run(side, _batch(side, query.clean, query.clean.answer, 1), components(side))[0])
    found = {}
    for layer, part in both[0]:
        a, b = (side[layer, part][0] for side in both)
        for place, at in query.places.items():
            found[layer, part, place] = float(1 - torch.cosine_similarity(a[list(at)], b[list(at)], dim=-1).mean())
    return found


def _batch(model: CausalLM, row: Row, answer: str, copies: int) -> Batch:
    encoded = model.encode(replace(row, answer=answer))
    return model.collate([encoded] * copies, range(copies)).to(model.device)


def _run(
    model: CausalLM,
    batch: Batch,
    modules: Mapping[tuple[int, str], nn.Module],
    change: Callable[..., Any] | None = None,
) -> tuple[dict[tuple[int, str], Tensor], np.ndarray]:
    """(outputs of every module Float[B, T, width], mean log-prob of the answer per batch row, end token left out)."""
    with _watching(modules, change) as outputs:
        logits = model.forward(batch).logits
    lp = reduce(logits, batch.label_id).lp
    row_of, ends = batch.label_row.cpu(), len(model.template.end)
    return outputs, np.array([float(lp[row_of == k][:-ends].mean()) for k in range(len(batch.index))])


def _patches(
    cells: Sequence[Component], outputs: Mapping[tuple[int, str], Tensor], places: Mapping[str, Sequence[int]]
) -> Callable[[tuple[int, str], Tensor], Tensor]:
    """Batch row i gets the clean output of component ``cells[i]``."""

    def change(name: tuple[int, str], states: Tensor) -> Tensor:
        states = states.clone()
        for row, (layer, part, place) in enumerate(cells):
            if (layer, part) == name:
                at = list(places[place])
                states[row, at] = outputs[name][0, at]
        return states

    return change


@contextmanager
def _watching(
    modules: Mapping[tuple[int, str], nn.Module], change: Callable[..., Any] | None
) -> Iterator[dict[tuple[int, str], Tensor]]:
    found: dict[tuple[int, str], Tensor] = {}

    def hook(name: tuple[int, str]) -> Callable[..., Any]:
        def read(module: nn.Module, args: Any, out: Any) -> Any:
            states = out[0] if isinstance(out, tuple) else out
            if change is not None:
                states = change(name, states)
            found[name] = states
            return (states, *out[1:]) if isinstance(out, tuple) else states

        return read

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
