"""The machine's own key, and the hashes made with it.

The key lies in the cache folder of the machine that ran, never in a run: whoever has the record alone cannot test
guesses against the hashes, and whoever has key and text can still show that a row was this one.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from efface.errors import RecordError
from efface.models.cachedir import cache_root, locked
from efface.runs.files import writing

KEY_BYTES = 32
HASHED = "hmac-sha256:"


def keyed_hash(text: str, key: bytes) -> str:
    """``hmac-sha256:<hex>`` of ``text``; equal texts have equal hashes."""
    return HASHED + hmac.new(key, text.encode("utf-8", "replace"), "sha256").hexdigest()


def sample_key(folder: Path | None = None) -> bytes:
    """The machine's key (32 random bytes, readable by the owner only), made on first use in the cache folder."""
    path = (folder or cache_root() / "keys") / "samples.key"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(path):
            if not path.is_file():
                _make(path)
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise RecordError(
            "record.bad-key",
            f"{path} has {len(key)} bytes, not {KEY_BYTES}.",
            "delete it; hashes of older runs can then no longer be matched to texts.",
        )
    return key


def _make(path: Path) -> None:
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temp.unlink(missing_ok=True)
    handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(KEY_BYTES))
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(temp, path)
