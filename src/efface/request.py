"""ForgetRequest: what is to be forgotten, why, and by whose authority. Immutable, JSON in and out."""

from __future__ import annotations

import difflib
import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import PrivateAttr, model_validator

from efface.data.benchmarks.base import BENCHMARKS
from efface.data.benchmarks.files import assemble
from efface.data.records import check_file
from efface.data.reference import DataRef
from efface.data.rows import Bundle, Row
from efface.errors import DataError, nearest
from efface.settings import Settings, parse, setting

REFERENCES = ("forget", "data", "retain", "holdout", "neighbour")


class ForgetRequest(Settings):
    """What is to go, what must stay, why and until when.

    What is to go is ``forget`` (a file or a benchmark) or ``entities`` (names; their rows of the file ``data`` go and
    everything else of it stays). With ``forget`` a file and ``data`` given, ``forget`` must be part of ``data``. These
    are refused as ``DataError`` before any weights load: request.nothing-to-forget, request.two-targets,
    request.entities-need-data, request.unknown-entity, request.duplicate-entity, request.two-retain-sets,
    request.mixed-sources, request.image-files, request.wrong-modality, request.due-before-received,
    request.hash-mismatch, request.malformed, request.bad-reference, and everything that ``read_rows`` and
    ``check_bundle`` refuse.
    """

    id: str = setting(..., "name of the request, also used for folders", pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    modality: Literal["text", "image"] = setting("text", "what the rows are")
    forget: DataRef | None = setting(None, "what is to go: a file or a benchmark")
    entities: tuple[str, ...] = setting((), "what is to go: entities of the rows in `data`")
    data: DataRef | None = setting(None, "all training rows")
    retain: DataRef | None = setting(None, "what must stay (none: what `data` leaves)")
    holdout: DataRef | None = setting(None, "same kind of rows, never trained on")
    neighbour: DataRef | None = setting(None, "to be kept and close in meaning")
    reason: str = setting("", "why, e.g. a deletion request under a named law")
    authority: str = setting("", "who asked, and who decided")
    received: date | None = setting(None, "day the request came in")
    due: date | None = setting(None, "day it must be done")
    _folder: Path = PrivateAttr(default_factory=Path)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.forget is None and not self.entities:
            raise DataError(
                "request.nothing-to-forget",
                f"request {self.id}: neither forget nor entities is set.",
                "name a file, a benchmark or entities.",
            )
        if self.forget is not None and self.entities:
            raise DataError("request.two-targets", f"request {self.id}: both forget and entities are set.", "keep one.")
        self._check_entities()
        self._check_sources()
        if self.received and self.due and self.due < self.received:
            raise DataError(
                "request.due-before-received",
                f"request {self.id}: due {self.due} is before received {self.received}.",
                "correct the dates.",
            )
        return self

    def _check_entities(self) -> None:
        if self.entities and (self.data is None or not self.data.path):
            raise DataError(
                "request.entities-need-data",
                f"request {self.id}: entities are chosen from the rows of a file, and data names none.",
                "set data to a file with an entity column.",
            )
        if self.entities and self.retain is not None:
            raise DataError(
                "request.two-retain-sets",
                f"request {self.id}: with entities, the rest of data is kept; retain names another set.",
                "remove retain.",
            )
        twice = [name for i, name in enumerate(self.entities) if name in self.entities[:i]]
        if twice:
            raise DataError(
                "request.duplicate-entity", f"request {self.id}: {twice[0]!r} is named twice.", "name it once."
            )

    def _check_sources(self) -> None:
        named = {name: ref for name in REFERENCES if (ref := getattr(self, name)) is not None}
        if self.forget is not None and self.forget.benchmark and len(named) > 1:
            other = next(name for name in named if name != "forget")
            raise DataError(
                "request.mixed-sources",
                f"request {self.id}: benchmark {self.forget.benchmark} brings its own sets, and {other} names another.",
                f"remove {other}.",
            )
        for name, ref in named.items():
            if name != "forget" and ref.benchmark:
                raise DataError(
                    "request.mixed-sources",
                    f"request {self.id}: {name} must be a file, not a benchmark.",
                    "name the benchmark as forget alone, or use files.",
                )
            if self.modality == "image" and ref.path:
                raise DataError(
                    "request.image-files",
                    f"request {self.id}: {name} is a file; files hold text rows.",
                    "name a benchmark of images.",
                )

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str = "request") -> Self:
        """From plain JSON values. An unknown field is a ``SpecError`` with the nearest known one."""
        for name in REFERENCES:
            if isinstance(values.get(name), dict):
                parse(DataRef, values[name], f"{where}.{name}")
        return parse(cls, values, where)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a request file; its relative paths start at its folder."""
        file = Path(path)
        check_file(file)
        try:
            values = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise DataError(
                "request.malformed", f"{file}{line}: not a JSON file in UTF-8.", "correct the file."
            ) from None
        if not isinstance(values, dict):
            raise DataError("request.malformed", f"{file}: holds no JSON object.", "see the docs for an example.")
        request = cls.from_json(values)
        request._folder = file.parent
        return request

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` reads them back. What was left at its default is left out."""
        return {"id": self.id, "modality": self.modality, **self.model_dump(mode="json", exclude_defaults=True)}

    def digest(self) -> str:
        """Content hash (hex) of the request itself."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def bundle(self) -> Bundle:
        """The rows the request names, checked; nothing of it touches a model."""
        if self.forget is not None and self.forget.benchmark:
            return self._benchmark_bundle(self.forget)
        refs = {name: ref for name in REFERENCES if (ref := getattr(self, name)) is not None}
        for ref in refs.values():
            check_file(ref.file(self._folder))
        for name, ref in refs.items():
            if ref.sha256:
                self._check_hash(name, ref.sha256, ref.file_digest(self._folder))
        rows = {name: ref.rows(self._folder) for name, ref in refs.items()}
        names = {name: str(ref.file(self._folder)) for name, ref in refs.items()}
        if self.entities:
            rows["forget"], names["forget"] = self._chosen(rows["data"]), "the rows of the named entities"
        return assemble(rows, names, self.id)

    def sealed(self) -> Self:
        """The same request with the content hash of every reference filled in."""
        changes = {}
        for name in REFERENCES:
            ref = getattr(self, name)
            if ref is not None:
                known = ref.file_digest(self._folder) if ref.path else self._benchmark_bundle(ref).digest()
                self._check_hash(name, ref.sha256 or known, known)
                changes[name] = ref.model_copy(update={"sha256": known})
        return self.model_copy(update=changes)

    def _benchmark_bundle(self, ref: DataRef) -> Bundle:
        kind = BENCHMARKS.get(ref.benchmark)
        if kind.modality != self.modality:
            raise DataError(
                "request.wrong-modality",
                f"request {self.id} is about {self.modality}, benchmark {ref.benchmark} holds {kind.modality}.",
                f"set modality to {kind.modality}.",
            )
        bundle = kind(**ref.settings).load()
        if ref.sha256:
            self._check_hash("forget", ref.sha256, bundle.digest())
        return bundle

    def _chosen(self, data: tuple[Row, ...]) -> tuple[Row, ...]:
        known = {row.entity for row in data if row.entity}
        for name in self.entities:
            if name not in known:
                raise DataError(
                    "request.unknown-entity",
                    f"request {self.id}: no row of data belongs to {name!r}.",
                    nearest(name, difflib.get_close_matches(name, known)),
                )
        return tuple(row for row in data if row.entity in self.entities)

    def _check_hash(self, name: str, wanted: str, found: str) -> None:
        if wanted != found:
            raise DataError(
                "request.hash-mismatch",
                f"request {self.id}: the content of {name} changed (hash "
                f"{found[:12]}, the request says {wanted[:12]}).",
                "restore the data, or make a new request for the new data.",
            )
