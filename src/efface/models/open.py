"""Opening a model of any family from a folder, by what the folder says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from efface.errors import ModelError
from efface.models.base import ModelAdapter


def open_model(
    folder: Path, *, template: str = "auto", compute: str = "auto", device: str = "auto", context: int | None = None
) -> ModelAdapter:
    """The adapter for ``folder``: a classifier if its ``config.json`` says so, otherwise a causal language model."""
    if not folder.is_dir():
        raise ModelError("model.missing", f"There is no model folder {folder}.", "check the path.")
    options: dict[str, Any] = {"device": device}
    if _family(folder) == "classifier":
        from efface.models.classifier import Classifier

        return Classifier.load(folder, compute=compute, **options)
    from efface.models.causal_lm import CausalLM

    return CausalLM.load(folder, template=template, compute=compute, context=context, **options)


def _family(folder: Path) -> str:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ModelError(
            "model.bad-config", f"{path} is not JSON.", "save the model again with save_pretrained."
        ) from None
    if not isinstance(config, dict):
        return "causal_lm"
    image = any(str(name).endswith("ForImageClassification") for name in config.get("architectures") or ())
    return "classifier" if image else str(config.get("family", "causal_lm"))
