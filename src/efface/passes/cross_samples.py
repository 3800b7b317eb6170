"""Cross samples: answers drawn from two models, each scored under both, with the exact divergence at every step.

Two passes. ``own_samples`` draws (temperature 1, nothing cut off); it hangs on one model only, so the reference's
samples are drawn once and serve every model that is held against it. ``cross_samples`` draws from the model at hand,
takes the reference's samples, and runs both models over all of them: four scored blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from efface.data.rows import Rows
from efface.engine.seeds import derive
from efface.metrics.base import Need, NotComputed
from efface.models.base import Encoded
from efface.models.packing import Text
from efface.passes.batching import batches, label_budget
from efface.passes.generate import GenerateSettings, generate
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import shown

LONGEST = 64  # tokens: beyond it the two models' answers are not compared
CHUNK = 128  # positions reduced at once
_S, _F = pa.string(), pa.list_(pa.float32())
OWN = pa.schema(
    [
        ("row", _S),
        ("entity", _S),
        ("sample", pa.int32()),
        ("ids", pa.list_(pa.int32())),  # without the end token
        ("finish", _S),  # "stop" or "length"
        ("problem", _S),
    ]
)
CROSS = pa.schema(
    [
        ("row", _S),
        ("entity", _S),
        ("mine", pa.bool_()),  # drawn from the model at hand; else from the other
        ("sample", pa.int32()),
        ("own", _F),  # log-probs under the model that said it, end of answer included, nats
        ("cross", _F),  # the same tokens under the other model
        ("kl", _F),  # KL(own || cross) of the next token at each position, whole vocabulary
        ("problem", _S),
    ]
)


@dataclass(frozen=True)
class Drawn:
    """One sampled answer. ``mine``: the model at hand said it."""

    row: str
    entity: str
    mine: bool
    sample: int
    ids: tuple[int, ...]
    finish: str
    problem: str = ""


@table_pass("own_samples")
def own_samples(given: PassInput) -> pa.Table:
    """``need.variants[0]`` answers per row: one line per row and sample."""
    count, longest = int(given.need.variants[0]), min(LONGEST, given.max_new_tokens)
    return _draw(given.adapter, given.rows, count, longest, derive(given.seed, "own samples"), given.token_budget)


@table_pass("cross_samples")
def cross_samples(given: PassInput) -> pa.Table:
    """Samples of the model at hand and of ``need.variants[1]``, scored under both: one line per sample."""
    count, other = int(given.need.variants[0]), given.need.variants[1]
    mine, theirs = given.adapter, given.role(other)
    if mine.identity()["tokenizer"] != theirs.identity()["tokenizer"]:
        raise NotComputed(f"the model and the {other} model do not have the same tokenizer")
    seed, longest = derive(given.seed, "cross samples"), min(LONGEST, given.max_new_tokens)
    said = _drawn(True, _draw(mine, given.rows, count, longest, seed, given.token_budget))
    said += _drawn(False, given.fetch(other, Need("own_samples", given.need.rows, other, (str(count),))))
    ends = sorted(mine.stops | theirs.stops)
    encoded = [_encode(model, given.rows, said, ends[0]) for model in (mine, theirs)]
    found: dict[int, tuple[list[float], list[float], list[float]]] = {}
    with mine.evaluating(), theirs.evaluating():
        for part, lines in _scored((mine, theirs), encoded, said, ends, given.token_budget):
            found |= dict(zip(part, lines, strict=True))
    return pa.Table.from_pylist(
        [_line(one, found.get(k), [side[k].problem for side in encoded]) for k, one in enumerate(said)], schema=CROSS
    )


def _draw(adapter: Any, rows: Rows, count: int, longest: int, seed: int, budget: int) -> pa.Table:
    """Answers from the model's own distribution: temperature 1, no top-k, one random stream per row and sample."""
    settings = GenerateSettings(max_new_tokens=longest, samples=count, temperature=1.0, seed=seed)
    return generate(adapter, rows, settings=settings, token_budget=budget).select(OWN.names).cast(OWN)


def _drawn(mine: bool, table: pa.Table) -> list[Drawn]:
    return [
        Drawn(r["row"], r["entity"], mine, r["sample"], tuple(r["ids"]), r["finish"], r["problem"])
        for r in table.to_pylist()
    ]


def _encode(adapter: Any, rows: Rows, said: Sequence[Drawn], end: int) -> list[Encoded]:
    """Each sample as the one answer to its question, as this model is asked it; an answer that ended of itself ends in
    ``end``, which stands for every end token (``_joined``)."""
    prompts = {row.id: adapter.encode(row, answers=()).payload.prompt for row in rows}
    out = []
    for one in said:
        text = Text(tuple(prompts[one.row]), ((*one.ids, end) if one.finish == "stop" else one.ids,))
        problem = one.problem or ("longer than the context" if text.longest > adapter.context else "")
        out.append(Encoded(one.row, one.entity, text, ("sample",), text.size, len(text.branches[0]), problem))
    return out


def _scored(
    models: Sequence[Any],
    encoded: Sequence[Sequence[Encoded]],
    said: Sequence[Drawn],
    ends: Sequence[int],
    budget: int,
) -> Iterator[tuple[list[int], list[tuple[list[float], list[float], list[float]]]]]:
    """(sample numbers, their log-probs under the model that said them and under the other, divergences) by batch.

    Both models' logits of one batch are held together, so each gets half the budget of positions.
    """
    joint = [
        Encoded(a.row_id, a.entity, a.payload, a.names, max(a.length, b.length), a.labels, a.problem or b.problem)
        for a, b in zip(*encoded, strict=True)
    ]
    labels = max(1, min(label_budget(model) for model in models) // 2)
    for part in batches(joint, token_budget=budget, labels=labels):
        logits, batch = [], None
        for model, side in zip(models, encoded, strict=True):
            batch = model.collate([side[i] for i in part], part).to(model.device)
            logits.append(shown(model.forward(batch).logits))
        assert batch is not None
        mine = torch.tensor([said[i].mine for i in part])
        values = _compare(logits[0], logits[1].to(logits[0].device), batch.label_id, mine[batch.label_row.cpu()], ends)
        owner = batch.label_row.tolist()
        lines: list[tuple[list[float], list[float], list[float]]] = [([], [], []) for _ in part]
        for row, *numbers in zip(owner, *(v.tolist() for v in values), strict=True):
            for column, number in zip(lines[row], numbers, strict=True):
                column.append(number)
        yield part, lines


def _compare(a: Tensor, b: Tensor, gold: Tensor, mine: Tensor, ends: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(own, cross, kl) Float[L] from two models' logits Float[L, V]; ``mine`` Bool[L]: the first model said it."""
    own, cross, divergence = [], [], []
    gold, mine = gold.to(a.device), mine.to(a.device)
    for k in range(0, len(gold), CHUNK):
        part = slice(k, k + CHUNK)
        x, y = (_joined(logits[part].float(), ends) for logits in (a, b))
        which = mine[part, None]
        p, q = torch.where(which, x, y), torch.where(which, y, x)
        own.append(p.gather(1, gold[part, None]).squeeze(1)), cross.append(q.gather(1, gold[part, None]).squeeze(1))
        divergence.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(own).cpu(), torch.cat(cross).cpu(), torch.cat(divergence).cpu()


def _joined(logits: Tensor, ends: Sequence[int]) -> Tensor:
    """Log-probs Float[n, V] with all tokens that end an answer counted as one, in the place of the first: which of them
    is said makes no difference to the answer."""
    logp, ends = torch.log_softmax(logits, dim=-1), list(ends)
    together = logp[:, ends].logsumexp(-1)
    logp[:, ends] = -1e4  # probability 0 in both models, so that the terms vanish
    logp[:, ends[0]] = together
    return logp


def _line(one: Drawn, values: tuple[list[float], list[float], list[float]] | None, problems: list[str]) -> dict:
    own, cross, divergence = values or ([], [], [])
    return {
        "row": one.row,
        "entity": one.entity,
        "mine": one.mine,
        "sample": one.sample,
        "own": own,
        "cross": cross,
        "kl": divergence,
        "problem": next((p for p in problems if p), ""),
    }
