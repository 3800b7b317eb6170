"""Lens pass: what the head would say if it read an earlier layer, for every token of the answer, from one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from efface.errors import NeedsError
from efface.metrics.base import NotComputed
from efface.models.base import Batch
from efface.models.kernels import only_labels
from efface.passes.batching import batches, label_budget, sliced
from efface.passes.pathways import components
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import reduce

TAPS = ("attention", "mlp", "residual")
"""What a need's ``pooling`` may ask for instead of block outputs: what attention or MLP adds, or the stream between."""
LENS = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("layer", pa.int32()),  # block 1..n: its output, or the tap of it that was asked for
        ("lp", pa.list_(pa.float32())),  # log-prob of the gold tokens, end of answer included, nats
        ("rank", pa.list_(pa.int32())),  # their ranks, 0 = first
        ("ends", pa.bool_()),  # the last token is an end-of-answer token
        ("problem", pa.string()),
    ]
)


@table_pass("lens")
def lens(given: PassInput) -> pa.Table:
    """One line per (row, layer), rows in order: gold log-probs and ranks through the model's own final norm and head.
    The last layer is the model's own answer, unless a tap inside the blocks was asked for (``TAPS``)."""
    adapter, prompt = given.adapter, given.need.prompt
    tap = given.need.pooling if given.need.pooling in TAPS else ""
    if adapter.family != "causal_lm":
        raise NotComputed(f"a {adapter.family} has no tokens to read at earlier layers")
    if tap:
        _check_parts(adapter)
    depth = len(adapter.blocks)
    encoded = [adapter.encode(row, prompt=prompt) for row in given.rows]
    found: dict[int, list[tuple[list[float], list[int]]]] = {}
    with adapter.evaluating():
        labels = max(1, label_budget(adapter) // depth)
        for part in batches(encoded, token_budget=given.token_budget, labels=labels):
            batch = adapter.collate([encoded[i] for i in part], part).to(adapter.device)
            pieces = [
                reduce(lens_logits(adapter, piece, tap), piece.label_id.repeat(depth))
                for piece in sliced(batch, labels)
            ]
            lp = torch.cat([piece.lp.reshape(depth, -1) for piece in pieces], 1)
            rank = torch.cat([piece.rank.reshape(depth, -1) for piece in pieces], 1)
            for k, i in enumerate(part):
                mine = (batch.label_row == k).cpu()
                found[i] = [(lp[d][mine].tolist(), rank[d][mine].tolist()) for d in range(depth)]
    lines = [
        {
            "row": e.row_id,
            "entity": e.entity,
            "layer": layer,
            "lp": found[i][layer - 1][0] if i in found else [],
            "rank": found[i][layer - 1][1] if i in found else [],
            "ends": bool(getattr(row, prompt, "")) if prompt else False,
            "problem": e.problem,
        }
        for i, (e, row) in enumerate(zip(encoded, given.rows, strict=True))
        for layer in range(1, depth + 1)
    ]
    return pa.Table.from_pylist(lines, schema=LENS)


def _check_parts(adapter: Any) -> None:
    try:
        components(adapter)
    except NeedsError as error:
        raise NotComputed(f"[{error.code}] {error.cause}") from None


def lens_logits(adapter: Any, batch: Batch, tap: str = "") -> Tensor:
    """Float32[layers * L, V]: logits at the label positions, layer after layer, of the blocks' outputs or a ``tap``.

    The outputs of all blocks are stacked along the batch behind the last block, so that whatever follows it in the
    model (final norm, head, scaling, soft cap, a logit bias) reads every layer as it reads the last.
    """
    depth, (rows, width) = len(adapter.blocks), batch.token_mask.shape
    at = torch.cat([batch.label_at + layer * rows * width for layer in range(depth)])
    asked = torch.full((rows,), width, device=at.device)
    asked.scatter_reduce_(0, batch.label_row, batch.label_at % width, "amin")
    with _stacked(adapter, tap), only_labels(adapter.hf, at):
        out = adapter.call(last_prompt=asked, **batch.inputs, use_cache=False)
    return out.logits.reshape(-1, out.logits.shape[-1]).float()


@contextmanager
def _stacked(adapter: Any, tap: str) -> Iterator[None]:
    """The last block hands on what was read in all of them: Float[layers * B, T, width]."""
    kept: list[Tensor] = []
    handles = _taps(adapter, tap, kept.append)

    def hand_on(module: Any, args: Any, out: Any) -> Any:
        whole = torch.cat(kept)
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    handles.append(adapter.blocks[-1].register_forward_hook(hand_on))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _taps(adapter: Any, tap: str, keep: Callable[[Tensor], None]) -> list[Any]:
    """Hooks that ``keep`` the tap of every block in turn."""

    def output(module: Any, args: Any, out: Any) -> None:
        keep(_states(out))

    if not tap:
        return [block.register_forward_hook(output) for block in adapter.blocks]
    parts = components(adapter)
    if tap != "residual":
        return [module.register_forward_hook(output) for (_, part), module in parts.items() if part == tap]
    entered: list[Tensor] = []

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    def between(module: Any, args: Any, out: Any) -> None:
        keep(entered[-1] + _states(out))

    attention = [module for (_, part), module in parts.items() if part == "attention"]
    handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in adapter.blocks]
    return handles + [module.register_forward_hook(between) for module in attention]


def _states(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out
