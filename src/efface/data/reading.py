"""From a user's file to rows: which column is the question, which the answer, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface.data.records import MAX_BYTES, Record, malformed, read_records
from efface.data.rows import Row
from efface.errors import DataError, nearest

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction"),
    "answer": ("answer", "response", "completion", "output"),
    "text": ("text",),
    "id": ("id",),
    "entity": ("entity",),
    "fact": ("fact",),
    "paraphrase": ("paraphrase", "paraphrased_question"),
    "answer_paraphrase": ("answer_paraphrase", "paraphrased_answer"),
    "wrong": ("wrong", "perturbed_answer"),
}
"""Column names understood without a mapping, by row field. ``text`` is a plain document (no question)."""


def read_rows(
    path: str | Path,
    *,
    format: str = "",
    fields: Mapping[str, str] | None = None,
    strict: bool = True,
    allow_empty: bool = False,
    max_bytes: int = MAX_BYTES,
) -> tuple[Row, ...]:
    """Rows of one file, in file order.

    ``fields`` maps row fields to columns ({"prompt": "q"}) and wins over the names in ``NAMES``. A file has a prompt
    and an answer column, or a ``text`` column (documents). ``strict`` refuses columns that are neither mapped nor
    known; otherwise they are left out. ``allow_empty`` keeps rows with an empty answer (counted as unscorable; never
    trainable). Rows without an id get one made from their content. Raises ``DataError`` as ``read_records`` does, and
    data.unknown-field, data.missing-field, data.ambiguous-field, data.bad-value, data.empty-answer, data.empty-prompt,
    data.duplicate-id, data.duplicate-row.
    """
    chosen = _check_mapping(fields or {}, path)
    columns: dict[tuple[str, ...], dict[str, str]] = {}
    rows: list[Row] = []
    seen: dict[str, str] = {}
    for record in read_records(path, format=format, max_bytes=max_bytes):
        key = tuple(record.values)
        if key not in columns:
            columns[key] = _resolve(record, chosen, strict)
        row = _row(record, columns[key], allow_empty)
        _first_time(row, "id" in columns[key] and bool(record.values[columns[key]["id"]]), record.where, seen)
        rows.append(row)
    return tuple(rows)


def training_rows(rows: Sequence[Row], name: str) -> tuple[Row, ...]:
    """The rows without what only metrics may see (paraphrases, wrong answers); an empty answer cannot be trained.

    ``name`` is what a message calls the set.
    """
    for row in rows:
        if not row.answer.strip():
            raise DataError(
                "data.empty-answer",
                f"{name}: row {row.id} has an empty answer and cannot be trained on.",
                "give it an answer or remove it.",
            )
    return tuple(replace(row, paraphrase="", answer_paraphrase="", wrong=()) for row in rows)


def _check_mapping(fields: Mapping[str, str], path: str | Path) -> dict[str, str]:
    for name in fields:
        if name not in NAMES:
            raise DataError(
                "data.unknown-field",
                f"{path}: the field mapping names {name!r}, which rows do not have.",
                nearest(name, NAMES),
            )
    return dict(fields)


def _resolve(record: Record, chosen: dict[str, str], strict: bool) -> dict[str, str]:
    """Row field -> column, for one set of columns."""
    found: dict[str, str] = {}
    for name, column in chosen.items():
        if column in record.values:
            found[name] = column
        else:
            raise DataError(
                "data.missing-field",
                f"{record.where}: there is no column {column!r} (mapped to {name}).",
                nearest(column, record.values),
            )
    for name, known in NAMES.items():
        present = [column for column in known if column in record.values and column not in chosen.values()]
        if name not in chosen and present:
            if len(present) > 1:
                raise DataError(
                    "data.ambiguous-field",
                    f"{record.where}: {' and '.join(map(repr, present))} could both be the {name}.",
                    f"say which with the field mapping, e.g. {name}: {present[0]}.",
                )
            found[name] = present[0]
    _check_shape(record, found, chosen)
    extra = [column for column in record.values if column not in found.values()]
    if strict and extra:
        known = [column for names in NAMES.values() for column in names]
        raise DataError(
            "data.unknown-field",
            f"{record.where}: the column {extra[0]!r} means nothing here.",
            f"rename it, map it with `fields`, or set strict to false to leave it out. {nearest(extra[0], known)}",
        )
    return found


def _check_shape(record: Record, found: dict[str, str], chosen: dict[str, str]) -> None:
    """A question and an answer, or a document; a misspelt question column must not turn rows into documents."""
    if "text" in found and not {"prompt", "answer"} & set(found):
        return
    if "text" in found:
        raise DataError(
            "data.ambiguous-field",
            f"{record.where}: has both a text and a question or answer column.",
            "keep documents and questions in separate files, or map the fields.",
        )
    for name in ("prompt", "answer"):
        if name not in found and not (name == "prompt" and "answer" in chosen):
            raise DataError(
                "data.missing-field",
                f"{record.where}: there is no {name} column (columns: {', '.join(record.values)}).",
                f"name it one of {', '.join(NAMES[name])}, or map it with `fields`.",
            )


def _row(record: Record, columns: dict[str, str], allow_empty: bool) -> Row:
    values = {name: record.values[column] for name, column in columns.items()}
    answer = as_text(values.get("text" if "text" in values else "answer"), "answer", record.where, required=True)
    prompt = as_text(values.get("prompt"), "prompt", record.where, required="prompt" in values)
    if not answer.strip() and not allow_empty:
        raise DataError(
            "data.empty-answer", f"{record.where}: the answer is empty.", "give it an answer or remove the row."
        )
    if "prompt" in values and not prompt.strip():
        raise DataError(
            "data.empty-prompt",
            f"{record.where}: the prompt is empty.",
            "give it a prompt, or keep documents in a file with a text column.",
        )
    texts = {name: as_text(values.get(name), name, record.where) for name in ("paraphrase", "answer_paraphrase")}
    labels = {name: _as_label(values.get(name), name, record.where) for name in ("id", "entity", "fact")}
    row = Row(answer=answer, prompt=prompt, wrong=as_texts(values.get("wrong"), record.where), **texts, **labels)
    return row if row.id else replace(row, id=f"row-{row.digest()[:16]}")


def as_text(value: Any, name: str, where: str, required: bool = False) -> str:
    """``value`` if it is text; "" for none where that is allowed; otherwise data.bad-value."""
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise DataError(
            "data.bad-value", f"{where}: the {name} is a {type(value).__name__}, not text.", "write it as a string."
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            "data.bad-value", f"{where}: the {name} holds half of a surrogate pair.", "write it as UTF-8 text."
        ) from None
    return value


def _as_label(value: Any, name: str, where: str) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole else as_text(value, name, where)


def as_texts(value: Any, where: str) -> tuple[str, ...]:
    """Wrong answers: a list of strings, or one string (in CSV a JSON list)."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise malformed(where, "the wrong answers start like a JSON list and are none") from None
    if value is None or value == "":
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(as_text(item, "wrong answer", where, required=True) for item in items)


def _first_time(row: Row, named: bool, where: str, seen: dict[str, str]) -> None:
    if row.id not in seen:
        seen[row.id] = where
    elif named:
        raise DataError(
            "data.duplicate-id", f"{where}: the id {row.id!r} was used before ({seen[row.id]}).", "make ids unique."
        )
    else:
        raise DataError(
            "data.duplicate-row", f"{where}: the same row as {seen[row.id]}.", "remove one of them, or give ids."
        )
