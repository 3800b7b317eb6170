"""Published data sets by table name: from a folder the user has, or from the hub through ``datasets``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from efface.data.records import Record, read_records
from efface.errors import DataError, nearest

ENDINGS = (".json", ".jsonl", ".csv", ".parquet")


class Published(Protocol):
    """A data set as named tables."""

    source: str

    def has(self, name: str) -> bool:
        """Whether there is a table of that name."""

    def records(self, name: str) -> list[Record]:
        """All records of one table."""


class Folder:
    """Tables as files ``<name>.json`` (JSON lines), ``.jsonl``, ``.csv`` or ``.parquet`` of one folder."""

    source = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self._file(name) is not None

    def records(self, name: str) -> list[Record]:
        """All records; data.missing-file names the nearest file there is."""
        file = self._file(name)
        if file is None:
            there = {path.stem for path in self.folder.iterdir() if path.suffix in ENDINGS}
            raise DataError("data.missing-file", f"{self.folder / name}.json does not exist.", nearest(name, there))
        return read_records(file)

    def _file(self, name: str) -> Path | None:
        files = (self.folder / f"{name}{ending}" for ending in ENDINGS)
        return next((file for file in files if file.exists()), None)


class Hub:
    """Tables as configurations of a hub data set; needs the extra ``hub`` and a network or a filled cache."""

    source = "hub"

    def __init__(self, name: str) -> None:
        self.name = name

    def has(self, name: str) -> bool:
        """Whether the data set has a configuration of that name."""
        import datasets

        try:
            return name in datasets.get_dataset_config_names(self.name)
        except Exception as error:
            raise self._failed(name, error) from error

    def records(self, name: str) -> list[Record]:
        """All records of the configuration's train split."""
        import datasets

        try:
            rows = list(datasets.load_dataset(self.name, name, split="train"))
        except Exception as error:
            raise self._failed(name, error) from error
        return [Record(dict(row), f"{self.name} {name}, row {number}") for number, row in enumerate(rows, start=1)]

    def _failed(self, name: str, error: Exception) -> DataError:
        # ``datasets`` raises a dozen unrelated classes; the cause is kept and shown.
        return DataError(
            "data.hub",
            f"{name} of {self.name} could not be had from the hub ({type(error).__name__}: {str(error)[:200]}).",
            "check the network, or point to a folder with the files.",
        )


def open_published(path: str, variable: str, hub: str) -> Published:
    """The folder ``path``, else the folder in the environment variable, else the hub data set.

    Raises ``DataError`` data.missing-folder (a folder is named and is none) or data.no-source (nothing at hand).
    """
    named = path or os.environ.get(variable, "")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise DataError(
                "data.missing-folder",
                f"{folder} ({'path' if path else variable}) is not a folder.",
                "name the folder that holds the files.",
            )
        return Folder(folder)
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise DataError(
            "data.no-source",
            f"{hub}: no folder is named and the package `datasets` is not installed.",
            f"set path or {variable} to a folder with the files, or install efface[hub].",
        ) from None
    return Hub(hub)
