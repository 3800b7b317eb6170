"""Score pass: one teacher-forced forward per batch gives every per-token number that metrics read, and, where asked
for, the greedy answers that start from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from efface.data.rows import Rows
from efface.errors import NeedsError
from efface.metrics.base import NotComputed
from efface.models.base import Batch, Encoded, ModelAdapter
from efface.passes.batching import batches, label_budget, sliced
from efface.passes.generate import GenerateSettings, Greedy, generation_table
from efface.passes.generate import generate as answers_alone
from efface.passes.tables import NO_LOGITS, TOKENS
from efface.progress import SILENT, Progress

CHUNK_BYTES = 1 << 21  # of float32 logits reduced at once: what stays in a core's cache while it is read six times


class HidesLogits(NeedsError, NotComputed):
    """There is nothing to score by: an attack is skipped by this name, a metric is not computed for this reason."""

    def __str__(self) -> str:
        return f"{NO_LOGITS} ({self.code})"


@dataclass(frozen=True)
class ScoreResult:
    """``tokens``: one row per (data row, candidate); ``generations``: one per data row, or None."""

    tokens: pa.Table
    generations: pa.Table | None


@dataclass(frozen=True)
class TokenStats:
    """Per label token, float32 on the CPU: gold log-prob, argmax hit, rank of gold (0 = first), sum p log p, spread."""

    lp: Tensor
    hit: Tensor
    rank: Tensor
    mu: Tensor
    sigma: Tensor
    best: Tensor


def score(
    adapter: ModelAdapter,
    rows: Rows,
    *,
    prompt: str = "prompt",
    answers: Sequence[str] = ("answer",),
    token_budget: int = 4096,
    generate: GenerateSettings | None = None,
    progress: Progress = SILENT,
) -> ScoreResult:
    """Score every candidate answer of every row; tables come in the order of ``rows``.

    With ``generate``, the greedy answer comes from the same forward: where the argmax agrees with the gold answer to
    its end it is already known, elsewhere decoding goes on from the first miss with the keys and values at hand.

    A model that hides its logits is refused (``NeedsError`` ``model.hides-logits``); with ``generate`` it gives its
    answers alone, and every row of ``tokens`` says why it is not scored.
    """
    options = {"prompt": prompt, "answers": answers, "token_budget": token_budget}
    try:
        return _score(adapter, rows, generate=generate, progress=progress, **options)  # type: ignore[arg-type]
    except HidesLogits:
        if generate is None:
            raise
        return _hidden(adapter, rows, generate=generate, **options)  # type: ignore[arg-type]


def _score(
    adapter: ModelAdapter,
    rows: Rows,
    *,
    prompt: str,
    answers: Sequence[str],
    token_budget: int,
    generate: GenerateSettings | None,
    progress: Progress,
) -> ScoreResult:
    wanted = tuple(answers) if generate is None or "answer" in answers else ("answer", *answers)
    if generate is not None:
        wanted = (
            "answer",
            *(a for a in wanted if a != "answer"),
        )  # the gold branch first: its keys follow the prompt's
    encoded = [adapter.encode(row, prompt=prompt, answers=wanted) for row in rows]
    lines: list[list[dict[str, Any]]] = [[] for _ in rows]
    greedy = Greedy(adapter, rows, encoded, generate) if generate is not None else None
    kept: dict[str, Any] = {"cache": True} if greedy else {}
    with adapter.evaluating(), progress.step(f"score {len(rows)} rows", len(rows)) as task:
        for part in batches(encoded, token_budget=token_budget, labels=label_budget(adapter)):
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            found = []
            for piece in sliced(batch, label_budget(adapter)):  # more than one only where a single row is over budget
                out = adapter.forward(piece, upcast=False, **kept)
                found.append(reduce(out.logits, piece.label_id))
            stats = joined(found)
            _lines(lines, batch, stats, answers, encoded, rows, prompt)
            if greedy:
                greedy.take(batch, stats.best, stats.hit, out.cache)
            progress.advance(task, len(part))
        if greedy:
            greedy.finish()
    table = pa.Table.from_pylist(
        [line for i, found in enumerate(lines) for line in found or _unscored(encoded[i], rows[i], prompt, answers)],
        schema=TOKENS,
    )
    return ScoreResult(table, generation_table(adapter, rows, encoded, greedy.done, prompt) if greedy else None)


def _hidden(
    adapter: ModelAdapter,
    rows: Rows,
    *,
    prompt: str,
    answers: Sequence[str],
    token_budget: int,
    generate: GenerateSettings,
) -> ScoreResult:
    """The answers of a model that hides its logits, decoded from the questions; no row is scored."""
    encoded = [adapter.encode(row, prompt=prompt, answers=answers) for row in rows]
    encoded = [replace(e, problem=e.problem or NO_LOGITS) for e in encoded]
    lines = [line for e, row in zip(encoded, rows, strict=True) for line in _unscored(e, row, prompt, answers)]
    greedy = generate.model_copy(update={"temperature": 0.0, "samples": 1})
    try:
        said = answers_alone(adapter, rows, prompt=prompt, settings=greedy, token_budget=token_budget)
    except (AttributeError, TypeError) as error:  # decoding finds no logits either
        raise _refusal() from error
    return ScoreResult(pa.Table.from_pylist(lines, schema=TOKENS), said)


def reduce(logits: Tensor | None, gold: Tensor) -> TokenStats:
    """All per-token numbers from Float[L, V] logits, in chunks of float32; nothing of size V is kept."""
    logits = shown(logits)
    chunk = max(1, CHUNK_BYTES // (4 * logits.shape[1])) if logits.device.type == "cpu" else 128
    parts = [_reduce(logits[k : k + chunk].float(), gold[k : k + chunk]) for k in range(0, len(gold), chunk)]
    return TokenStats(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def shown(logits: Tensor | None) -> Tensor:
    """``logits`` where the model gives them; ``NeedsError`` model.hides-logits where it does not."""
    if logits is None:
        raise _refusal()
    return logits


def _refusal() -> HidesLogits:
    refused = NeedsError(
        "model.hides-logits",
        "The model hides its logits, so answers that it is given cannot be scored.",
        "choose metrics that read generated text (rouge), or audit the model behind the guard.",
    )
    return HidesLogits(refused.code, refused.cause, refused.fix)


def joined(parts: Sequence[TokenStats]) -> TokenStats:
    """The numbers of consecutive pieces of a batch as those of one."""
    if len(parts) == 1:
        return parts[0]
    return TokenStats(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(TokenStats)))


def _reduce(logits: Tensor, gold: Tensor) -> tuple[Tensor, ...]:
    """With x = logits - max, z = sum e^x: log p = x - log z, sum p log p = (sum e^x x) / z - log z, and the spread of
    log p under p is that of x."""
    top, best = logits.max(-1)
    x = (logits - top[:, None]).clamp_(min=-1e4)  # p = 0 where a logit is -inf: its term is 0, not NaN
    mine = x.gather(1, gold[:, None])
    rank = (x > mine).sum(-1)
    e = x.exp()
    z = e.sum(-1)
    first = e.mul_(x).sum(-1) / z
    second = e.mul_(x).sum(-1) / z
    sigma = (second - first * first).clamp(min=0).sqrt()
    return mine.squeeze(1) - z.log(), best == gold, rank, first - z.log(), sigma, best


def _lines(
    lines: list[list[dict[str, Any]]],
    batch: Batch,
    stats: TokenStats,
    answers: Sequence[str],
    encoded: Sequence[Encoded],
    rows: Rows,
    prompt: str,
) -> None:
    """One table line per candidate that was asked for."""
    index, row_of, branch_of = batch.index.tolist(), batch.label_row.tolist(), batch.label_branch.tolist()
    columns = {name: getattr(stats, name).tolist() for name in ("lp", "hit", "rank", "mu", "sigma")}
    start = 0
    while start < len(row_of):
        end = start
        while end < len(row_of) and (row_of[end], branch_of[end]) == (row_of[start], branch_of[start]):
            end += 1
        i = index[row_of[start]]
        name = encoded[i].names[branch_of[start]]
        if name.split(":")[0] in answers:
            lines[i].append(
                {
                    "row": encoded[i].row_id,
                    "entity": encoded[i].entity,
                    "prompt": prompt,
                    "variant": name,
                    **{k: v[start:end] for k, v in columns.items()},
                    "eos": adapter_ends(rows[i], prompt),
                    "text": _text(rows[i], name),
                    "problem": "",
                }
            )
        start = end


def adapter_ends(row: Any, prompt: str) -> bool:
    """Whether the row's last target is an end token: answers to a question have one, documents and images do not."""
    return bool(getattr(row, prompt, "")) if prompt else False


def _text(row: Any, name: str) -> str:
    stem, _, number = name.partition(":")
    value = getattr(row, stem, "")
    return value[int(number)] if number else str(value) if isinstance(value, str) else ""


def _unscored(encoded: Encoded, row: Any, prompt: str, answers: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of a row that could not be scored: kept, with the reason and empty lists."""
    names = [n for n in encoded.names if n.split(":")[0] in answers] or [a for a in answers if a != "wrong"][:1]
    return [
        {
            "row": encoded.row_id,
            "entity": encoded.entity,
            "prompt": prompt,
            "variant": name,
            "lp": [],
            "hit": [],
            "rank": [],
            "mu": [],
            "sigma": [],
            "eos": False,
            "text": _text(row, name),
            "problem": encoded.problem,
        }
        for name in names
    ]
