"""Seeds: one place where global generators are set."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """A child seed (63 bit) that depends on every name; independent of process and platform."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def fix(seed: int, *, deterministic: bool = True) -> None:
    """Seed torch (all devices); ``deterministic`` asks for bit-reproducible kernels where torch has them."""
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = (
            False  # costs a write of every buffer; no kernel here reads one
        )
