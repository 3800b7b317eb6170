"""Gradient pass: one backward per row. The only pass that needs one."""

from __future__ import annotations

import pyarrow as pa
import torch

from efface.data.rows import Rows
from efface.models.base import ModelAdapter
from efface.passes.score import shown
from efface.passes.tables import GRADIENTS
from efface.progress import SILENT, Progress


def gradient(adapter: ModelAdapter, rows: Rows, *, prompt: str = "prompt", progress: Progress = SILENT) -> pa.Table:
    """Mean over parameter tensors of ||d mean NLL / d theta_i||_2, one row at a time, in eval mode (no dropout).

    Gradients and ``requires_grad`` flags are left as they were.
    """
    lines, params = [], list(adapter.module.parameters())
    flags, kept, was = [p.requires_grad for p in params], [p.grad for p in params], adapter.module.training
    adapter.module.eval()
    try:
        for p in params:
            p.requires_grad_(True)
            p.grad = None
        with progress.step("gradient norms", len(rows)) as task:
            for row in rows:
                lines.append(_one(adapter, row, prompt, params))
                progress.advance(task)
    finally:
        adapter.module.train(was)
        for p, flag, grad in zip(params, flags, kept, strict=True):
            p.grad = grad
            p.requires_grad_(flag)
    return pa.Table.from_pylist(lines, schema=GRADIENTS)


def _one(adapter: ModelAdapter, row, prompt: str, params: list[torch.nn.Parameter]) -> dict:
    encoded = adapter.encode(row, prompt=prompt)
    line = {"row": encoded.row_id, "entity": encoded.entity, "norm": None, "problem": encoded.problem}
    if encoded.problem:
        return line
    batch = adapter.collate([encoded], [0]).to(adapter.device)
    with torch.enable_grad(), adapter.autocast():
        logits = shown(adapter.forward(batch).logits)
        torch.nn.functional.cross_entropy(logits, batch.label_id).backward()  # type: ignore[arg-type]
    norms = torch.stack([p.grad.float().norm() for p in params if p.grad is not None])
    for p in params:
        p.grad = None
    return line | {"norm": float(norms.mean())}
