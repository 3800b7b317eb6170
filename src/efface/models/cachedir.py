"""The cache folder: where it is, and how a folder gets into it whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from efface.errors import RunFailed

try:
    import fcntl
except ImportError:  # Windows: the atomic rename alone keeps the cache whole; two writers then do the work twice
    fcntl = None  # type: ignore[assignment]

MOVE_CACHE = "free some space, or set EFFACE_CACHE to a folder on a larger disk."


def cache_root() -> Path:
    """Folder of everything that can be made again: ``$EFFACE_CACHE``, otherwise ``~/.cache/efface``."""
    configured = os.environ.get("EFFACE_CACHE", "")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "efface"


def publish(folder: Path, build: Callable[[Path], object], *, needed: int = 0) -> Path:
    """``folder``, made by ``build(empty folder)`` if it is not there yet; a folder that exists is always complete.

    The name of ``folder`` must say what is in it (a content hash): what exists is never built again. ``build`` fills a
    temporary folder beside it, which is written through to the disk and renamed in one step, under a lock; a process
    killed meanwhile leaves only a hidden ``.partial`` folder, which the next ``publish`` removes. ``needed``: size in
    bytes, if known; then a full disk is noticed before the work starts.

    Raises ``RunFailed`` ``disk.full`` or ``cache.unwritable``; whatever ``build`` raises passes through.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    _make_parent(folder)
    with locked(folder):
        if not folder.is_dir():
            _sweep(folder)
            _build(folder, build, needed)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file of ``path`` (``.<name>.lock`` beside it); waits while another process or thread holds it."""
    if fcntl is None:
        yield
        return
    # The lock file stays: removing it would let two processes hold locks on two different files of one name.
    with open(path.with_name(f".{path.name}.lock"), "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` says that there is no space left. safetensors reports it in the text of its own exception."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)


def disk_full(folder: Path, needed: int = 0, fix: str = MOVE_CACHE) -> RunFailed:
    """The error for a disk without room for ``folder``. ``needed``: bytes, 0 if unknown."""
    free = shutil.disk_usage(folder.parent).free
    amount = f"{size(needed)} needed, {size(free)} available" if needed else f"{size(free)} available"
    return RunFailed("disk.full", f"There is no space left to write {folder} ({amount}).", fix)


def size(amount: int) -> str:
    """``amount`` bytes for a person."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.1f} MiB"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes (hex)."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _make_parent(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder.parent, os.W_OK)
    except OSError as error:
        if is_disk_full(error):
            raise
        writable = False
    if not writable:
        raise RunFailed(
            "cache.unwritable",
            f"The cache folder {folder.parent} cannot be written.",
            "set EFFACE_CACHE to a folder you may write to.",
        )


def _build(folder: Path, build: Callable[[Path], object], needed: int) -> None:
    if needed > shutil.disk_usage(folder.parent).free:
        raise disk_full(folder, needed)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir()
        build(partial)
        _write_through(partial)
        _move_into_place(partial, folder)
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(folder, needed) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # nothing is left here after a successful rename


def _move_into_place(partial: Path, folder: Path) -> None:
    try:
        os.replace(partial, folder)
    except OSError:
        if not folder.is_dir():  # without a lock another process may have been first; its copy is as good
            raise
    _sync(folder.parent)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left; nobody else can be building ``folder`` while we hold its lock."""
    if fcntl is None:
        return
    for left in folder.parent.iterdir():
        if left.name.startswith(f".{folder.name}.") and left.name.endswith(".partial"):
            shutil.rmtree(left, ignore_errors=True)


def _write_through(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    if os.name == "nt":  # neither folders nor read-only handles can be synced there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
