"""Checkpoints: safetensors and JSON, written beside and renamed into place; never a pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from efface.errors import RunFailed


def save(
    folder: Path,
    step: int,
    params: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    rule_state: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Write checkpoint ``step`` and drop older ones. A kill at any moment leaves the previous one whole."""
    target, temp = folder / f"step-{step:06d}", folder / f".tmp-{os.getpid()}"
    try:
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir(parents=True)
        save_file({name: p.detach().cpu().contiguous() for name, p in params.items()}, temp / "weights.safetensors")
        save_file(_optimizer_tensors(params, optimizer), temp / "optimizer.safetensors")
        save_file({k: v.detach().cpu().contiguous() for k, v in rule_state.items()}, temp / "rule.safetensors")
        (temp / "state.json").write_text(json.dumps({"step": step, **state}))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temp, target)
    except OSError as error:
        shutil.rmtree(temp, ignore_errors=True)
        raise RunFailed(
            "disk.checkpoint",
            f"Checkpoint could not be written to {folder}: {error.strerror}.",
            "free disk space or choose another folder with `out`; then run the same command again.",
        ) from error
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def load(
    folder: Path | None, params: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Restore the newest checkpoint into ``params`` and ``optimizer``; (state, rule tensors), None if there is none."""
    found = sorted(folder.glob("step-*")) if folder and folder.is_dir() else []
    if not found:
        return None
    state = json.loads((found[-1] / "state.json").read_text())
    weights = load_file(found[-1] / "weights.safetensors")
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(weights[name])
    _restore_optimizer(load_file(found[-1] / "optimizer.safetensors"), params, optimizer)
    return state, load_file(found[-1] / "rule.safetensors")


def _optimizer_tensors(params: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}|{key}": value.detach().cpu().contiguous()
        for name, p in params.items()
        for key, value in optimizer.state.get(p, {}).items()
        if isinstance(value, Tensor)
    }


def _restore_optimizer(
    tensors: Mapping[str, Tensor], params: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    for full, value in tensors.items():
        name, key = full.rsplit("|", 1)
        p = params[name]
        place = p.device if value.dim() or optimizer.defaults.get("fused") else "cpu"
        optimizer.state[p][key] = value.to(place)
