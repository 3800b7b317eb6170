"""The manifest: a hash of every file of a run, written last, so that a later change has a name.

It shows what was changed after the run, not who made the run: someone who rewrites files can rewrite the manifest too.
To hold someone to a record, keep the hash of ``manifest.json`` elsewhere (``digest``).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from efface.errors import RecordError
from efface.runs.files import sync, write_json
from efface.runs.layout import RunDir, inside
from efface.runs.results import Scores
from efface.runs.schema import SCHEMA, Manifest, read

NAME = "manifest.json"
TOLERANCE = 1e-6
Rederived = tuple[str, str, str, float | None]  # role, metric, evaluation set, value (None: cannot be computed again)
Rederive = Callable[[Path], Iterable[Rederived]]


@dataclass(frozen=True)
class Change:
    """Something that is not as the manifest says. ``kind``: incomplete, changed, missing, extra, link, bad, score."""

    kind: str
    file: str
    what: str

    def to_json(self) -> dict[str, str]:
        """Plain dictionary."""
        return {"kind": self.kind, "file": self.file, "what": self.what}


def write(folder: Path | RunDir) -> Path:
    """Hash every file below ``folder`` into ``manifest.json``; what killed writers left behind is removed first."""
    root = _root(folder)
    for left in list(root.rglob(".*.tmp")):
        left.unlink()
    files = {}
    for name in _names(root):
        path = inside(root, name)
        files[name] = {"sha256": sha256(path), "size": path.stat().st_size}
        sync(path)
    write_json(root / NAME, {"schema": SCHEMA, "run": root.name, "files": files})
    return root / NAME


def verify(folder: Path | RunDir, rederive: Rederive | None = None) -> list[Change]:
    """Everything that differs from the manifest, by file; empty if nothing does.

    ``rederive(folder)`` computes the scores again from the stored tables; a score that differs is a finding too. It is
    called only when all files are as they were.
    """
    root = _root(folder)
    if not root.is_dir():
        raise RecordError("record.missing", f"There is no run directory {root}.", "check the path.")
    if not (root / NAME).is_file():
        return [Change("incomplete", NAME, "there is no manifest: the run was not finished")]
    try:
        manifest = read(Manifest, root / NAME)
    except RecordError as error:
        return [Change("bad", NAME, error.cause)]
    found = [*_listed(root, manifest), *_unlisted(root, manifest)]
    return found or (list(_scores(root, rederive)) if rederive else [])


def require_intact(folder: Path | RunDir) -> None:
    """Raise ``RecordError`` "record.incomplete" or "record.changed" (naming the file) unless nothing was changed."""
    found = verify(folder)
    if not found:
        return
    first, root = found[0], _root(folder)
    if first.kind == "incomplete":
        raise RecordError("record.incomplete", f"{root} is not complete: {first.what}.", "run the same command again.")
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    raise RecordError(
        "record.changed",
        f"{root / first.file} is not as the run left it: {first.what}{more}.",
        "get the run again from where it came; `efface verify` lists every file.",
    )


def count(folder: Path | RunDir) -> int:
    """Files in the manifest (0 without one that can be read)."""
    try:
        return len(read(Manifest, _root(folder) / NAME).files)
    except RecordError:
        return 0


def digest(folder: Path | RunDir) -> str:
    """SHA-256 of the manifest itself: one number that stands for the whole run."""
    return sha256(_root(folder) / NAME)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _root(folder: Path | RunDir) -> Path:
    return folder.path if isinstance(folder, RunDir) else Path(folder)


def _names(root: Path) -> list[str]:
    """Names of all files below ``root`` but the manifest, sorted; links are listed as names and never followed."""
    found = []
    for place, folders, files in os.walk(root, followlinks=False):
        links = [f for f in folders if Path(place, f).is_symlink()]
        found += [Path(place, name).relative_to(root).as_posix() for name in [*files, *links]]
    return sorted(name for name in found if name != NAME)


def _listed(root: Path, manifest: Manifest) -> Iterator[Change]:
    for name, entry in manifest.files.items():
        try:
            path = inside(root, name)
        except RecordError as error:
            yield Change("link" if error.code == "record.link" else "bad", name, error.cause)
            continue
        if not path.is_file():
            yield Change("missing", name, "it is missing")
        elif (size := path.stat().st_size) != entry.size:
            yield Change("changed", name, f"it was changed (it has {size} bytes, not {entry.size})")
        elif sha256(path) != entry.sha256:
            yield Change("changed", name, "it was changed (its hash differs)")


def _unlisted(root: Path, manifest: Manifest) -> Iterator[Change]:
    for name in _names(root):
        if name not in manifest.files:
            yield Change("extra", name, "it was added after the run")


def _scores(root: Path, rederive: Rederive) -> Iterator[Change]:
    stored = {(s.role, s.name, s.rows): s.value for s in read(Scores, root / "scores.json").scores}
    for role, name, rows, value in rederive(root):
        if value is None:
            continue
        old = stored.get((role, name, rows))
        if old is None or not math.isclose(old, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            says = "says nothing" if old is None else f"says {old:.6g}"
            yield Change("score", "scores.json", f"{name} on {rows} ({role}) {says}, the tables give {value:.6g}")
