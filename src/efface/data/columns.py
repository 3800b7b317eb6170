"""Columns of published data sets: each loader names what it needs, and a missing or renamed one is an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efface.data.checks import content_key
from efface.data.reading import as_text
from efface.data.records import Record
from efface.data.rows import Row
from efface.errors import DataError, nearest


def column(record: Record, *names: str) -> Any:
    """The first of the columns ``names`` that ``record`` has; data.missing-field names the nearest there is."""
    for name in names:
        if name in record.values:
            return record.values[name]
    raise DataError(
        "data.missing-field",
        f"{record.where}: there is no column {' or '.join(map(repr, names))}.",
        f"use the published files, or rename the column. {nearest(names[0], record.values)}",
    )


def text(record: Record, *names: str) -> str:
    """``column`` as text ("" is text too); anything else is data.bad-value."""
    return as_text(column(record, *names), names[0], record.where, required=True)


def texts(record: Record, *names: str) -> tuple[str, ...]:
    """``column`` as a list of texts; anything else is data.bad-value."""
    value = column(record, *names)
    if not isinstance(value, list):
        raise DataError(
            "data.bad-value",
            f"{record.where}: the {names[0]} is a {type(value).__name__}, not a list.",
            "write it as a list of strings.",
        )
    return tuple(as_text(item, names[0], record.where, required=True) for item in value)


def unique_ids(records: Sequence[Record], name: str = "id") -> None:
    """data.duplicate-id: a published id that stands for two rows of one file."""
    seen: dict[str, str] = {}
    for record in records:
        key = str(column(record, name))
        if key in seen:
            raise DataError(
                "data.duplicate-id",
                f"{record.where}: the id {key!r} was used before ({seen[key]}).",
                "make ids unique.",
            )
        seen[key] = record.where


def without(rows: Sequence[Row], others: Sequence[Row]) -> tuple[tuple[Row, ...], int]:
    """(``rows`` without those whose prompt and answer are in ``others`` too, how many were left out).

    Published forget and retain sets share a few rows. What is to be forgotten cannot be kept as well: such rows leave
    the retain side, and the loader counts them in the bundle's facts.
    """
    known = {content_key(row) for row in others}
    kept = tuple(row for row in rows if content_key(row) not in known)
    return kept, len(rows) - len(kept)


def once(rows: Sequence[Row]) -> tuple[tuple[Row, ...], int]:
    """(``rows`` with each content only once, how many repeats were left out)."""
    kept = tuple({content_key(row): row for row in reversed(rows)}.values())[::-1]
    return kept, len(rows) - len(kept)


def filled(rows: Sequence[Row]) -> tuple[tuple[Row, ...], int]:
    """(``rows`` without empty answers, how many those were): training rows of a corpus that holds empty documents."""
    kept = tuple(row for row in rows if row.answer.strip())
    return kept, len(rows) - len(kept)


def training_sides(forget: Sequence[Row], retain: Sequence[Row]) -> tuple[dict[str, tuple[Row, ...]], dict[str, int]]:
    """(both training sets as published corpora need them, what was left out and why, counted).

    Empty and repeated documents are left out, and what is to be forgotten leaves the retain side.
    """
    forget, empty = filled(forget)
    forget, repeated = once(forget)
    retain, empty_retain = filled(retain)
    retain, shared = without(retain, forget)
    retain, repeated_retain = once(retain)
    counts = {
        "empty forget": empty,
        "repeated forget": repeated,
        "empty retain": empty_retain,
        "retain also in forget": shared,
        "repeated retain": repeated_retain,
    }
    return {"forget": forget, "retain": retain}, {name: n for name, n in counts.items() if n}
