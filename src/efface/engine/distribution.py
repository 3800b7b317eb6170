"""Several processes: each takes its share of the micro-batches, gradients are summed. One process: nothing happens."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence

import torch
from torch import nn


def world() -> tuple[int, int]:
    """(rank, processes). Started by ``accelerate launch`` or ``torchrun``; the group is opened through accelerate, and
    closed when the process ends. A group that the caller opened before is used, and left for the caller to close."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return 0, 1
    from accelerate import PartialState

    ours = not torch.distributed.is_initialized()
    state = PartialState(cpu=not torch.cuda.is_available())
    if ours and torch.distributed.is_initialized():
        atexit.register(close)
    return state.process_index, state.num_processes


def close() -> None:
    """Close the process group, if one is open. Its threads must have ended when the interpreter does: a thread that
    still runs then makes the process abort ("terminate called without an active exception"). No waiting for the others:
    what a process has sent arrives, and one that failed must not be waited for."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def add_up(params: Sequence[nn.Parameter]) -> None:
    """Sum ``.grad`` over all processes (a missing gradient counts as zero)."""
    if world()[1] == 1:
        return
    for p in params:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        torch.distributed.all_reduce(p.grad)


def add_up_number(value: float, device: torch.device) -> float:
    """Sum of a figure over all processes."""
    if world()[1] == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device if device.type == "cuda" else "cpu")
    torch.distributed.all_reduce(total)
    return float(total)
