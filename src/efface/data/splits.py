"""Published data sets of several configurations with several splits each: from a folder, or from the hub.

A folder is laid out as the authors' repository or as a clone of the hub's: ``<configuration>/<split>`` with an ending
of ``published.ENDINGS`` or in the hub's numbered Parquet parts; without a configuration the files lie in the folder
itself or in its ``data``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Protocol

from efface.data.published import ENDINGS, Folder, open_published
from efface.data.records import Record, check_file, malformed, read_records
from efface.errors import DataError, nearest

PART = re.compile(r"-\d{5}-of-(\d{5})\.parquet$")


class Splits(Protocol):
    """Tables by configuration ("" where there is but one) and split."""

    source: str

    def has(self, config: str, split: str) -> bool:
        """Whether there is such a table."""

    def records(self, config: str, *splits: str) -> list[Record]:
        """All records of the first of ``splits`` that is there."""


class SplitFolder:
    """Tables of a local folder."""

    source = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, config: str, split: str) -> bool:
        """Whether there is a file of that name."""
        return bool(self._files(config, split))

    def records(self, config: str, *splits: str) -> list[Record]:
        """All records, parts in order; data.missing-file names the nearest file, data.missing-part a gap."""
        for split in splits:
            if files := self._files(config, split):
                return [record for file in files for record in read_any(file)]
        place = self.folder / config if config else self.folder
        there = {PART.sub("", path.name).split(".")[0] for path in place.glob("*.*")}
        raise DataError("data.missing-file", f"{place / splits[0]}.json does not exist.", nearest(splits[0], there))

    def _files(self, config: str, split: str) -> list[Path]:
        place = self.folder / config if config else self.folder
        for folder in (place, place / "data"):
            for ending in ENDINGS:
                if (folder / f"{split}{ending}").is_file():
                    return [folder / f"{split}{ending}"]
            if parts := sorted(folder.glob(f"{split}-*-of-*.parquet")):
                return _whole(parts)
        return []


class SplitHub:
    """Tables of a hub data set; needs the extra ``hub`` and a network or a filled cache."""

    source = "hub"

    def __init__(self, name: str) -> None:
        self.name = name

    def has(self, config: str, split: str) -> bool:
        """Whether the data set has this configuration with this split."""
        import datasets

        try:
            return (not config or config in datasets.get_dataset_config_names(self.name)) and (
                split in datasets.get_dataset_split_names(self.name, config or None)
            )
        except Exception as error:
            raise self._failed(config, split, error) from error

    def records(self, config: str, *splits: str) -> list[Record]:
        """All records of the first split that is there (with one name: of that one)."""
        import datasets

        split = next((s for s in splits if len(splits) == 1 or self.has(config, s)), splits[0])
        try:
            rows = list(datasets.load_dataset(self.name, config or None, split=split))
        except Exception as error:
            raise self._failed(config, split, error) from error
        where = f"{self.name} {config} {split}".replace("  ", " ")
        return [Record(dict(row), f"{where}, row {number}") for number, row in enumerate(rows, start=1)]

    def _failed(self, config: str, split: str, error: Exception) -> DataError:
        # ``datasets`` raises a dozen unrelated classes; the cause is kept and shown.
        said = f"{type(error).__name__}: {str(error)[:200]}"
        if "gated" in str(error).lower():
            return DataError(
                "data.gated",
                f"{self.name} is gated ({said}).",
                "accept its terms on the hub and log in, or point to a folder with the files.",
            )
        return DataError(
            "data.hub",
            f"{config} {split} of {self.name} could not be had from the hub ({said}).".lstrip(),
            "check the network, or point to a folder with the files.",
        )


def open_splits(path: str, variable: str, hub: str) -> Splits:
    """The folder ``path``, else the folder in the environment variable, else the hub data set; raises as
    ``published.open_published``."""
    found = open_published(path, variable, hub)
    return SplitFolder(found.folder) if isinstance(found, Folder) else SplitHub(hub)


def read_any(file: Path) -> list[Record]:
    """``read_records``, and two more shapes of a JSON file: a list of plain strings (records with the one column
    ``text``), and one object over several lines (one record)."""
    check_file(file)
    with file.open("rb") as stream:
        start = stream.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
    strings = start.startswith(b"[") and start[1:].lstrip().startswith(b'"')
    if not strings and not (file.suffix == ".json" and start.startswith(b"{")):
        return read_records(file)
    try:
        items = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        if strings and isinstance(error, json.JSONDecodeError):
            raise malformed(f"{file}, line {error.lineno}", f"not JSON ({error.msg} at column {error.colno})") from None
        return read_records(file)  # one object a line, or what it says is wrong
    if isinstance(items, dict):
        return [Record(items, f"{file}, line 1")]
    return [Record({"text": item}, f"{file}, item {number}") for number, item in enumerate(items, start=1)]


def _whole(parts: list[Path]) -> list[Path]:
    match = PART.search(parts[0].name)
    if match and len(parts) != int(match[1]):
        raise DataError(
            "data.missing-part",
            f"{parts[0].parent} holds {len(parts)} of the {int(match[1])} parts of {parts[0].name[: match.start()]}.",
            "fetch the missing parts.",
        )
    return parts
