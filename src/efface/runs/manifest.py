"""The manifest: a hash of every file of a run, written last, so that a later change has a name.

It shows what was changed after the run, not who made the run: someone who rewrites files can rewrite the manifest too.
To hold someone to a record, keep the hash of ``manifest.json`` elsewhere (``digest``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from efface.errors import RecordError
from efface.runs.files import sync, write_json
from efface.runs.layout import RunDir, inside
from efface.runs.schema import SCHEMA, Manifest, read

NAME = "manifest.json"


@dataclass(frozen=True)
class Change:
    """Something that is not as the manifest says. ``kind``: incomplete, changed, missing, extra, link, bad."""

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


def verify(folder: Path | RunDir) -> list[Change]:
    """Everything that differs from the manifest, by file; empty if nothing does."""
    root = _root(folder)
    if not root.is_dir():
        raise RecordError("record.missing", f"There is no run directory {root}.", "check the path.")
    if not (root / NAME).is_file():
        return [Change("incomplete", NAME, "there is no manifest: the run was not finished")]
    try:
        manifest = read(Manifest, root / NAME)
    except RecordError as error:
        return [Change("bad", NAME, error.cause)]
    return [*_listed(root, manifest), *_unlisted(root, manifest)]


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
