"""Records: what a data file says, one mapping a line, before anything is made of it. JSON lines, JSON, CSV, Parquet.

Files come from strangers: nothing is unpickled, sizes are limited before they are read, and every failure names the
file and the line. Error messages never quote the content of a file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.errors import DataError, nearest

MAX_BYTES = 512 * 2**20
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record: ``values`` by column, and ``where`` it stands (file and line, for messages)."""

    values: dict[str, Any]
    where: str


def read_records(path: str | Path, *, format: str = "", max_bytes: int = MAX_BYTES) -> list[Record]:
    """All records of one file, in file order.

    ``format`` is jsonl, json (a list of objects, or one object a line), csv, tsv or parquet; empty takes it from the
    suffix. Raises ``DataError``: data.missing-file, data.not-a-file, data.unreadable, data.unknown-format,
    data.too-large, data.not-utf8, data.malformed-line, data.malformed-file, data.empty-file.
    """
    file = Path(path)
    kind = format or SUFFIXES.get(file.suffix.lower(), "")
    if kind not in READERS:
        raise DataError(
            "data.unknown-format",
            f"{file}: {kind or file.suffix or 'no suffix'!r} is not a data format.",
            f"name the format in the request or spec. {nearest(kind or file.suffix[1:], READERS)}",
        )
    check_file(file, max_bytes)
    records = list(READERS[kind](file, max_bytes))
    if not records:
        raise DataError(
            "data.empty-file", f"{file} holds no records.", "check the path; a file that is named must hold data."
        )
    return records


def check_file(file: Path, max_bytes: int = MAX_BYTES) -> None:
    """Refuse a path that is missing, no regular file, or larger than ``max_bytes``."""
    if not file.exists():
        raise DataError(
            "data.missing-file",
            f"{file} does not exist.",
            "check the path; relative paths start at the folder of the request, otherwise at the current folder.",
        )
    if not file.is_file():
        raise DataError("data.not-a-file", f"{file} is not a regular file.", "name the data file itself.")
    size = file.stat().st_size
    if size > max_bytes:
        raise DataError(
            "data.too-large",
            f"{file} has {size} bytes; the limit is {max_bytes}.",
            "split the file, or keep only the columns and rows that are needed.",
        )


def malformed(where: str, what: str) -> DataError:
    """The error for one bad line."""
    return DataError("data.malformed-line", f"{where}: {what}.", "correct or remove that line.")


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError("data.unreadable", f"{file}: {error.strerror}.", "check who may read the file.") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            "data.not-utf8",
            f"{file}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}).",
            "save the whole file as UTF-8; lines in another encoding are not guessed.",
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return values


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise malformed(where, f"not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise malformed(where, f"not usable JSON ({error})") from None


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise malformed(where, f"holds a {type(value).__name__}, not an object")
    return Record(value, where)


def _lines(file: Path, text: str) -> Iterator[Record]:
    # Only "\n" ends a line: str.splitlines would also cut at U+2028, which JSON allows inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{file}, line {number}"
            yield _record(_parse(line, where), where)


def _jsonl(file: Path, max_bytes: int) -> Iterator[Record]:
    return _lines(file, _text(file))


def _json(file: Path, max_bytes: int) -> Iterator[Record]:
    text = _text(file)
    if not text.lstrip().startswith("["):
        return _lines(file, text)
    try:
        items = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise malformed(f"{file}, line {error.lineno}", f"not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise DataError("data.malformed-file", f"{file}: not usable JSON ({error}).", "correct the file.") from None
    return (_record(item, f"{file}, item {number}") for number, item in enumerate(items, start=1))


def _separated(file: Path, delimiter: str) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(_text(file), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise malformed(f"{file}, line {start}", f"not CSV ({error}); long texts belong in JSON lines") from None
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{file}, line {start}"
        if header is None:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header) or "" in header:
                raise malformed(where, "the header has an empty or repeated column name")
        elif len(cells) != len(header):
            raise malformed(where, f"has {len(cells)} cells, the header has {len(header)}")
        else:
            yield Record(dict(zip(header, cells, strict=True)), where)


def _csv(file: Path, max_bytes: int) -> Iterator[Record]:
    return _separated(file, ",")


def _tsv(file: Path, max_bytes: int) -> Iterator[Record]:
    return _separated(file, "\t")


def _parquet(file: Path, max_bytes: int) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as source:
            rows = _unpacked(source, file, max_bytes)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            "data.malformed-file",
            f"{file}: not a readable Parquet file ({type(error).__name__}).",
            "write the file again.",
        ) from None
    return (Record(row, f"{file}, row {number}") for number, row in enumerate(rows, start=1))


def _unpacked(source: Any, file: Path, max_bytes: int) -> list[dict[str, Any]]:
    """All rows of a Parquet file. Pages are packed twice: what is left after decompression may name one long value a
    million times, so that the size of the values themselves is counted, some rows at a time."""
    meta = source.metadata
    groups = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
    _refuse_larger(file, sum(groups), max_bytes)
    # no row is larger than the row group it was named in: so many of them stay below the limit, whatever they name
    together = min(max(1, max_bytes // max([1, *groups])), 2**16)
    rows: list[dict[str, Any]] = []
    size = 0
    for batch in source.iter_batches(batch_size=together):
        size += sum(_plain_bytes(column) for column in batch.columns)
        _refuse_larger(file, size, max_bytes)
        rows += batch.to_pylist()
    return rows


def _plain_bytes(column: Any) -> int:
    return (column.dictionary_decode() if hasattr(column, "dictionary_decode") else column).nbytes


def _refuse_larger(file: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DataError(
            "data.too-large",
            f"{file} unpacks to {size} bytes or more; the limit is {max_bytes}.",
            "split the file, or keep only the columns and rows that are needed.",
        )


READERS: dict[str, Callable[[Path, int], Iterator[Record]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
}
