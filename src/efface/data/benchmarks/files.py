"""files: a user's own rows. Behind suite ``deletion_request`` and every request that names data files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle, check_ids_agree, check_not_empty, check_within, content_key
from efface.data.reading import read_rows, training_rows
from efface.data.rows import Bundle, Row
from efface.errors import DataError
from efface.settings import Settings, setting

ROLES = ("forget", "retain", "holdout", "neighbour", "data")
CARD = Card(
    title="Your own files",
    source="the user",
    summary="Rows to forget, to keep, never trained on and close by, from JSON lines, JSON, CSV or Parquet.",
    fooled_by=(
        "a holdout set that differs in kind from the forget set makes membership tests meaningless",
        "a retain file that is not what the model was trained on does not protect what it was trained on",
    ),
)


@benchmark("files", CARD)
class Files(Benchmark):
    """Evaluation sets are the training rows, with the scoring columns (paraphrase, wrong) where the files have them."""

    class Settings(Settings):
        forget: str = setting("", "file with the rows to forget")
        retain: str = setting("", "file with rows to keep")
        holdout: str = setting("", "file with rows like the forgotten ones that were never trained on")
        neighbour: str = setting("", "file with rows to keep that are close in meaning to the forgotten ones")
        data: str = setting("", "file with all training rows; without `retain`, what is not forgotten is kept")
        format: str = setting("", "jsonl, json, csv, tsv or parquet (empty: from each file's suffix)")
        fields: dict[str, str] = setting({}, "row field -> column, e.g. {prompt: Question}")
        strict: bool = setting(True, "refuse columns that mean nothing here; otherwise leave them out")

    def load(self) -> Bundle:
        """The files as a checked bundle."""
        chosen = self.settings
        if not chosen.forget:
            raise DataError("data.no-forget-file", "no file says what to forget.", "set `forget` to a data file.")
        paths = {role: getattr(chosen, role) for role in ROLES if getattr(chosen, role)}
        rows = {
            role: read_rows(path, format=chosen.format, fields=chosen.fields, strict=chosen.strict)
            for role, path in paths.items()
        }
        return assemble(rows, paths)


def assemble(rows: Mapping[str, tuple[Row, ...]], names: Mapping[str, str], name: str = "files") -> Bundle:
    """A checked bundle from rows by role (``ROLES``). ``names``: role -> what messages call it, usually its file.

    Without ``retain`` but with ``data``, the rows of ``data`` that are not forgotten are kept.
    """
    check_not_empty(rows["forget"], names["forget"])
    names = {"retain": names.get("data", "retain"), **names}
    retain, how = rows.get("retain", ()), "given" if "retain" in rows else "none"
    if "data" in rows:
        check_within(rows["forget"], rows["data"], names["forget"], names["data"])
        if "retain" not in rows:
            gone = {content_key(row) for row in rows["forget"]}
            retain, how = tuple(row for row in rows["data"] if content_key(row) not in gone), "data without forget"
    sets = {
        role: found
        for role in ("forget", "retain", "holdout", "neighbour")
        if (found := retain if role == "retain" else rows.get(role, ()))
    }
    check_ids_agree({names[role]: found for role, found in sets.items()})
    train = {"forget": training_rows(rows["forget"], names["forget"]), "retain": training_rows(retain, names["retain"])}
    facts: dict[str, Any] = {"retain": how, "rows": {role: len(found) for role, found in sets.items()}}
    bundle = Bundle(name, "text", train, sets, facts=facts, ids_tell=True)
    check_bundle(bundle, names)
    return bundle
