"""General-ability questions in MMLU's published form: question, choices, answer, subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from efface.data.columns import column, text, texts
from efface.data.prompts import LETTERS, letter_rows
from efface.data.records import Record
from efface.data.rows import Row
from efface.data.splits import read_any
from efface.errors import DataError


def header(subject: str) -> str:
    """The sentence that the evaluation harness puts in front of a question."""
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def gold_place(record: Record) -> int:
    """The number of the right option, given as a number or a letter; anything else is data.bad-value."""
    value = column(record, "answer")
    if isinstance(value, str) and value.strip().upper() in LETTERS and len(value.strip()) == 1:
        return LETTERS.index(value.strip().upper())
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise DataError(
        "data.bad-value", f"{record.where}: the answer is neither a number nor a letter.", "give the option's number."
    )


def mmlu_rows(records: Sequence[Record], name: str = "mmlu") -> tuple[Row, ...]:
    """All rotations of every question, zero-shot."""
    return tuple(
        row
        for i, record in enumerate(records)
        for row in letter_rows(
            f"{name}:{i}",
            text(record, "question"),
            texts(record, "choices"),
            gold_place(record),
            header=header(str(record.values.get("subject") or "")),
        )
    )


def read_mmlu(path: str) -> tuple[Row, ...]:
    """The questions of one file."""
    return mmlu_rows(read_any(Path(path).expanduser()))
