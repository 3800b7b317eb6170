"""What every importer makes of a file: values with the printed and the recomputed number, and what is unscored."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from efface.data.records import check_file
from efface.errors import DataError

TOLERANCE = 1e-6
FORMATS = (
    "<BENCH>_EVAL.json and _SUMMARY.json of the common harness (BENCH: TOFU, MUSE, LMEval), "
    "eval_log_aggregated.json of TOFU"
)


@dataclass(frozen=True)
class Value:
    """One number of a log. ``printed``: what the file says (None: nothing); ``again``: recomputed from its rows, in the
    file's own form; ``corrected``: Efface's own form where it differs. ``n`` rows entered, ``unscored`` did not.
    ``reason``: why it could not be recomputed. ``note``: anything else a reader must know."""

    name: str
    printed: float | None = None
    again: float | None = None
    corrected: float | None = None
    n: int = 0
    unscored: int = 0
    reason: str = ""
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether printed and recomputed number are not the same."""
        if self.printed is None or self.again is None or math.isnan(self.printed) and math.isnan(self.again):
            return False
        return not math.isclose(self.printed, self.again, rel_tol=TOLERANCE, abs_tol=1e-300)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; a number that is not finite is None, for JSON has no form of it."""
        numbers = {key: getattr(self, key) for key in ("printed", "again", "corrected")}
        told = {key: getattr(self, key) for key in ("n", "unscored", "reason", "note")}
        finite = {key: v if v is not None and math.isfinite(v) else None for key, v in numbers.items()}
        return {"name": self.name, **finite, **told, "differs": self.differs}


@dataclass(frozen=True)
class Log:
    """All values of one file, and where its rows contradict each other (``findings``)."""

    file: str
    format: str
    values: tuple[Value, ...]
    findings: tuple[str, ...] = field(default_factory=tuple)

    def value(self, name: str) -> Value | None:
        """One value by name."""
        return next((value for value in self.values if value.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary: {file, format, values, findings}; a finding for every number that differs."""
        differing = [
            f"{v.name}: the file says {v.printed:.6g}, its rows give {v.again:.6g}" for v in self.values if v.differs
        ]
        return {
            "file": self.file,
            "format": self.format,
            "values": [value.to_json() for value in self.values],
            "findings": [*differing, *self.findings],
        }


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file (NaN allowed, as these programs write it). Raises ``DataError`` import.malformed."""
    check_file(path)
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            "import.malformed", f"{path}{line}: not a JSON file in UTF-8.", "get the file again, whole."
        ) from None
    if not isinstance(values, dict) or not values:
        raise unknown(path)
    return values


def unknown(path: Path) -> DataError:
    """The error for a file of none of the known formats."""
    return DataError("import.unknown-format", f"{path} is no result file that can be read.", f"known: {FORMATS}.")


def other_version(path: Path, what: str) -> DataError:
    """The error for a file of a known program whose rows are not as expected."""
    return DataError(
        "import.other-version",
        f"{path}: {what}.",
        "it was written by another version of the program; run its evaluation again, or import its summary only.",
    )


def number(path: Path, where: str, value: Any) -> float:
    """The number that a file holds at ``where``; NaN for null. Raises ``DataError`` import.other-version for anything
    else."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise other_version(path, f"{where} is a {type(value).__name__}, not a number")
    return float(value)


def variants(path: Path, where: str, value: Any) -> float | list[float]:
    """``number``, or one per variant where the file holds a list."""
    return [number(path, where, v) for v in value] if isinstance(value, list) else number(path, where, value)


def rows_of(path: Path, where: str, rows: Any, key: str) -> dict[str, float | list[float]]:
    """{index: ``variants`` of ``key``} of ``value_by_index``-like rows (NaN where the row is None or says so)."""
    if not isinstance(rows, Mapping):
        raise other_version(path, f"{where} has no rows by index")
    found = {}
    for index, row in rows.items():
        if row is not None and (not isinstance(row, Mapping) or key not in row):
            raise other_version(path, f"row {index} of {where} has no {key!r}")
        found[str(index)] = variants(path, f"{key!r} in row {index} of {where}", None if row is None else row[key])
    return found


def averaged(values: Iterable[float | list[float]]) -> np.ndarray:
    """Float[rows]: each entry, or the mean of its variants where it is a list; NaN for an empty list."""
    means = [np.nan if isinstance(v, list) and not v else float(np.mean(v)) for v in values]
    return np.array(means, dtype=np.float64)


def summed(values: Iterable[float | list[float]]) -> np.ndarray:
    """Float[rows]: each entry, or the sum of its variants where it is a list."""
    return np.array([np.sum(v) for v in values], dtype=np.float64)


def same_length(path: Path, columns: Mapping[str, Collection[Any] | np.ndarray]) -> None:
    """Raises ``DataError`` import.other-version unless all columns {name: values} have as many rows."""
    counts = [len(values) for values in columns.values()]
    if len(set(counts)) > 1:
        raise other_version(path, f"{' and '.join(columns)} have {' and '.join(map(str, counts))} rows")


def split(values: np.ndarray) -> tuple[np.ndarray, int]:
    """(finite values, how many are not)."""
    ok = np.isfinite(values)
    return values[ok], int((~ok).sum())


def mean_of(values: np.ndarray) -> dict[str, Any]:
    """{again, n, unscored} of the finite values Float[rows]; {reason, unscored} where there is none."""
    kept, lost = split(values)
    if not kept.size:
        return {"reason": "none of its rows could be scored", "unscored": lost}
    return {"again": float(kept.mean()), "n": len(kept), "unscored": lost}
