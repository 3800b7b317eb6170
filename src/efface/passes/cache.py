"""Content-addressed tables on disk, and the fingerprint of a model's weights."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import torch

from efface.models.base import ModelAdapter
from efface.models.cachedir import disk_full, is_disk_full

SCHEMA_VERSION = 4  # raised when passes give other bits


class Cache:
    """Arrow tables under their key. Written beside and renamed, so a kill or a second process never leaves half a
    table; a damaged file is thrown away and computed again."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def get(self, key: str) -> pa.Table | None:
        """The table, or None if it is not there (or not whole)."""
        path = self._path(key)
        try:
            table = feather.read_table(path, memory_map=False)
            stored = (table.schema.metadata or {}).get(b"sha256", b"").decode()
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowInvalid):
            path.unlink(missing_ok=True)
            return None
        if stored != content(table):
            path.unlink(missing_ok=True)
            return None
        return table.replace_schema_metadata(None)

    def note(self, key: str) -> str:
        """What ``put`` was told beside the table, "" if nothing (or no table)."""
        try:
            with pa.OSFile(str(self._path(key))) as source, pa.ipc.open_file(source) as file:
                return (file.schema.metadata or {}).get(b"note", b"").decode()
        except (OSError, pa.ArrowInvalid):
            return ""

    def put(self, key: str, table: pa.Table, note: str = "") -> None:
        """Store a table under its key, with a note that is no part of its content."""
        path = self._path(key)
        temp = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            marked = table.replace_schema_metadata({"sha256": content(table), "note": note})
            feather.write_feather(marked, temp, compression="zstd")
            os.replace(temp, path)
        except OSError as error:
            temp.unlink(missing_ok=True)
            if is_disk_full(error):
                raise disk_full(path) from error
            raise

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(f"{SCHEMA_VERSION}/{key}".encode()).hexdigest()
        return self.root / name[:2] / f"{name}.arrow"


def content(table: pa.Table) -> str:
    """sha256 (hex) of a table's cells and schema, whatever its metadata and chunks."""
    sink = hashlib.sha256(str(table.schema.remove_metadata()).encode())
    for batch in table.replace_schema_metadata(None).combine_chunks().to_batches():
        sink.update(batch.serialize())
    return sink.hexdigest()


def fingerprint(adapter: ModelAdapter) -> str:
    """sha256 (hex) over names, shapes, dtypes and bytes of all parameters and buffers; tied ones enter once."""
    total, seen = hashlib.sha256(), set()
    for name, tensor in [*adapter.module.named_parameters(), *adapter.module.named_buffers()]:
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        value = tensor.detach().cpu().contiguous()
        total.update(f"{name}|{tuple(value.shape)}|{value.dtype}|".encode())
        total.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()) if value.numel() else b"")
    return total.hexdigest()
