"""TOFU's own logs (locuslab/tofu): eval_log_aggregated.json, {task file: {measure: {row: value}}}.

Read at bdc209e. Forget quality and model utility are computed as its aggregation script does it, from losses; what the
script prints is a CSV, which can be given for comparison.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from efface.errors import DataError
from efface.importers.log import (
    Log,
    Value,
    averaged,
    mean_of,
    other_version,
    read_json,
    same_length,
    split,
    summed,
    variants,
)
from efface.metrics.stats import harmonic_mean, ks_floor, ks_two_sample

NAME = "TOFU log"
TASKS = {
    "eval_log.json": "Retain",
    "eval_real_author_wo_options.json": "Real Authors",
    "eval_real_world_wo_options.json": "Real World",
    "eval_log_forget.json": "Forget",
}
FORGET = "eval_log_forget.json"
LOSSES = ("avg_gt_loss", "average_perturb_loss", "avg_paraphrased_loss")
MEASURES = (*LOSSES, "rougeL_recall")
STORED = "truth_ratio"  # not in every log; what the losses give is held against it


def read(path: Path, reference: Path | None = None, printed: Path | None = None) -> Log:
    """All numbers of the log. ``reference``: the retain model's log; ``printed``: the CSV of the aggregation script."""
    log = _checked(path, read_json(path))
    theirs = _checked(reference, read_json(reference)) if reference else None
    said = _printed(printed) if printed else {}
    values: list[Value] = []
    for file, label in TASKS.items():
        if file in log:
            values += [
                Value(f"{part} {label}", said.get(f"{part} {label}"), **found) for part, found in _task(log, file)
            ]
    known = {value.name: value.again for value in values}
    values += [
        Value("Model Utility", said.get("Model Utility"), **_utility(known)),
        Value("Forget Quality", said.get("Forget Quality"), **_quality(log, theirs)),
    ]
    return Log(str(path), NAME, tuple(values), tuple(_findings(log)))


def _checked(path: Path, log: dict[str, Any]) -> dict[str, Any]:
    """The tasks {task file: {measure: {row: number, or one per variant}}} with every measure that the numbers need."""
    if "avg_gt_loss" in log:
        raise DataError(
            "import.one-task",
            f"{path} is one task of TOFU's evaluation.",
            "give eval_log_aggregated.json, which holds all four.",
        )
    for file in (FORGET, "eval_log.json"):
        if file not in log:
            raise other_version(path, f"there is no {file}")
    return {file: _measures(path, file, log[file]) for file in TASKS if file in log}


def _measures(path: Path, file: str, task: Any) -> dict[str, dict[str, float | list[float]]]:
    """The measures of one task, their numbers checked, the losses of as many rows each."""
    found = {}
    for measure in (*MEASURES, STORED):
        rows = task.get(measure) if isinstance(task, Mapping) else None
        if isinstance(rows, Mapping):
            found[measure] = {i: variants(path, f"row {i} of {measure} in {file}", v) for i, v in rows.items()}
        elif measure != STORED:
            raise other_version(path, f"{file} has no {measure} by row")
    same_length(path, {f"{measure} in {file}": found[measure] for measure in LOSSES})
    return found


def losses(log: Mapping[str, Any], file: str) -> tuple[np.ndarray, np.ndarray]:
    """(loss of the paraphrased answer, mean loss of the wrong answers) Float[rows]."""
    task = log[file]
    return averaged(task["avg_paraphrased_loss"].values()), averaged(task["average_perturb_loss"].values())


def ratios(log: Mapping[str, Any], file: str) -> np.ndarray:
    """r = P(wrong) / P(correct) per row, wrong answers as a geometric mean. (The script works with 1/r throughout; its
    KS test is the same for both.)"""
    correct, wrong = losses(log, file)
    return np.exp(correct - wrong)


def _task(log: Mapping[str, Any], file: str) -> list[tuple[str, dict[str, Any]]]:
    """Probability, ROUGE and truth ratio of one task, as the script forms them."""
    task = log[file]
    own = np.exp(-averaged(task["avg_gt_loss"].values()))
    if "eval_log" not in file:
        own = own / (own + summed(np.exp(-np.asarray(v)) for v in task["average_perturb_loss"].values()))
    r = ratios(log, file)
    form = np.minimum(r, 1 / r) if file == FORGET else np.maximum(0, 1 - r)
    rouge = averaged(task["rougeL_recall"].values())
    return [(name, mean_of(values)) for name, values in (("Prob.", own), ("ROUGE", rouge), ("Truth Ratio", form))]


def _utility(known: Mapping[str, float | None]) -> dict[str, Any]:
    parts = {
        n: known.get(n)
        for label in list(TASKS.values())[:3]
        for n in (f"Prob. {label}", f"ROUGE {label}", f"Truth Ratio {label}")
    }
    if lacking := [name for name, value in parts.items() if value is None]:
        return {"reason": f"the log gives no {', '.join(lacking)}"}
    return {"again": harmonic_mean([v for v in parts.values() if v is not None]), "n": len(parts)}


def _quality(log: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> dict[str, Any]:
    """``corrected``: log10 of the p-value."""
    if theirs is None:
        return {"reason": "give the retain model's log with --reference"}
    (a, lost), (b, _) = split(ratios(log, FORGET)), split(ratios(theirs, FORGET))
    if not a.size or not b.size:
        return {"reason": "none of the rows could be scored", "unscored": lost}
    ks = ks_two_sample(a, b)
    note = f"log10 p {ks.log10_p:.2f} of at least {ks_floor(len(a), len(b)):.2f}, {len(a)} against {len(b)} rows"
    return {"again": float(ks.p), "corrected": float(ks.log10_p), "n": len(a), "unscored": lost, "note": note}


def _findings(log: Mapping[str, Any]) -> Iterator[str]:
    """Stored truth ratios that the stored losses do not give."""
    for file in TASKS:
        stored = log.get(file, {}).get(STORED)
        if stored is not None:
            mine, said = ratios(log, file), averaged(stored.values())
            if len(said) != len(mine):
                yield f"{file}: {len(said)} truth ratios for {len(mine)} rows"
                continue
            wrong = int(np.sum(~np.isclose(mine, said, rtol=1e-3, equal_nan=True)))
            if wrong:
                yield f"{file}: {wrong} of {len(mine)} stored truth ratios are not what the losses give"


def _printed(path: Path) -> dict[str, float]:
    """{name: value} of the CSV (one line under a header) that the aggregation script writes."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    if len(rows) != 1 or "Model Utility" not in rows[0]:
        raise DataError(
            "import.bad-table", f"{path} is not what TOFU's aggregation script writes.", "give its CSV file, one row."
        )
    found = {}
    for name, value in rows[0].items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            continue  # method and submitter
    return found
