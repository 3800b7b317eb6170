"""``check``: what a run would do, need and leave out, found with nothing loaded but the data."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from efface.attacks.base import ATTACKS
from efface.audit.measure import pairs
from efface.audit.store import ROLE_TEXT
from efface.data.rows import Bundle
from efface.refusing import check_unlearned, method_for, refuse_early
from efface.spec import Resolved, RunSpec
from efface.suites import Suite

KNOWN_SIZES = {"smollm2-135m": 134_500_000, "tiny": 1_500_000, "cnn": 70_000}
TOKENS_PER_SECOND = 520 * 134_500_000 / 2  # training tokens x parameters per second and core, measured on a 2-core CPU
CHARACTERS_PER_TOKEN = 4.0


def plan(resolved: Resolved, unlearned: Path | None = None) -> dict[str, Any]:
    """Everything ``efface check`` prints; with the folder of a model that exists already, what its audit would do.

    Raises the error a run would raise before it loads weights.
    """
    spec = resolved.spec
    data, _, suite = refuse_early(spec)
    if unlearned is None:
        method_for(spec, data)
    else:
        check_unlearned(unlearned, spec, data)
    roles = {role for role in ("target", "reference") if getattr(spec, role).kind != "none"}
    roles |= {"unlearned"} if unlearned else {"unlearned", "target"}
    size = parameters(spec)
    result = {
        "method": spec.method.name if unlearned is None else "audit",
        "model": spec.model.name,
        "benchmark": data.name,
        "hash": resolved.hash,
        "train": {k: len(v) for k, v in data.train.items()},
        "eval": {k: len(v) for k, v in data.eval.items()},
        "not_computed": list(dict.fromkeys(not_computed(roles, data, suite))),
        "parameters": size,
        "memory_gib": _memory(size),
        "minutes": _minutes(spec, data, size) if unlearned is None else None,
        "origins": resolved.origins,
    }
    return result | {"lines": list(_lines(result))}


def not_computed(roles: Set[str], data: Bundle, suite: Suite) -> Iterator[str]:
    """One line for each metric and attack that the models at hand and the data rule out."""
    for metric, rows in pairs(suite):
        for need in metric.bound_needs(rows):
            if need.role not in ("subject", *roles):
                yield f"{metric.name}: {ROLE_TEXT.get(need.role, need.role)}"
            elif need.kind != "weight" and not data.eval.get(need.rows):
                yield f"{metric.name} on {rows}: the data has no {need.rows} rows"
    for entry in suite.attacks:
        attack = ATTACKS.get(entry.name)(**entry.settings)
        reason = attack.check(data) if data.eval.get("forget") else "the data has no forget rows"
        controls = [c for c in attack.controls if c not in roles]
        if reason or controls:
            yield f"attack {entry.label or entry.name}: {reason or 'excess, ' + ROLE_TEXT[controls[0]]}"


def parameters(spec: RunSpec) -> int | None:
    """Parameter count of the base model, from safetensors headers where it is a folder; None if unknown."""
    if spec.model.name in KNOWN_SIZES:
        return KNOWN_SIZES[spec.model.name]
    folder = Path(spec.model.name)
    if not folder.is_dir():
        return None
    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            total += sum(math.prod(tensors.get_slice(k).get_shape()) for k in tensors.keys())
    return total or None


def _memory(size: int | None) -> float | None:
    """Peak of unlearning in GiB: float32 weights twice (target and copy), gradients and two moments, plus 1 GiB."""
    return None if size is None else round((2 + 1 + 2) * 4 * size / 2**30 + 1, 1)


def _minutes(spec: RunSpec, data: Bundle, size: int | None) -> float | None:
    """Rough training time on the CPU (target, reference and method); None for a GPU or an unknown model."""
    if size is None or spec.model.device.startswith("cuda") or data.modality != "text":
        return None
    rate = TOKENS_PER_SECOND * (os.cpu_count() or 1) / size

    def tokens(rows: Any) -> float:
        return sum(20 + (len(r.prompt) + len(r.answer)) / CHARACTERS_PER_TOKEN for r in rows)

    forget, retain = tokens(data.train.get("forget", ())), tokens(data.train.get("retain", ()))
    build = sum(
        getattr(spec, role).train.epochs * (retain + (forget if role == "target" else 0))
        for role in ("target", "reference")
        if getattr(spec, role).kind == "train"
    )
    rows = max(1, len(data.train.get("forget", ())))
    steps = spec.train.steps or math.ceil(spec.train.epochs * rows / min(spec.train.batch_size, rows))
    return round((build + steps * spec.train.batch_size * 2 * forget / rows) / rate / 60, 1)


def _lines(r: dict[str, Any]) -> Iterator[str]:
    yield f"{r['method']} on {r['model']}, benchmark {r['benchmark']}, spec {r['hash'][:12]}"
    yield "trained on: " + ", ".join(f"{k} {n}" for k, n in r["train"].items())
    yield "scored on: " + ", ".join(f"{k} {n}" for k, n in r["eval"].items())
    if r["parameters"]:
        yield f"{r['parameters'] / 1e6:.1f} M parameters; about {r['memory_gib']} GiB of memory at the peak"
    yield "time: " + (
        f"about {r['minutes']} minutes of training on this CPU (a rough estimate, within a factor of two)"
        if r["minutes"]
        else "not estimated for this device, model or data"
    )
    yield from (f"not computed - {line}" for line in r["not_computed"])
