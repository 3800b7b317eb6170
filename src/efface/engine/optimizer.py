"""Optimizer and learning-rate schedule as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from efface.engine.settings import TrainSettings


def make(params: Sequence[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW (fused: one pass over the weights) or SGD."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(params, lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(
        params, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )


def learning_rate(settings: TrainSettings, step: int, total: int) -> float:
    """Learning rate of optimizer step ``step`` (0-based) of ``total``: linear warm-up, then the schedule."""
    warm = round(settings.warmup * total)
    if step < warm:
        return settings.lr * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    if settings.schedule == "linear":
        return settings.lr * (1 - done)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
    return settings.lr
