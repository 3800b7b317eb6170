"""A model of ours as lm-evaluation-harness wants one: log-likelihoods of continuations, of whole texts, greedy text.

Tokenised as the harness's own Hugging Face backend does (context and continuation together, cut where the context
ends), so that numbers compare with published ones. What lies around the weights (logit bias, input guard) stays in
force.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from efface.errors import NeedsError
from efface.models.base import Encoded
from efface.models.decoding import Decoder, Pending, prefill
from efface.models.packing import Text
from efface.passes.batching import batches, label_budget, sliced
from efface.passes.score import reduce

GROUP = 32  # prompts decoded together
LONGEST = 256  # tokens where a task does not say


def harness_model(adapter: Any, token_budget: int = 4096) -> Any:
    """An ``lm_eval.api.model.LM`` around ``adapter``."""
    from lm_eval.api.model import LM

    class Model(LM):
        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return likelihoods(adapter, [pair(adapter, *r.args) for r in requests], token_budget)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [rolling(adapter, r.args[0], token_budget) for r in requests]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return until(adapter, [r.args for r in requests])

    return Model()


def pair(adapter: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of context and continuation. Blanks at the end of the context go to the continuation; an empty context
    becomes the token that starts a text."""
    context = adapter._asked(context)
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    if not context:
        return [start(adapter)], _ids(adapter, continuation)
    before, whole = _ids(adapter, context), _ids(adapter, context + continuation)
    return before, whole[len(before) :]


def start(adapter: Any) -> int:
    """The token in front of a text: BOS, else EOS."""
    tokenizer = adapter.tokenizer
    return int(tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id)


def likelihoods(
    adapter: Any, pairs: Sequence[tuple[list[int], list[int]]], token_budget: int
) -> list[tuple[float, bool]]:
    """(summed log-prob of the continuation, whether greedy decoding gives it) for every pair; contexts too long for the
    model lose their beginning."""
    encoded = []
    for i, (before, after) in enumerate(pairs):
        after = after[-(adapter.context - 1) :]
        text = Text(tuple(before[-(adapter.context - len(after)) :]), (tuple(after),))
        encoded.append(Encoded(str(i), "", text, ("answer",), text.size, len(after)))
    out: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    with adapter.evaluating():
        for part in batches(encoded, token_budget=token_budget, labels=label_budget(adapter)):
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            found = [
                reduce(adapter.forward(b, upcast=False).logits, b.label_id)
                for b in sliced(batch, label_budget(adapter))
            ]
            lp, hit = (torch.cat([getattr(f, name) for f in found]) for name in ("lp", "hit"))
            for k, i in enumerate(part):
                mine = batch.label_row.cpu() == k
                out[i] = float(lp[mine].double().sum()), bool(hit[mine].all())
    return out


def rolling(adapter: Any, text: str, token_budget: int) -> float:
    """Log-prob of a whole text: windows of the model's context, every token predicted once."""
    return sum(lp for lp, _ in likelihoods(adapter, list(windows(adapter, text)), token_budget))


def windows(adapter: Any, text: str) -> Iterator[tuple[list[int], list[int]]]:
    """(context, tokens to predict): the first window starts from the start token, later ones are filled up with as much
    of what came before as fits."""
    ids, size, done = _ids(adapter, text), adapter.context - 1, 0
    while done < len(ids):
        new = ids[done : done + size]
        room = adapter.context - len(new)
        yield ([start(adapter), *ids[:done]] if done < room else ids[done - room : done]), new
        done += len(new)


def until(adapter: Any, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Greedy text up to the first stop string. ``NeedsError`` "harness.sampling" for a task that asks for samples."""
    if any(wanted.get("do_sample") for _, wanted in requests):
        raise NeedsError("harness.sampling", "The task asks for sampled text.", "use a task that decodes greedily.")
    out = [""] * len(requests)
    decoder = Decoder(adapter, max((_most(wanted) for _, wanted in requests), default=1))
    with adapter.evaluating():
        for first in range(0, len(requests), GROUP):
            group = []
            for i, (context, wanted) in enumerate(requests[first : first + GROUP], first):
                room = max(1, adapter.context - _most(wanted))
                ids = _ids(adapter, adapter._asked(context))[-room:] or [start(adapter)]
                group.append(Pending(i, ids, len(ids), None))
            decoder.waiting += prefill(adapter, group)
            for done, _ in decoder.run():
                out[done.place] = _cut(adapter, done.ids[done.start :], requests[done.place][1])
    return out


def _most(wanted: dict[str, Any]) -> int:
    """Longest answer that a task allows, in tokens."""
    return int(wanted.get("max_gen_toks", LONGEST))


def _cut(adapter: Any, ids: Sequence[int], wanted: dict[str, Any]) -> str:
    text = adapter.tokenizer.decode(list(ids)[: _most(wanted)], skip_special_tokens=True)
    stops = wanted.get("until") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text


def _ids(adapter: Any, text: str) -> list[int]:
    return list(adapter.tokenizer(text, add_special_tokens=False)["input_ids"])
