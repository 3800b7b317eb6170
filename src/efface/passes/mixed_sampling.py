"""Mixed sampling: text that two models agree on, drawn from a weighted sum of their log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.engine.seeds import derive
from efface.models.kernels import only_labels
from efface.models.packing import Text, pack

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM


@dataclass(frozen=True)
class Mixing:
    """score(v) = ``weight`` log p_first(v) + (1 - weight) log p_second(v); sampled at ``temperature`` from the
    ``top_k``
    best and, of those, the fewest that hold the share ``top_p``."""

    weight: float = 0.7
    temperature: float = 0.9
    top_k: int = 50
    top_p: float = 0.9
    max_new_tokens: int = 50


@torch.no_grad()
def mixed_samples(
    first: CausalLM, second: CausalLM, prompts: Sequence[Sequence[int]], mixing: Mixing, seed: int
) -> list[str]:
    """One continuation per prompt (token ids), without its end token. The same seed and place give the same text,
    whatever
    the other prompts are. Both models must have one tokenizer."""
    ids = [list(prompt) for prompt in prompts]
    streams = [torch.Generator().manual_seed(derive(seed, "mixed sample", i)) for i in range(len(ids))]
    open_rows = list(range(len(ids)))
    with first.evaluating(), second.evaluating():
        for _ in range(mixing.max_new_tokens):
            open_rows = [i for i in open_rows if len(ids[i]) < min(first.context, second.context)]
            if not open_rows:
                break
            logps = [_next(model, [ids[i] for i in open_rows]) for model in (first, second)]
            scores = mixing.weight * logps[0] + (1 - mixing.weight) * logps[1]
            going = []
            for place, i in enumerate(open_rows):
                token = draw(scores[place], mixing, streams[i])
                if token not in first.stops:
                    ids[i].append(token)
                    going.append(i)
            open_rows = going
    said = [row[len(prompt) :] for row, prompt in zip(ids, prompts, strict=True)]
    return [text.strip() for text in first.tokenizer.batch_decode(said, skip_special_tokens=True)]


def draw(scores: Tensor, mixing: Mixing, stream: torch.Generator) -> int:
    """One token from Float[V] ``scores``."""
    kept = (scores / mixing.temperature).topk(min(mixing.top_k, scores.numel()))
    p = kept.values.softmax(0)
    p = torch.where(p.cumsum(0) - p < mixing.top_p, p, 0.0)
    return int(kept.indices[torch.multinomial(p, 1, generator=stream)])


def _next(model: CausalLM, rows: Sequence[Sequence[int]]) -> Tensor:
    """Float[rows, V] on the CPU: log-probs of the next token."""
    packed = pack([Text(tuple(row), ()) for row in rows], model.pad)
    width, device = packed.ids.shape[1], model.device
    last = torch.tensor([k * width + len(row) - 1 for k, row in enumerate(rows)], device=device)
    with only_labels(model.hf, last):
        out = model.call(
            last_prompt=torch.tensor([len(row) - 1 for row in rows]),
            input_ids=packed.ids.to(device),
            attention_mask=packed.mask.to(device),
            position_ids=packed.positions.to(device),
            use_cache=False,
        )
    return torch.log_softmax(out.logits.reshape(len(rows), -1).float(), -1).cpu()
