"""Harness pass: one task of lm-evaluation-harness on the model at hand, one line per document and metric."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
from importlib import metadata, resources
from random import Random
from typing import Any

import pyarrow as pa
import yaml

from efface.data.worlds.trivia import TRIVIA
from efface.metrics.base import NotComputed
from efface.passes.harness_model import harness_model
from efface.passes.registry import PassInput, table_pass

MISSING = "lm-evaluation-harness is not installed (pip install 'efface[harness]')"
HARNESS = pa.schema(
    [
        ("document", pa.int32()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("reported", pa.float64()),  # what the harness prints for the whole task
        ("harness", pa.string()),  # its version
    ]
)


def version() -> str:
    """Version of the installed harness; "" if there is none."""
    try:
        return metadata.version("lm-eval")
    except metadata.PackageNotFoundError:
        return ""


def own_tasks() -> dict[str, str]:
    """{name: YAML text} of our own tasks."""
    folder = resources.files("efface.metrics") / "harness_tasks"
    files = {file.name: file for file in folder.iterdir() if file.name.endswith(".yaml")}
    return {name.removesuffix(".yaml"): files[name].read_text(encoding="utf-8") for name in sorted(files)}


def _number() -> int:
    """The version for the cache key: another harness may score differently, and our own tasks and questions may
    change."""
    text = json.dumps([version(), own_tasks(), TRIVIA])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@table_pass("harness", version=_number())
def harness(given: PassInput) -> pa.Table:
    """The task ``need.variants[0]``. ``NotComputed`` without the package, for another family, an unknown task, or a
    task whose data are not at hand."""
    task = given.need.variants[0]
    if not version():
        raise NotComputed(MISSING)
    if given.adapter.family != "causal_lm":
        raise NotComputed(f"the harness scores language models, not a {given.adapter.family}")
    from lm_eval import simple_evaluate

    model = harness_model(given.adapter, given.token_budget)
    seeds = {f"{name}_seed": None for name in ("random", "numpy_random", "torch_random")}
    try:
        with _quiet(), given.adapter.evaluating():
            found = simple_evaluate(
                model, tasks=[_task(task)], bootstrap_iters=0, fewshot_random_seed=given.seed, **seeds
            )
    except Exception as error:  # the harness raises whatever its task and data set raise; the reason is kept
        raise NotComputed(f"the harness could not run {task}: {type(error).__name__}: {first_line(error)}") from error
    return pa.Table.from_pylist(_lines(found, task), schema=HARNESS)


def _task(name: str) -> str | dict[str, Any]:
    """One of our own tasks with its data, or the name of one of the harness's."""
    text = own_tasks().get(name)
    return name if text is None else yaml.safe_load(text) | {"custom_dataset": trivia}


def trivia(**_: Any) -> Any:
    """The built-in questions as a data set of the harness: question, answer, four choices in fixed random order."""
    from datasets import Dataset, DatasetDict

    lines = []
    for question, answer, wrong in TRIVIA:
        choices = Random(f"trivia/{question}").sample([answer, *wrong], 4)
        lines.append({"question": question, "answer": answer, "choices": choices, "gold": choices.index(answer)})
    return DatasetDict({"test": Dataset.from_list(lines)})


def _lines(found: Any, task: str) -> list[dict[str, Any]]:
    """Every number per document under the task's first filter; values that are no plain numbers (pairs that only mean
    something together) are left out."""
    results, out = found["results"][task], []
    samples = found["samples"][task]
    first = samples[0].get("filter") if samples else None
    for sample in samples:
        for name in sample["metrics"] if sample.get("filter") == first else ():
            if isinstance(sample[name], int | float):
                reported = next((v for k, v in results.items() if k.split(",")[0] == name), None)
                line = {"document": sample["doc_id"], "metric": name, "value": float(sample[name])}
                out.append(line | {"reported": reported, "harness": version()})
    return out


@contextlib.contextmanager
def _quiet() -> Any:
    """Nothing below an error from the harness and its data sets, and no progress bars of theirs."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [""])[0]
