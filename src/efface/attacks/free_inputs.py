"""Free input vectors behind a question: where they start, their gradient, and how fast they elicit a string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.data.rows import Row
from efface.engine.batches import cut
from efface.engine.seeds import derive
from efface.errors import NeedsError
from efface.models.base import Encoded
from efface.models.packing import Text
from efface.models.tampering import Tampering
from efface.passes.answer_words import telling_tokens
from efface.passes.score import shown

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

Rule = Literal["adam", "sign"]
START = "!"


@dataclass(frozen=True)
class Slope:
    """``loss`` Float32[rows]: mean NLL of each row's target tokens; ``said`` Bool[rows]: greedy decoding gives the
    whole target; ``gradient`` like the vectors, of the sum of ``loss``."""

    loss: Tensor
    said: Tensor
    gradient: Tensor


def first_token(adapter: CausalLM) -> int:
    """The token that free inputs and searched suffixes start as."""
    return int(adapter.tokenizer(START, add_special_tokens=False)["input_ids"][-1])


def start_vectors(adapter: CausalLM, count: int) -> Tensor:
    """Float32[count, width], a leaf: the input vector of ``!``, over and over."""
    table = adapter.hf.get_input_embeddings()
    with torch.no_grad():
        one = table(torch.tensor([first_token(adapter)], device=adapter.device)).float()
    return one.repeat(count, 1).requires_grad_(True)


def spread(adapter: CausalLM) -> float:
    """Standard deviation of the input embeddings: the unit of step sizes."""
    return float(adapter.hf.get_input_embeddings().weight.detach().float().std())


def around(adapter: CausalLM, suffix: dict[str, Sequence[int]], vectors: Tensor | None = None) -> CausalLM:
    """``adapter`` with ids and vectors behind its questions, beside what is around it already."""
    return adapter.tampered(replace(adapter.tampering or Tampering(), suffix=suffix, virtual=vectors))


def free_ids(adapter: CausalLM, count: int, first: int = 0) -> list[int]:
    """Ids of free vectors ``first`` to ``first + count``."""
    size = adapter.hf.get_input_embeddings().weight.shape[0]
    return [size + first + i for i in range(count)]


def slope(adapter: CausalLM, encoded: Sequence[Encoded], vectors: Tensor, token_budget: int = 4096) -> Slope:
    """Loss of every row and the gradient with respect to ``vectors``, which ``adapter`` must have around it.

    A model that lets no gradient through is refused (``NeedsError`` ``attack.no-gradients``).
    """
    total, was = torch.zeros_like(vectors, requires_grad=False), adapter.module.training
    loss, said = torch.zeros(len(encoded)), torch.zeros(len(encoded), dtype=torch.bool)
    adapter.module.eval()
    try:
        for part in cut(encoded, range(len(encoded)), token_budget):
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            with torch.enable_grad(), adapter.autocast():
                logits = shown(adapter.forward(batch).logits)
                if logits is None or not logits.requires_grad:
                    raise NeedsError(
                        "attack.no-gradients",
                        "The model hides its logits, or no gradient comes back through them.",
                        "run an attack that only needs prompts, or attack the model behind the guard.",
                    )
                nll = F.cross_entropy(logits, batch.label_id, reduction="none")
                rows = _row_means(nll, batch.label_row, len(part))
                total += torch.autograd.grad(rows.sum(), vectors)[0]
            hits = (logits.argmax(-1) == batch.label_id).float()
            loss[part], said[part] = rows.detach().cpu(), (_row_means(hits, batch.label_row, len(part)) == 1).cpu()
    finally:
        adapter.module.train(was)
    return Slope(loss, said, total)


def _row_means(values: Tensor, row: Tensor, rows: int) -> Tensor:
    sums = torch.zeros(rows, device=values.device).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=rows).clamp(min=1)


def descend(
    adapter: CausalLM, encoded: Sequence[Encoded], vectors: Tensor, *, steps: int, rate: float, rule: Rule
) -> Iterator[Slope]:
    """Move ``vectors`` (in place) down the loss; yields the slope found before each step, and last the one after all.
    ``rate`` is the step size in units of the embeddings' spread."""
    size = rate * spread(adapter)
    adam = torch.optim.Adam([vectors], lr=size)
    for _ in range(steps):
        found = slope(adapter, encoded, vectors)
        yield found
        with torch.no_grad():
            if rule == "sign":
                vectors -= size * found.gradient.sign()
            else:
                vectors.grad = found.gradient / len(encoded)
                adam.step()
    yield slope(adapter, encoded, vectors)


def random_targets(adapter: CausalLM, rows: Sequence[Row], encoded: Sequence[Encoded], seed: int) -> list[Encoded]:
    """The same rows with random tokens where the answer tells what the question does not (everywhere but at its end,
    where it tells nothing): targets of the same length and frame that nobody can know."""
    banned = set(adapter.tokenizer.all_special_ids) | adapter.stops
    usable = torch.tensor([i for i in range(len(adapter.tokenizer)) if i not in banned])
    out = []
    for row, one in zip(rows, encoded, strict=True):
        ids = list(one.payload.branches[0])
        body = len(ids) - len(adapter.template.end)
        told = telling_tokens(adapter.tokenizer, ids[:body], row)
        drawn_at = [i for i, tells in enumerate(told) if tells] or list(range(body))
        draw = torch.Generator().manual_seed(derive(seed, "random target", row.id))
        for i, token in zip(
            drawn_at, usable[torch.randint(len(usable), (body,), generator=draw)].tolist(), strict=False
        ):
            ids[i] = token
        out.append(replace(one, payload=Text(one.payload.prompt, (tuple(ids),))))
    return out


def steps_to_say(slopes: Iterator[Slope]) -> Tensor:
    """Float[rows]: step at which each row's target is first said in full; infinity where it never is."""
    first: Tensor | None = None
    for at, found in enumerate(slopes):
        first = torch.full(found.said.shape, float("inf")) if first is None else first
        first = torch.where(found.said & first.isinf(), torch.full_like(first, at), first)
        if bool(first.isfinite().all()):
            break
    assert first is not None
    return first
