"""The run directory: where everything lies, and what it is called."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Self

from efface.errors import RecordError
from efface.runs.files import busy, now, read_json, write_json, write_text, writing

__all__ = ["RunDir", "inside", "part", "tidy", "write_json", "write_text"]

HASH_LENGTH = 12
FORBIDDEN = r"[\\:\x00-\x1f]" if os.name == "nt" else r"[\\\x00-\x1f]"


@dataclass(frozen=True)
class RunDir:
    """One run directory. Properties are paths; nothing is read or made by looking at them."""

    path: Path

    # -- places ----------------------------------------------------------------------------------------------
    spec = property(lambda self: self.path / "spec.yaml")
    request = property(lambda self: self.path / "request.json")
    provenance = property(lambda self: self.path / "provenance.json")
    status = property(lambda self: self.path / "status.json")
    events = property(lambda self: self.path / "events.jsonl")
    training = property(lambda self: self.path / "training.json")
    scores = property(lambda self: self.path / "scores.json")
    rows = property(lambda self: self.path / "rows.json")
    conclusion = property(lambda self: self.path / "conclusion.json")
    report_html = property(lambda self: self.path / "report.html")
    report_md = property(lambda self: self.path / "report.md")
    manifest = property(lambda self: self.path / "manifest.json")
    model = property(lambda self: self.path / "model")
    samples = property(lambda self: self.path / "samples")
    tables = property(lambda self: self.path / "tables")
    attacks = property(lambda self: self.path / "attacks")

    def curve(self, attack: str) -> Path:
        """The headline curve of one attack."""
        return self.attacks / part(attack) / "curve.json"

    def sample(self, role: str) -> Path:
        """The samples of one role."""
        return self.samples / f"{part(role)}.jsonl"

    # -- making and finding ----------------------------------------------------------------------------------
    @classmethod
    def create(cls, root: Path, *, method: str, model: str, spec_hash: str, date: date | str | None = None) -> Self:
        """A new directory ``<date>_<method>_<model>_<hash>``; a number is appended if there is one of that name."""
        day = str(date) if date is not None else datetime.now(UTC).date().isoformat()
        model = re.split(r"[/\\]", model.rstrip("/\\"))[-1]
        base = "_".join(tidy(text) for text in (day, method, model, spec_hash[:HASH_LENGTH]))
        with writing(Path(root)):
            Path(root).mkdir(parents=True, exist_ok=True)
            for count in itertools.count(1):
                path = Path(root) / (base if count == 1 else f"{base}-{count}")
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    continue
        run = cls(path)
        write_json(
            run.status,
            {"schema": 1, "state": "running", "stage": "", "error": None, "spec_hash": spec_hash, "started": now()},
        )
        return run

    @classmethod
    def find_resumable(cls, root: Path, spec_hash: str) -> Self | None:
        """The newest run below ``root`` of the same spec that is not complete and that no live process is writing."""
        folders = sorted(Path(root).iterdir(), key=lambda p: p.name, reverse=True) if Path(root).is_dir() else []
        for run in (cls(folder) for folder in folders if folder.is_dir() and not folder.is_symlink()):
            unfinished = run.status.is_file() and not run.manifest.exists()
            if unfinished and _hash_of(run) == spec_hash and not busy(run.events):
                return run
        return None


def _hash_of(run: RunDir) -> str:
    """Spec hash in the status of any directory; "" for one that is not ours."""
    try:
        status = read_json(run.status)
    except RecordError:
        return ""
    return str(status.get("spec_hash", "")) if isinstance(status, dict) else ""


# -- names ---------------------------------------------------------------------------------------------------
def tidy(text: str, longest: int = 40) -> str:
    """``text`` as one part of a file name: letters, digits, dot, dash and underscore; never empty, hidden or a path."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:longest].rstrip("._-") or "unnamed"


def part(text: str) -> str:
    """Like ``tidy``, but two different texts never get the same name."""
    name = tidy(text)
    return name if name == text else f"{name}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"


def inside(root: Path, name: str) -> Path:
    """The path of ``name`` (``a/b.json``) below ``root``. A name that leads out of it is refused: "record.bad-name"."""
    pieces = name.split("/")
    if not name or any(p in ("", ".", "..") for p in pieces) or re.search(FORBIDDEN, name):
        raise RecordError(
            "record.bad-name",
            f"{name!r} in the record of {root} is not the name of a file of that run.",
            "do not trust this record; ask for it again from where it came.",
        )
    path = root
    for piece in pieces:
        path = path / piece
        if path.is_symlink():
            raise RecordError(
                "record.link",
                f"{name!r} in {root} is, or lies behind, a symbolic link.",
                "do not trust this record; a run directory holds no links.",
            )
    return path
