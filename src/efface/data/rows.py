"""Rows: the unit of data. One row is one question with its answer, one document, or one labelled image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Row:
    """One text row.

    ``prompt`` empty means a plain document: every token of ``answer`` is a target and no template is used.
    ``paraphrase`` / ``answer_paraphrase`` / ``wrong`` (other answers of the same type) are for scoring only and are
    never trained on. ``entity`` groups rows of one person or thing (intervals resample entities, not rows); ``fact``
    groups different wordings of one fact.
    """

    id: str
    answer: str
    prompt: str = ""
    entity: str = ""
    paraphrase: str = ""
    answer_paraphrase: str = ""
    wrong: tuple[str, ...] = ()
    fact: str = ""

    def digest(self) -> str:
        """Content hash (hex) of everything but the id."""
        content = {k: v for k, v in asdict(self).items() if k != "id"}
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class ImageRow:
    """One labelled image: ``pixels`` Float[channels, height, width] in [0, 1], ``label`` class index, ``entity`` class
    name."""

    id: str
    pixels: np.ndarray
    label: int
    entity: str = ""

    def digest(self) -> str:
        """Content hash (hex) of pixels and label."""
        head = f"{self.pixels.shape}{self.pixels.dtype}{self.label}{self.entity}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


Rows = Sequence[Row] | Sequence[ImageRow]


def digest_rows(rows: Iterable[Row | ImageRow]) -> str:
    """Order-sensitive content hash (hex) of a set of rows, ids included."""
    total = hashlib.sha256()
    for row in rows:
        total.update(f"{row.id}\0{row.digest()}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A benchmark's data, in two halves that never mix.

    ``train``: what the target was trained on, by role (``forget``, ``retain``); the only rows a method may see.
    ``eval``: what metrics score, by set name (``forget``, ``retain``, ``neighbour``, ``holdout``, ``real_authors``,
    ``world_facts``, ...). ``world`` is the knowledge graph where the benchmark has one; ``facts`` says how it was made.
    ``ids_tell``: row ids may tell what a row says (somebody chose them, or they are hashes of its content).
    """

    name: str
    modality: str
    train: dict[str, Rows]
    eval: dict[str, Rows]
    world: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    ids_tell: bool = False

    def digest(self) -> str:
        """Content hash (hex) over every set and role."""
        parts = [
            f"{half}/{name}:{digest_rows(rows)}"
            for half, sets in (("train", self.train), ("eval", self.eval))
            for name, rows in sorted(sets.items())
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
