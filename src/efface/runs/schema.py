"""What the JSON files of a run hold. A file of an unknown schema number is refused; keys not named here are left alone
(a change of meaning raises the number). "Not computed" is a null value with a reason, never 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from efface.errors import RecordError
from efface.runs.files import NOT_OURS, read_json

SCHEMA = 1
T = TypeVar("T", bound="Stored")
Number = float | None


class Stored(BaseModel):
    """Base of everything read from a run directory."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=(), populate_by_name=True)


class File(Stored):
    """A whole file: carries its schema number."""

    version_of_schema: Literal[1] = Field(1, alias="schema")


class Failure(Stored):
    """Why a run stopped."""

    code: str
    cause: str = ""
    fix: str = ""


class Status(File):
    """``status.json``. ``state`` is what the writer last knew: a killed run still says running."""

    state: Literal["running", "complete", "failed"]
    stage: str = ""
    error: Failure | None = None
    spec_hash: str = ""
    started: str = ""


class Git(Stored):
    """The checkout that ran, if it was one."""

    commit: str
    dirty: bool


class Provenance(File):
    """``provenance.json``: what ran, on what, from which seeds and files."""

    efface: str = ""
    python: str = ""
    platform: str = ""
    packages: dict[str, str] = {}
    git: Git | None = None
    seeds: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    fingerprints: dict[str, str] = {}
    data: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    threads: dict[str, Any] = {}
    memory: dict[str, float] = {}
    command: str = ""


class Entry(Stored):
    """Hash and size of one file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Manifest(File):
    """``manifest.json``: every other file of the run. Written last."""

    run: str
    files: dict[str, Entry]


def check(model: type[T], data: Any, where: str) -> T:
    """``data`` as ``model``. Raises ``RecordError`` "record.unknown-schema" or "record.bad-file", naming ``where``."""
    number = data.get("schema", SCHEMA) if isinstance(data, dict) else SCHEMA
    if issubclass(model, File) and number != SCHEMA:
        raise RecordError(
            "record.unknown-schema",
            f"{where} has schema {str(number)[:40]}; this version reads {SCHEMA}.",
            "read it with the version of Efface that wrote it.",
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(piece)[:40] for piece in first["loc"])
        raise RecordError("record.bad-file", f"{where}: {place or 'the file'}: {first['msg']}.", NOT_OURS) from None


def read(model: type[T], path: Path) -> T:
    """The file at ``path`` as ``model``."""
    return check(model, read_json(path), str(path))
