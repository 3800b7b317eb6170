"""Generation: greedy answers that start from the scoring pass, and plain greedy or sampled generation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from efface.data.rows import Rows
from efface.engine.batches import cut
from efface.models.base import Batch, Encoded, ModelAdapter
from efface.models.decoding import GROUP, Decoder, Pending, keys_of, prefill
from efface.passes.tables import GENERATIONS
from efface.settings import Settings, setting


class GenerateSettings(Settings):
    """How text is generated."""

    max_new_tokens: int = setting(200, "longest answer in tokens", source="TOFU", ge=1)
    samples: int = setting(1, "answers per prompt", ge=1)
    temperature: float = setting(0.0, "0 = greedy; 1 = the model's own distribution", ge=0)
    top_k: int = setting(0, "sample from the k most likely tokens only; 0 = all", ge=0)
    seed: int = setting(0, "seed of sampling; each row has its own stream", ge=0)


class Greedy:
    """Collects greedy answers during scoring. ``done`` {row position: (token ids without the end token, finish)}."""

    def __init__(
        self, adapter: ModelAdapter, rows: Rows, encoded: Sequence[Encoded], settings: GenerateSettings
    ) -> None:
        self.adapter, self.encoded, self.longest = adapter, encoded, settings.max_new_tokens
        self.done: dict[int, tuple[list[int], str]] = {}
        self._decoder = Decoder(adapter, self.longest)

    def take(self, batch: Batch, best: Tensor, hit: Tensor, cache: Any) -> None:
        """Read one scored batch: what the gold branch already tells, and where decoding must go on."""
        row_of, branch_of = batch.label_row.tolist(), batch.label_branch.tolist()
        places: dict[int, list[int]] = {}
        for k, (row, branch) in enumerate(zip(row_of, branch_of, strict=True)):
            if branch == 0:
                places.setdefault(row, []).append(k)
        guesses, hits, index = best.tolist(), hit.tolist(), batch.index.tolist()
        for row, labels in places.items():
            self._one(row, index[row], [guesses[k] for k in labels], [hits[k] for k in labels], cache)
        if len(self._decoder) >= 2 * GROUP:
            self._decode(GROUP)

    def _one(self, row: int, place: int, guesses: list[int], hits: list[bool], cache: Any) -> None:
        """The argmax is what greedy decoding says as long as every earlier one was gold."""
        miss = next((k for k, hit in enumerate(hits) if not hit), len(hits) - 1)
        said, stops = guesses[: miss + 1], self.adapter.stops  # type: ignore[attr-defined]
        end = next((k for k, token in enumerate(said) if token in stops), None)
        if end is not None and end < self.longest:
            self.done[place] = (said[:end], "stop")
        elif len(said) >= self.longest:
            self.done[place] = (said[: self.longest], "length")
        else:
            text = self.encoded[place].payload
            length = len(text.prompt) + miss
            keys = keys_of(cache, row, length) if getattr(self.adapter, "_tree", None) is not False else None
            self._decoder.waiting.append(Pending(place, [*text.prompt, *said], len(text.prompt), keys))

    def finish(self) -> None:
        """Decode what is left."""
        self._decode(0)

    def _decode(self, least: int) -> None:
        for item, finish in self._decoder.run(least):
            self.done[item.place] = (item.ids[item.start :], finish)


def generate(
    adapter: ModelAdapter, rows: Rows, *, prompt: str = "prompt", settings: GenerateSettings, token_budget: int = 4096
) -> pa.Table:
    """Answers to the prompts alone: greedy, or ``samples`` sampled ones per row. A row's samples depend on the seed and
    its id, not on the batch it is in."""
    encoded = [adapter.encode(row, prompt=prompt, answers=()) for row in rows]
    usable = [i for i, e in enumerate(encoded) if not e.problem and e.payload.prompt]
    draw = None if settings.temperature == 0 else _sampler(settings, [row.id for row in rows])
    decoder = Decoder(adapter, settings.max_new_tokens, draw)
    done: dict[int, tuple[list[int], str]] = {}
    with adapter.evaluating():
        for part in cut(encoded, usable, token_budget):
            prompts = [list(encoded[i].payload.prompt) for i in part]
            ready = prefill(adapter, [Pending(i, ids, len(ids), None) for i, ids in zip(part, prompts, strict=True)])
            decoder.waiting += [
                replace(one, place=one.place * settings.samples + sample, ids=list(one.ids))
                for sample in range(settings.samples)
                for one in ready
            ]
            done |= {item.place: (item.ids[item.start :], end) for item, end in decoder.run(GROUP)}
        done |= {item.place: (item.ids[item.start :], end) for item, end in decoder.run()}
    tables = []
    for sample in range(settings.samples):
        mine = {i: done[i * settings.samples + sample] for i in usable}
        tables.append(generation_table(adapter, rows, encoded, mine, prompt, sample))
    return pa.concat_tables(tables)


def _sampler(settings: GenerateSettings, ids: Sequence[str]) -> Any:
    """A function (place, Float[V] logits) -> token, with one generator per row and sample."""
    streams: dict[int, torch.Generator] = {}

    def draw(place: int, logits: Tensor) -> int:
        if place not in streams:
            row, sample = divmod(place, settings.samples)
            streams[place] = torch.Generator().manual_seed(_seed(settings.seed, ids[row], sample))
        scaled = logits.float().cpu() / settings.temperature
        if settings.top_k:
            kept = scaled.topk(min(settings.top_k, len(scaled)))
            return int(kept.indices[torch.multinomial(kept.values.softmax(0), 1, generator=streams[place])])
        return int(torch.multinomial(scaled.softmax(0), 1, generator=streams[place]))

    return draw


def _seed(seed: int, row: str, sample: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{row}/{sample}".encode()).digest()[:8], "big") >> 1


def generation_table(
    adapter: ModelAdapter,
    rows: Rows,
    encoded: Sequence[Encoded],
    done: dict[int, tuple[list[int], str]],
    prompt: str,
    sample: int = 0,
) -> pa.Table:
    """One line per row, in order; rows without an answer carry the problem."""
    lines = []
    for i, row in enumerate(rows):
        ids, finish = done.get(i, ([], ""))
        problem = "" if i in done else encoded[i].problem or "no prompt"
        lines.append(
            {
                "row": row.id,
                "entity": row.entity,
                "prompt": prompt,
                "sample": sample,
                "gold": getattr(row, "answer", ""),
                "ids": ids,
                "finish": finish,
                "problem": problem,
            }
        )
    texts = adapter.tokenizer.batch_decode([line["ids"] for line in lines], skip_special_tokens=True)  # type: ignore[attr-defined]
    return pa.Table.from_pylist(
        [line | {"text": text.strip()} for line, text in zip(lines, texts, strict=True)], schema=GENERATIONS
    )
