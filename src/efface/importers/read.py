"""Which program wrote a result file, and what its numbers are when computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface.errors import DataError
from efface.importers import harness, lm_eval, tofu
from efface.importers.log import Log, Value, number, read_json, unknown

SUMMARY = "_SUMMARY.json"


def check(path: Path, reference: Path | None = None, printed: Path | None = None) -> Log:
    """Read a result file of a known program and compute its numbers again.

    ``reference``: the same kind of file of the model that never saw the forget set. ``printed``: for TOFU's logs the
    CSV of its aggregation script; for the harness a ``_SUMMARY.json`` (found by itself where it lies beside the log). A
    summary alone is compared with the log beside it. Raises ``DataError`` import.unknown-format,
    import.other-version, import.one-task, import.malformed, import.no-rows, import.bad-table.
    """
    values = read_json(path)
    if any(name in values for name in tofu.TASKS) or "avg_gt_loss" in values:
        return tofu.read(path, reference, printed)
    lm_eval.refuse_results(path, values)
    beside = printed or path.with_name(path.name.replace("_EVAL.json", SUMMARY))
    if lm_eval.written_by_it(values):
        return lm_eval.read(path, beside)
    if all(isinstance(value, int | float) or value is None for value in values.values()):
        return _summary(path, reference)
    if not any(
        isinstance(entry, Mapping) and ("agg_value" in entry or "value_by_index" in entry) for entry in values.values()
    ):
        raise unknown(path)
    log = harness.read(path, reference)
    return _with_summary(log, read_json(beside), beside) if beside != path and beside.is_file() else log


def _summary(path: Path, reference: Path | None) -> Log:
    """A summary is checked against the log it was made from."""
    log = path.with_name(path.name.replace(SUMMARY, "_EVAL.json"))
    if log == path or not log.is_file():
        raise DataError(
            "import.no-rows",
            f"{path} holds only means, and {log.name} does not lie beside it.",
            "give the _EVAL.json of the same evaluation.",
        )
    if lm_eval.is_summary(read_json(path)):
        return lm_eval.read(log, path)
    return _with_summary(harness.read(log, reference), read_json(path), path)


def _with_summary(log: Log, summary: Mapping[str, Any], file: Path) -> Log:
    """What the summary prints beside what the rows give, and findings where summary and log disagree."""
    findings, known = list(log.findings), {value.name for value in log.values}
    values: list[Value] = []
    for value in log.values:
        if summary.get(value.name) is None:
            values.append(value)
            continue
        said = number(file, value.name, summary[value.name])
        if value.printed is not None and replace(value, printed=said, again=value.printed).differs:
            findings.append(f"{value.name}: {file.name} says {said:.6g}, the log {value.printed:.6g}")
        values.append(replace(value, printed=said))
    findings += [f"{name}: in {file.name}, but not in the log" for name in summary if name not in known]
    return Log(log.file, log.format, tuple(values), tuple(findings))
