"""What every importer makes of a file: values with the printed and the recomputed number, and what is unscored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from efface.data.records import check_file
from efface.errors import DataError

TOLERANCE = 1e-6
FORMATS = "<BENCH>_EVAL.json and _SUMMARY.json of the common harness, eval_log_aggregated.json of TOFU"


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
        if self.printed is None or self.again is None:
            return False
        return not math.isclose(self.printed, self.again, rel_tol=TOLERANCE, abs_tol=1e-300)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        kept = ("name", "printed", "again", "corrected", "n", "unscored", "reason", "note")
        return {key: getattr(self, key) for key in kept} | {"differs": self.differs}


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


def rows_of(path: Path, where: str, rows: Any, key: str) -> dict[str, Any]:
    """{index: value of ``key``} of ``value_by_index``-like rows (None where the row is None or says so)."""
    if not isinstance(rows, Mapping):
        raise other_version(path, f"{where} has no rows by index")
    found = {}
    for index, row in rows.items():
        if row is not None and (not isinstance(row, Mapping) or key not in row):
            raise other_version(path, f"row {index} of {where} has no {key!r}")
        found[str(index)] = None if row is None else row[key]
    return found


def averaged(values: Iterable[Any]) -> np.ndarray:
    """Float[rows]: each entry, or the mean of its variants where it is a list; NaN for None."""
    out = []
    for value in values:
        many = value if isinstance(value, list) else [value]
        out.append(np.nan if any(v is None for v in many) or not many else float(np.mean(many)))
    return np.array(out, dtype=np.float64)


def split(values: np.ndarray) -> tuple[np.ndarray, int]:
    """(finite values, how many are not)."""
    ok = np.isfinite(values)
    return values[ok], int((~ok).sum())
