"""Greedy coordinate gradient: search for suffix tokens, one swap at a time (arXiv:2307.15043)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.attacks.free_inputs import around, first_token, free_ids, slope
from efface.data.rows import Row
from efface.models.base import Encoded
from efface.models.packing import Text
from efface.passes.score import shown

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

How = Literal["gradient", "random"]
GAP = -1  # stands for the suffix while a prompt is taken apart


@dataclass(frozen=True)
class Opened:
    """A row with a gap for the suffix: ids before it, ids after it, ids of the answer."""

    row: str
    entity: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    answer: tuple[int, ...]


def opened(adapter: CausalLM, rows: Sequence[Row]) -> list[Opened]:
    """Rows as the model reads them (a guard included), with the place of the suffix."""
    model, out = around(adapter, {"": (GAP,)}), []
    for row in rows:
        one = model.encode(row)
        ids = list(one.payload.prompt)
        at = ids.index(GAP)
        out.append(Opened(row.id, row.entity, tuple(ids[:at]), tuple(ids[at + 1 :]), one.payload.branches[0]))
    return out


@torch.no_grad()
def losses(
    adapter: CausalLM, rows: Sequence[Opened], suffixes: Sequence[Sequence[int]], token_budget: int = 4096
) -> Tensor:
    """Float32[suffixes]: mean over rows of the mean NLL of the answer's tokens behind each suffix.

    A batch holds one question behind many suffixes, so ``models.sharing`` runs the question once for all of them.
    """
    total = torch.zeros(len(suffixes))
    with adapter.evaluating():
        for row in rows:
            texts = [Text((*row.before, *s, *row.after), (row.answer,)) for s in suffixes]
            step = max(1, token_budget // texts[0].size)
            total += torch.cat([_losses(adapter, row, texts[k : k + step]) for k in range(0, len(texts), step)])
    return total / len(rows)


def _losses(adapter: CausalLM, row: Opened, texts: Sequence[Text]) -> Tensor:
    encoded = [Encoded(row.row, row.entity, text, ("answer",), text.size, len(row.answer)) for text in texts]
    batch = adapter.collate(encoded, range(len(encoded))).to(adapter.device)
    logits = shown(adapter.forward(batch).logits)
    nll = F.cross_entropy(logits, batch.label_id, reduction="none")  # type: ignore[arg-type]
    return torch.zeros(len(texts), device=nll.device).index_add(0, batch.label_row, nll).cpu() / len(row.answer)


def usable_tokens(adapter: CausalLM) -> Tensor:
    """Bool[vocabulary]: tokens a suffix may hold (no control tokens, nothing the tokenizer does not know)."""
    found = torch.zeros(adapter.hf.get_input_embeddings().weight.shape[0], dtype=torch.bool)
    found[: len(adapter.tokenizer)] = True
    found[sorted({*adapter.tokenizer.all_special_ids, *adapter.stops})] = False
    return found


def one_hot_gradient(adapter: CausalLM, rows: Sequence[Row], suffix: Sequence[int]) -> Tensor:
    """Float32[suffix, vocabulary]: gradient of the mean loss with respect to one-hot suffix tokens, through the input
    embedding."""
    table = adapter.hf.get_input_embeddings()
    with torch.no_grad():
        vectors = table(torch.tensor(suffix, device=adapter.device)).float().clone()
    vectors.requires_grad_(True)
    model = around(adapter, {"": free_ids(adapter, len(suffix))}, vectors)
    gradient = slope(model, [model.encode(r) for r in rows], vectors).gradient / len(rows)
    return (gradient @ table.weight.detach().float().T).cpu()


@dataclass(frozen=True)
class Found:
    """The best suffix so far and its loss on the training rows; ``tried``: suffixes evaluated."""

    suffix: tuple[int, ...]
    loss: float
    tried: int


def search(
    adapter: CausalLM,
    rows: Sequence[Row],
    *,
    tokens: int,
    steps: int,
    candidates: int,
    top: int,
    seed: int,
    how: How = "gradient",
) -> Iterator[Found]:
    """Yields the start, then the best suffix after each step; the loss never rises.

    A step draws ``candidates`` swaps of one token, evaluates them all and keeps the best if it is better. ``gradient``:
    positions uniform, tokens uniform over the ``top`` with the steepest descent; ``random``: tokens uniform over all.
    """
    draw = torch.Generator().manual_seed(seed)
    usable, places = usable_tokens(adapter), opened(adapter, rows)
    best = (first_token(adapter),) * tokens
    loss = float(losses(adapter, places, [best])[0])
    yield Found(best, loss, 1)
    for step in range(1, steps + 1):
        pool = _pool(adapter, rows, best, usable, top if how == "gradient" else 0)
        at = torch.randint(tokens, (candidates,), generator=draw)
        picks = torch.randint(pool.shape[1], (candidates,), generator=draw)
        swaps = [swapped(best, int(p), int(pool[p, k])) for p, k in zip(at, picks, strict=True)]
        tried = losses(adapter, places, swaps)
        lowest = int(tried.argmin())
        if float(tried[lowest]) < loss:
            best, loss = swaps[lowest], float(tried[lowest])
        yield Found(best, loss, 1 + step * candidates)


def swapped(suffix: Sequence[int], at: int, token: int) -> tuple[int, ...]:
    """``suffix`` with one token replaced."""
    return (*suffix[:at], token, *suffix[at + 1 :])


def _pool(adapter: CausalLM, rows: Sequence[Row], suffix: Sequence[int], usable: Tensor, top: int) -> Tensor:
    """Long[suffix, k]: tokens to draw from at each position; ``top`` 0: all usable ones."""
    if not top:
        return usable.nonzero().squeeze(1).expand(len(suffix), -1)
    gradient = one_hot_gradient(adapter, rows, suffix).masked_fill(~usable, math.inf)
    return (-gradient).topk(min(top, int(usable.sum())), dim=1).indices
