"""Samples: what was asked and what each model said. Forget text is stored as keyed hashes unless asked otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from efface.runs.files import dumps, write_bytes
from efface.runs.privacy import Privacy
from efface.runs.results import Sample


def write_sample_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, privacy: Privacy | None) -> None:
    """Write ``samples/<role>.jsonl`` from rows {row, entity, set, prompt, gold, output, scores, problem}, concealed by
    ``privacy`` (None: as they are)."""
    shown = (row if privacy is None else privacy.sample(row) for row in rows)
    lines = [dumps(Sample.model_validate(row).model_dump()) for row in shown]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
