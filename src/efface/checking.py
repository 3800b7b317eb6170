"""``check``: what a run would do, need and leave out, found with nothing loaded but the data."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from efface import suites
from efface.attacks.base import ATTACKS
from efface.audit.measure import pairs
from efface.audit.store import ROLE_TEXT
from efface.data.rows import Bundle
from efface.engine.rules.base import RULES
from efface.errors import ModelError, NeedsError, SpecError, nearest
from efface.loading import load_data
from efface.methods.base import METHODS, Context, Method
from efface.metrics.base import METRICS
from efface.models.folder_check import check_folder
from efface.request import ForgetRequest
from efface.spec import Resolved, RunSpec
from efface.suites import Suite

KNOWN_SIZES = {"smollm2-135m": 134_500_000, "tiny": 1_500_000, "cnn": 70_000}
TOKENS_PER_SECOND = 520 * 134_500_000 / 2   # training tokens x parameters per second and core, measured on a 2-core CPU
CHARACTERS_PER_TOKEN = 4.0


def plan(resolved: Resolved) -> dict[str, Any]:
    """Everything ``efface check`` prints. Raises the error a run would raise before it loads weights."""
    spec = resolved.spec
    data, _, suite = refuse_early(spec)
    method_for(spec, data)
    missing = list(dict.fromkeys(not_computed(spec, data, suite)))
    size = parameters(spec)
    result = {"method": spec.method.name, "model": spec.model.name, "benchmark": data.name, "hash": resolved.hash,
              "train": {k: len(v) for k, v in data.train.items()}, "eval": {k: len(v) for k, v in data.eval.items()},
              "not_computed": missing, "parameters": size, "memory_gib": _memory(size), "minutes": _minutes(spec, data, size),
              "origins": resolved.origins}
    return result | {"lines": list(_lines(result))}


def refuse_early(spec: RunSpec) -> tuple[Bundle, ForgetRequest, Suite]:
    """(rows, request, suite), after everything that can be refused before weights are loaded or anything is written:
    rows, names and settings of every component, model folders."""
    data, request = load_data(spec)
    suite = suites.load(spec.audit.suite)
    _check_suite(suite, spec, data)
    _check_sources(spec, data)
    RULES.get(spec.train.rule)(**spec.train.rule_settings)
    return data, request, suite


def method_for(spec: RunSpec, data: Bundle) -> Method:
    """The method with its settings; refuses what it can refuse without a model (missing forget or retain rows, ...)."""
    method = METHODS.get(spec.method.name)(**spec.method.settings)
    model: Any = _NotLoaded({"image": "classifier"}.get(data.modality, "causal_lm"))
    context = Context(model, data.train.get("forget", ()), data.train.get("retain", ()), spec.train, spec.seed, base=lambda: model)
    with suppress(_NeedsModel):  # what comes after that is looked at again when the model is there
        method.check(context)
    return method


class _NeedsModel(Exception):
    """A check came to a question that only a loaded model can answer."""


class _NotLoaded:
    """Stands for a model of which nothing but the family is known yet."""

    def __init__(self, family: str) -> None:
        self.family = family

    def __getattr__(self, name: str) -> Any:
        raise _NeedsModel(name)


def check_unlearned(folder: Path, spec: RunSpec, data: Bundle) -> None:
    """The model that ``audit`` is given: a full folder, or an artifact whose target is named."""
    if not is_artifact(folder):
        _check_folder(folder, data)
    elif spec.target.kind == "none":
        raise NeedsError("audit.needs-target", f"{folder} holds an artifact, which needs its target.", "name the target with --target.")


def is_artifact(folder: Path) -> bool:
    """Whether ``folder`` holds what is put on a target, and no model of its own."""
    return (folder / "artifact.json").is_file() and not (folder / "config.json").is_file()


def _check_suite(suite: Suite, spec: RunSpec, data: Bundle) -> None:
    if suite.modality != data.modality:
        raise SpecError("suite.wrong-modality", f"Suite {suite.name} is about {suite.modality}, and {data.name} holds {data.modality}.",
                        "set audit.suite to one that fits (`efface list suites`).")
    for name in [*(m.name for m, _ in pairs(suite)), *suite.attack_metrics]:
        METRICS.get(name)
    for entry in suite.attacks:
        ATTACKS.get(entry.name)(**entry.settings)
    labels = [entry.label or entry.name for entry in suite.attacks]
    for label in spec.audit.attacks or ():
        if label not in labels:
            raise SpecError("suite.unknown-attack", f"Suite {suite.name} has no attack {label!r} (audit.attacks).", nearest(label, labels))


def _check_sources(spec: RunSpec, data: Bundle) -> None:
    """Models that are there, and rows to train the others on."""
    folder = Path(spec.model.name).expanduser()
    if data.modality == "image" and spec.model.name != "cnn" and not folder.is_dir():
        raise SpecError("spec.wrong-model", f"Benchmark {data.name} holds images, and model {spec.model.name!r} is none for images.",
                        "set model.name to cnn, or to a folder with an image classifier.")
    if folder.is_dir():
        _check_folder(folder, data)
    for role in ("target", "reference"):
        source = getattr(spec, role)
        if source.kind == "folder":
            if not source.path:
                raise SpecError("spec.no-path", f"{role}.kind is folder, but {role}.path is not set.", f"set {role}.path to the model's folder.")
            _check_folder(Path(source.path).expanduser(), data)
    if spec.reference.kind == "train" and not len(data.train.get("retain", ())):
        raise NeedsError("reference.needs-retain", "A reference model is trained on the retain rows, and there are none.",
                         "add retain rows to the request, or set reference.kind to none (or to folder, with reference.path).")


def _check_folder(folder: Path, data: Bundle) -> None:
    if data.modality == "text":
        check_folder(folder)
    elif not folder.is_dir():
        raise ModelError("model.missing", f"There is no model folder {folder}.", "check the path.")


def not_computed(spec: RunSpec, data: Bundle, suite: Any) -> Iterator[str]:
    """One line for each metric and attack that this spec and data rule out."""
    roles = {"unlearned", "target"} | ({"reference"} if spec.reference.kind != "none" else set())
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
    build = sum(getattr(spec, role).train.epochs * (retain + (forget if role == "target" else 0))
                for role in ("target", "reference") if getattr(spec, role).kind == "train")
    rows = max(1, len(data.train.get("forget", ())))
    steps = spec.train.steps or math.ceil(spec.train.epochs * rows / min(spec.train.batch_size, rows))
    return round((build + steps * spec.train.batch_size * 2 * forget / rows) / rate / 60, 1)


def _lines(r: dict[str, Any]) -> Iterator[str]:
    yield f"{r['method']} on {r['model']}, benchmark {r['benchmark']}, spec {r['hash'][:12]}"
    yield "trained on: " + ", ".join(f"{k} {n}" for k, n in r["train"].items())
    yield "scored on: " + ", ".join(f"{k} {n}" for k, n in r["eval"].items())
    if r["parameters"]:
        yield f"{r['parameters'] / 1e6:.1f} M parameters; about {r['memory_gib']} GiB of memory at the peak"
    yield "time: " + (f"about {r['minutes']} minutes of training on this CPU (a rough estimate, within a factor of two)" if r["minutes"]
                      else "not estimated for this device, model or data")
    yield from (f"not computed - {line}" for line in r["not_computed"])
