"""Samples: what was asked and what each model said. Forget text is stored as keyed hashes unless asked otherwise.

The key lies in the cache folder of the machine that ran, never in a run: whoever has the record alone cannot test
guesses against the hashes, and whoever has key and text can still show that a row was this one.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from efface.errors import RecordError
from efface.models.cachedir import cache_root, locked
from efface.runs.files import dumps, write_bytes, writing
from efface.runs.results import Sample

PRIVATE = ("forget", "holdout")
HIDDEN = ("entity", "prompt", "gold", "output")
KEY_BYTES = 32


def write_sample_rows(
    path: Path, rows: Iterable[Mapping[str, Any]], *, keep_text: bool, key: bytes | None = None
) -> None:
    """Write ``samples/<role>.jsonl`` from rows {row, entity, set, prompt, gold, output, scores, problem}.

    Without ``keep_text``, entity, prompt, gold and output of every row whose set starts with ``forget`` or ``holdout``
    become ``hmac-sha256:<hex>`` under ``key`` (none: the machine's own); equal texts keep equal hashes, so rows of one
    entity stay together.
    """
    secret = b"" if keep_text else key or sample_key()
    lines = [dumps(Sample.model_validate(row if keep_text else conceal(row, secret)).model_dump()) for row in rows]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def conceal(row: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    """``row`` with its text replaced by keyed hashes if its set is private; others pass unchanged."""
    if not str(row["set"]).startswith(PRIVATE):
        return dict(row)
    return {**row, **{name: keyed_hash(str(row[name]), key) for name in HIDDEN if row.get(name)}, "hidden": True}


def keyed_hash(text: str, key: bytes) -> str:
    """``hmac-sha256:<hex>`` of ``text``."""
    return "hmac-sha256:" + hmac.new(key, text.encode("utf-8", "replace"), "sha256").hexdigest()


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
