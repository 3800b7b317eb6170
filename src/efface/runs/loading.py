"""Reading a run directory, possibly a stranger's: JSON and YAML only, sizes limited, no links, nothing executed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from efface.errors import RecordError
from efface.plain_yaml import BadYaml, read_plain
from efface.runs.events import parse_events, parse_line
from efface.runs.files import NOT_OURS, read_json
from efface.runs.layout import RunDir, inside
from efface.runs.results import Conclusion, Curve, RowValues, Sample, Scores, Training
from efface.runs.schema import Manifest, Provenance, Status, check, read

LINES_LIMIT = 512 * 2**20


@dataclass(frozen=True)
class LoadedRun:
    """One run, read-only. What the run has not (yet) written is None or empty; what it has written is validated."""

    dir: RunDir
    status: Status
    spec: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    spec_hash: str = ""
    request: dict[str, Any] = field(default_factory=dict)
    provenance: Provenance | None = None
    training: Training | None = None
    scores: Scores | None = None
    conclusion: Conclusion | None = None
    curves: tuple[Curve, ...] = ()
    manifest: Manifest | None = None
    _samples: dict[str, list[Sample]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the run directory."""
        return self.dir.path.absolute().name

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.dir.path

    @property
    def complete(self) -> bool:
        """Whether the manifest, the last file, is there."""
        return self.manifest is not None

    @cached_property
    def row_values(self) -> RowValues:
        """Per-row values of every score (empty if the run has none)."""
        return _optional(RowValues, self.dir.rows) or RowValues()

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """All events."""
        path = self.dir.events
        return list(parse_events(_bytes(path, LINES_LIMIT), str(path))) if _there(path) else []

    def samples(self, role: str) -> list[Sample]:
        """Questions and answers of one role (empty if the run has none)."""
        if role not in self._samples:
            path = self.dir.sample(role)
            lines = _bytes(path, LINES_LIMIT).splitlines() if _there(path) else []
            places = ((line, f"{path}, line {i}") for i, line in enumerate(lines, 1))
            self._samples[role] = [check(Sample, parse_line(line, where), where) for line, where in places]
        return self._samples[role]


def load_run(path: Path | str) -> LoadedRun:
    """The run in directory ``path``, whatever its state.

    Raises ``RecordError``: "record.missing" (no run there), "record.bad-file" (naming the file), "record.too-large",
    "record.unknown-schema", "record.link", "record.bad-name".
    """
    run = RunDir(Path(path))
    if not run.status.is_file():
        raise RecordError(
            "record.missing", f"{run.path} is not a run directory (it has no status.json).", "check the path."
        )
    manifest = _optional(Manifest, run.manifest)
    for name in manifest.files if manifest else ():
        inside(run.path, name)
    spec = _spec(run.spec)
    origins = {str(k): str(v) for k, v in _mapping(spec.get("origins")).items()}
    request = _mapping(read_json(run.request) if _there(run.request) else {})
    return LoadedRun(
        run,
        read(Status, run.status),
        _mapping(spec.get("spec")),
        origins,
        str(spec.get("hash", "")),
        request,
        _optional(Provenance, run.provenance),
        _optional(Training, run.training),
        _optional(Scores, run.scores),
        _optional(Conclusion, run.conclusion),
        tuple(_curves(run.attacks)),
        manifest,
    )


def _curves(folder: Path) -> Iterator[Curve]:
    """Headline curve of each attack first, then its other metrics."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for place in sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()):
        for path in sorted(place.glob("curve*.json"), key=lambda p: (p.name != "curve.json", p.name)):
            yield read(Curve, path)


def _optional(model: Any, path: Path) -> Any:
    return read(model, path) if _there(path) else None


def _there(path: Path) -> bool:
    if path.is_symlink():
        raise RecordError(
            "record.link", f"{path} is a symbolic link.", "do not trust this record; a run directory holds no links."
        )
    return path.is_file()


def _bytes(path: Path, limit: int) -> bytes:
    if (size := path.stat().st_size) > limit:
        raise RecordError("record.too-large", f"{path} has {size} bytes; at most {limit} are read.", NOT_OURS)
    return path.read_bytes()


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _spec(path: Path) -> dict[str, Any]:
    if not _there(path):
        return {}
    try:
        return _mapping(read_plain(path))
    except BadYaml as why:
        raise RecordError("record.bad-file", f"{path} is not plain YAML: {why}.", NOT_OURS) from None
