"""Files of a run: written whole or not at all, read strictly, one writer at a time."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from efface.errors import RecordError, RunFailed
from efface.models.cachedir import disk_full, is_disk_full

try:
    import fcntl
except ImportError:  # Windows: two processes on one run directory are then not told apart
    fcntl = None  # type: ignore[assignment]

JSON_LIMIT = 256 * 2**20
NOT_OURS = "this is not a file that Efface wrote, or it was changed."
FREE_SPACE = "free some space, and give the same command again: it goes on from here."


def now() -> str:
    """The time, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# -- writing -------------------------------------------------------------------------------------------------
@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what goes wrong on the disk into ``RunFailed`` "disk.full" or "disk.unwritable"."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            near = next(p for p in (place, *place.absolute().parents) if p.exists())
            raise disk_full(near / place.name, fix=FREE_SPACE) from error
        raise RunFailed(
            "disk.unwritable",
            f"{place} cannot be written: {error.strerror or error}.",
            "check who may write there, or name another folder; `efface VERB --help` says with which option.",
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename: after a kill the old file or the new one is there, whole."""
    path = Path(path)
    temp = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temp, "xb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, atomically."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_json(path: Path, data: Any) -> None:
    """Strict JSON, atomically. NaN becomes null and infinities the strings "Infinity" / "-Infinity"."""
    write_bytes(path, dumps(data, indent=1).encode())


def dumps(data: Any, indent: int | None = None) -> str:
    """Strict JSON text (see ``write_json``)."""
    return json.dumps(strict(data), indent=indent, ensure_ascii=True, allow_nan=False)


def strict(data: Any) -> Any:
    """``data`` with every number that JSON does not know replaced; numpy scalars become plain ones."""
    if isinstance(data, dict):
        return {str(key): strict(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [strict(value) for value in data]
    if hasattr(data, "model_dump"):
        return strict(data.model_dump(by_alias=True))
    if not isinstance(data, float | int | str) and hasattr(data, "item"):
        return strict(data.item())
    if isinstance(data, float) and not math.isfinite(data):
        return None if math.isnan(data) else "Infinity" if data > 0 else "-Infinity"
    return data


def sync(path: Path) -> None:
    """Flush a file or folder to the disk (where the system can)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- reading -------------------------------------------------------------------------------------------------
def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:
    """Strict JSON from a regular file of at most ``limit`` bytes; anything else is "record.bad-file"."""
    if path.is_symlink() or not path.is_file():
        raise RecordError(
            "record.missing-file", f"There is no file {path}.", "the run is not complete, or files of it are missing."
        )
    if (size := path.stat().st_size) > limit:
        raise RecordError("record.too-large", f"{path} has {size} bytes; at most {limit} are read.", NOT_OURS)
    return loads(path.read_bytes(), str(path))


def loads(data: bytes, where: str) -> Any:
    """Strict JSON; ``where`` names the file (and line) in the error."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse, parse_int=_whole, parse_float=_broken)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            "record.bad-file", f"{where} is not strict JSON: {str(error).splitlines()[0][:200]}.", NOT_OURS
        ) from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _whole(digits: str) -> int:
    """Whole numbers that a float can hold: no reader of a record has to think of others."""
    return int(digits) if len(digits) <= 300 else _refuse(f"{digits[:20]}...")


def _broken(digits: str) -> float:
    return value if math.isfinite(value := float(digits)) else _refuse(digits[:40])


# -- one writer at a time ------------------------------------------------------------------------------------
def hold(handle: IO[bytes]) -> bool:
    """Take the lock that lasts as long as ``handle`` is open; False if another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # a file system without locks is no reason not to run
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True


def busy(path: Path) -> bool:
    """Whether a live process holds ``path``."""
    if not path.is_file():
        return False
    with open(path, "rb") as handle:
        return not hold(handle)
