"""DataRef: where rows are, and what they were when somebody said so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from efface.data.reading import read_rows
from efface.data.records import check_file
from efface.data.rows import Row
from efface.errors import DataError
from efface.settings import Settings, setting


class DataRef(Settings):
    """A data file, or a benchmark with its settings. Raises request.bad-reference when it is both, neither or mixed."""

    path: str = setting("", "data file; a relative path starts at the folder of the request")
    benchmark: str = setting("", "benchmark (`efface list benchmarks`); it brings all its sets")
    settings: dict[str, Any] = setting({}, "settings of the benchmark")
    sha256: str = setting(
        "",
        "content hash: of the file's bytes, or of the benchmark's bundle (empty: not checked)",
        pattern="^([0-9a-f]{64})?$",
    )
    format: str = setting("", "jsonl, json, csv, tsv or parquet (empty: from the suffix)")
    fields: dict[str, str] = setting({}, "row field -> column")
    strict: bool = setting(True, "refuse columns that mean nothing here; otherwise leave them out")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.path) == bool(self.benchmark):
            raise DataError(
                "request.bad-reference",
                "a data reference names a path or a benchmark, and exactly one.",
                "set one of path and benchmark.",
            )
        foreign = [n for n in (("settings",) if self.path else ("format", "fields")) if getattr(self, n)]
        foreign += ["strict"] if self.benchmark and not self.strict else []
        if foreign:
            raise DataError(
                "request.bad-reference",
                f"{foreign[0]} does not go with {'a path' if self.path else 'a benchmark'}.",
                "remove it.",
            )
        return self

    def file(self, folder: Path) -> Path:
        """The file of a path reference; relative paths start at ``folder``."""
        return folder / Path(self.path).expanduser()

    def file_digest(self, folder: Path) -> str:
        """sha256 (hex) of the file's bytes."""
        check_file(self.file(folder))
        with self.file(folder).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def rows(self, folder: Path) -> tuple[Row, ...]:
        """The rows of a path reference."""
        return read_rows(self.file(folder), format=self.format, fields=self.fields, strict=self.strict)
