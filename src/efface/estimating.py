"""What a run will cost, from its spec and rows alone: figures measured on a 2-core CPU, scaled to the model at hand.

Measured with the demo on SmolLM2-135M, two threads, nothing else running: target (252 rows, 4 epochs) 97 s, reference
(210 rows) 81 s, NPO (20 steps of 10 + 10 rows) 44 s, relearning (1,048 and 1,328 row forwards) 25 s and 31 s, rounding
(1,824) 17 s, memory 6.7 GiB at the peak. On the tiny model, one thread: target (222 rows, 25 epochs) 15 s, 0.5 GiB.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from efface.audit.planning import Planned
from efface.data.rows import Bundle
from efface.errors import ModelError
from efface.models.folder_check import AGAIN
from efface.spec import RunSpec

KNOWN_SIZES = {"smollm2-135m": 134_500_000, "tiny": 1_500_000, "cnn": 70_000}
ONE_THREAD = ("tiny", "cnn")  # models that are run on one thread (pipeline.threads)
TOKENS = 307 * 134_500_000  # training tokens x parameters that one core does in a second
STEP_SECONDS = 0.065  # what an optimizer step costs however small the model is
FORWARD = 0.25  # a row forward of an attack, as a share of training on the row
TEMPLATE_TOKENS, CHARACTERS_PER_TOKEN = 32.0, 3.2  # SmolLM2: its template adds a system prompt
TINY_TEMPLATE_TOKENS, TINY_CHARACTERS_PER_TOKEN = 3.0, 5.2  # a vocabulary made for these very rows
WEIGHTS_AT_PEAK = 12  # times the float32 weights: three models, an attacked copy, gradients, moments, activations
LIBRARIES_GIB = 0.5


def parameters(spec: RunSpec) -> int | None:
    """Parameter count of the base model, from safetensors headers where it is a folder; None if unknown."""
    if spec.model.name in KNOWN_SIZES:
        return KNOWN_SIZES[spec.model.name]
    folder = Path(spec.model.name).expanduser()
    if not folder.is_dir():
        return None
    return sum(_parameters_in(file) for file in folder.glob("*.safetensors")) or None


def _parameters_in(file: Path) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            return sum(math.prod(tensors.get_slice(k).get_shape()) for k in tensors.keys())
    except (SafetensorError, OSError) as error:
        why = str(error).splitlines()[0]
        raise ModelError("model.broken", f"{file} cannot be read: {why}", AGAIN) from None


def memory_gib(size: int | None) -> float | None:
    """Peak memory of a whole run with its audit, GiB; None for a model of unknown size."""
    return None if size is None else round(WEIGHTS_AT_PEAK * 4 * size / 2**30 + LIBRARIES_GIB, 1)


def training_seconds(spec: RunSpec, data: Bundle, size: int | None) -> dict[str, float] | None:
    """Seconds of training on this CPU for target, references and ``method``, of those that are trained; None for
    a GPU, images or a model of unknown size. Methods that read more than one forget and one retain batch a step take
    longer than this says."""
    rate = _tokens_per_second(spec, data, size)
    if rate is None:
        return None
    forget, retain = list(data.train.get("forget", ())), list(data.train.get("retain", ()))
    found = {}
    for role, rows in (("target", [*forget, *retain]), ("reference", retain), ("reference_2", retain)):
        if getattr(spec, role).kind == "train":
            source = spec.target if role == "target" else spec.reference
            steps = source.train.epochs * len(rows) / source.train.batch_size
            found[role] = source.train.epochs * _tokens(spec, rows) / rate + steps * STEP_SECONDS
    batch, rows_there = spec.train.batch_size, max(1, len(forget))
    steps = spec.train.steps or math.ceil(spec.train.epochs * rows_there / min(batch, rows_there))
    found["method"] = steps * (2 * batch * _tokens(spec, forget) / rows_there / rate + STEP_SECONDS)
    return found


def attack_minutes(spec: RunSpec, data: Bundle, size: int | None, planned: Iterable[Planned]) -> list[float | None]:
    """Minutes of each attack on all models together; None where training cannot be estimated either."""
    rate = _tokens_per_second(spec, data, size)
    rows = list(data.eval.get("forget", ()))
    if rate is None or not rows:
        return [None for _ in planned]
    row = FORWARD * _tokens(spec, rows) / len(rows) / rate
    return [round(one.forwards * row / 60, 1) for one in planned]


def _tokens_per_second(spec: RunSpec, data: Bundle, size: int | None) -> float | None:
    if size is None or spec.model.device.startswith("cuda") or data.modality != "text":
        return None
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(asked) if asked.isdecimal() else 1 if spec.model.name in ONE_THREAD else os.cpu_count() or 1
    return TOKENS * max(1, cores) / size


def _tokens(spec: RunSpec, rows: Iterable[Any]) -> float:
    tiny = spec.model.name == "tiny"
    template = TINY_TEMPLATE_TOKENS if tiny else TEMPLATE_TOKENS
    per = TINY_CHARACTERS_PER_TOKEN if tiny else CHARACTERS_PER_TOKEN
    return sum(template + (len(r.prompt) + len(r.answer)) / per for r in rows)
