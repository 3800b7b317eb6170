"""Logs that the common harness writes of the LM evaluation harness (WMDP, MMLU ...): LMEval_EVAL.json, {task: {subtask:
[sample]}}, and LMEval_SUMMARY.json, {"task/measure": number}.

Read at d3d7cf9 of locuslab/open-unlearning (``evals/lm_eval.py``). A measure is the mean over all samples of a task,
those of a group's subtasks pooled; its standard error is the pooled one. Multiple-choice answers are chosen again from
the stored log-likelihoods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from efface.errors import DataError
from efface.importers.log import Log, Value, number, other_version, read_json, split

NAME = "LM evaluation harness log"
ERROR = "_stderr"


def written_by_it(values: Mapping[str, Any]) -> bool:
    """Whether this is such a log: tasks of subtasks of lists of samples."""
    return all(
        isinstance(task, Mapping)
        and task
        and all(isinstance(rows, list) and rows and _is_sample(rows[0]) for rows in task.values())
        for task in values.values()
    )


def is_summary(values: Mapping[str, Any]) -> bool:
    """Whether every name is "task/measure"."""
    return all("/" in name for name in values)


def refuse_results(path: Path, values: Mapping[str, Any]) -> None:
    """The evaluation harness's own results file holds only means. Raises ``DataError`` import.no-rows."""
    if isinstance(values.get("results"), Mapping) and {"configs", "versions", "n-shot"} & set(values):
        raise DataError(
            "import.no-rows",
            f"{path} holds only means of the LM evaluation harness.",
            "give the LMEval_EVAL.json that the common harness writes, which has the samples.",
        )


def read(path: Path, printed: Path) -> Log:
    """Every measure that the summary ``printed`` names (accuracy where there is none), recomputed from the samples."""
    log = read_json(path)
    if not written_by_it(log):
        raise other_version(path, "its tasks are not lists of samples by subtask")
    said = read_json(printed) if printed.is_file() else {f"{task}/acc": None for task in log}
    values, findings = [], []
    for name, value in said.items():
        task, _, measure = name.rpartition("/")
        if task not in log:
            findings.append(f"{name}: in {printed.name}, but {task or name} is not in the log")
            continue
        values.append(
            Value(name, None if value is None else number(printed, name, value), **_again(path, log, task, measure))
        )
    return Log(str(path), NAME, tuple(values), (*findings, *_choices(log)))


def _is_sample(row: Any) -> bool:
    return isinstance(row, Mapping) and "doc_id" in row


def _again(path: Path, log: Mapping[str, Any], task: str, measure: str) -> dict[str, Any]:
    """{again, n, unscored, reason} of one measure."""
    name = measure.removesuffix(ERROR)
    subtasks = log[task].values()
    if measure == "sample_len":
        return {"again": float(sum(map(len, subtasks)))}
    if len({row.get("filter") for rows in subtasks for row in rows}) > 1:
        return {"reason": "its samples were filtered in several ways, and the summary does not say which it prints"}
    if not any(name in row for rows in subtasks for row in rows):
        return {"reason": f"the samples hold no {name}"}
    found = [split(_column(path, sub, rows, name)) for sub, rows in log[task].items()]
    kept, lost = [values for values, _ in found if values.size], sum(n for _, n in found)
    if not kept:
        return {"reason": "none of its rows could be scored", "unscored": lost}
    again = _error(kept) if measure.endswith(ERROR) else float(np.concatenate(kept).mean())
    return {"again": again, "n": sum(map(len, kept)), "unscored": lost}


def _column(path: Path, subtask: str, rows: list[Any], name: str) -> np.ndarray:
    """Float[samples]: one measure of every sample; NaN where it has none."""
    return np.array(
        [number(path, f"{name!r} in sample {i} of {subtask}", row.get(name)) for i, row in enumerate(rows)], dtype=float
    )


def _error(parts: list[np.ndarray]) -> float:
    """Pooled standard error: the variances inside the subtasks, weighted by their samples less one."""
    count = sum(map(len, parts))
    spread = sum((len(v) - 1) * v.var(ddof=1) for v in parts if len(v) > 1)
    return math.sqrt(spread / (count - len(parts)) / count) if count > len(parts) else math.nan


def _choices(log: Mapping[str, Any]) -> Iterator[str]:
    """Samples whose stored accuracy is not what their log-likelihoods and their target give."""
    for task in log.values():
        for subtask, rows in task.items():
            told = [(_chosen(row), row) for row in rows]
            known = [
                (chosen, row) for chosen, row in told if chosen is not None and isinstance(row.get("acc"), int | float)
            ]
            wrong = sum(float(chosen == row["target"]) != float(row["acc"]) for chosen, row in known)
            if wrong:
                yield f"{subtask}: {wrong} of {len(known)} samples have log-likelihoods that do not give their acc"


def _chosen(row: Mapping[str, Any]) -> int | None:
    """Place of the likeliest option; None where the sample is no choice of one by number."""
    options = row.get("filtered_resps")
    if not isinstance(row.get("target"), int) or not isinstance(options, list) or len(options) < 2:
        return None
    try:
        return int(np.argmax([float(option[0]) for option in options]))
    except (TypeError, ValueError, IndexError, KeyError):
        return None
