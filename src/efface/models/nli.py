"""NLI: a local model that says whether one text follows from another (a judge of open answers)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from efface.errors import ModelError
from efface.models.folder_check import check_folder

BATCH = 16


class NLI:
    """A sequence classifier with a label for entailment, opened from a folder (safetensors only, no code)."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        label = check_nli(folder)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, **options)
        self.module, self.label = model.eval(), label

    def entails(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Bool[n]: entailment is the likeliest label of premise -> hypothesis. Where both together are longer
        than the model reads, the longer one is cut first."""
        import torch

        order = sorted(range(len(premises)), key=lambda i: len(premises[i]) + len(hypotheses[i]))
        out = np.zeros(len(premises), dtype=bool)
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            words = self.tokenizer(
                [premises[i] for i in some],
                [hypotheses[i] for i in some],
                return_tensors="pt",
                padding=True,
                truncation="longest_first",
                max_length=self._longest(),
            )
            with torch.inference_mode():
                out[some] = (self.module(**words).logits.argmax(-1) == self.label).numpy()
        return out

    def _longest(self) -> int:
        most = getattr(self.module.config, "max_position_embeddings", None) or 512
        return int(min(most, self.tokenizer.model_max_length))


def check_nli(folder: Path) -> int:
    """Index of the entailment label; ``ModelError`` ``model.no-nli`` (or one of ``check_folder``) if there is none."""
    check_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kinds, labels = config.get("architectures") or (), config.get("id2label") or {}
    found = [int(i) for i, name in labels.items() if str(name).lower() in ("entailment", "entail", "entails")]
    if len(found) != 1 or not any(str(kind).endswith("ForSequenceClassification") for kind in kinds):
        raise ModelError(
            "model.no-nli",
            f"{folder.name} is no model for natural language inference: it needs ...ForSequenceClassification and one "
            f"label called entailment (labels: {', '.join(map(str, labels.values())) or 'none'}).",
            "name the folder of an NLI model, with id2label in its config.json.",
        )
    return found[0]


@lru_cache(maxsize=1)
def open_nli(folder: Path) -> NLI:
    """The judge, opened once."""
    return NLI(folder)


@lru_cache(maxsize=4)
def nli_digest(folder: Path) -> str:
    """sha256 (hex) over names and contents of the judge's files."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        total.update(f"{file.name}|{hashlib.sha256(file.read_bytes()).hexdigest()}|".encode())
    return total.hexdigest()
