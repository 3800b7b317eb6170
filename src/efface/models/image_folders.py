"""Folders of image classifiers: our own and Hugging Face's, read and written without pickles or foreign code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from efface.errors import ModelError
from efface.models import image_hub
from efface.models.cnn import CNNConfig, ImageConfig, SmallCNN
from efface.models.folder_check import AGAIN, check_folder
from efface.settings import parse

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Found:
    """What a folder holds: the module on the CPU in float32, and what the adapter must know of it."""

    module: nn.Module
    config: ImageConfig
    feature_blocks: tuple[str, ...]
    head: str


def place(device: str) -> torch.device:
    """The device called ``device``; "auto" is CUDA where there is one. Raises ``ModelError`` ``model.no-device``."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on how it was built
        raise ModelError(
            "model.no-device",
            f"Device {device!r} cannot be used: {str(error).splitlines()[0][:300]}",
            "set model.device to cpu or auto.",
        ) from None
    return found


def read(folder: Path, feature_blocks: Sequence[str] = (), head: str = "") -> Found:
    """The classifier in ``folder``: one that ``save`` wrote, or a Hugging Face image-classification model.

    ``feature_blocks`` and ``head`` override what is written or found there. Raises ``ModelError``: what
    ``check_folder`` raises, ``model.not-classifier``, ``model.broken``, ``model.missing-weights``,
    ``model.no-normalisation``, ``model.no-image-size``, ``model.no-blocks``.
    """
    check_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kinds = [str(name) for name in config.get("architectures") or ()]
    if config.get("architecture") == "efface-cnn":
        found = _ours(folder, config)
    elif any(name.endswith(image_hub.SUFFIX) for name in kinds):
        module = image_hub.pretrained(folder)
        blocks = tuple(map(str, feature_blocks or config.get("feature_blocks") or ())) or image_hub.stages(
            folder, module
        )
        found = Found(module, image_hub.image_config(folder, module), blocks, str(config.get("head") or ""))
    else:
        raise ModelError(
            "model.not-classifier",
            f"{folder} holds no image classifier ({', '.join(kinds) or 'it names no architecture'}).",
            "give a folder that Efface saved, or a Hugging Face model with an architecture ...ForImageClassification.",
        )
    return Found(found.module, found.config, tuple(feature_blocks) or found.feature_blocks, head or found.head)


def save(folder: Path, module: nn.Module, config: ImageConfig, feature_blocks: Sequence[str], head: str) -> None:
    """Write ``module`` for ``read`` to give back. Refused: what could not be built again (``model.not-savable``)."""
    from safetensors.torch import save_file

    if isinstance(module, SmallCNN) and isinstance(config, CNNConfig):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, folder / WEIGHTS)
        (folder / "config.json").write_text(config.model_dump_json(indent=1), encoding="utf-8")
    elif type(module).__name__.endswith(image_hub.SUFFIX) and hasattr(module, "save_pretrained"):
        extra = {"family": "classifier", "feature_blocks": list(feature_blocks), "head": head}
        image_hub.write(folder, module, config, extra)
    else:
        raise ModelError(
            "model.not-savable",
            f"A {type(module).__name__} cannot be written to a model folder: nothing in it could "
            "say how to build it again.",
            "keep it in Python, or use a Hugging Face image-classification model.",
        )


def _ours(folder: Path, values: dict[str, Any]) -> Found:
    config: CNNConfig = parse(CNNConfig, values, str(folder / "config.json"))
    with torch.device("meta"):  # a config that claims a huge network costs nothing
        module = SmallCNN(config)
    path = folder / WEIGHTS
    weights, wanted = _tensors(path), module.state_dict()
    if odd := sorted(set(weights) ^ set(wanted)):
        raise ModelError(
            "model.missing-weights", f"{path} and its config.json do not go together, first at {odd[0]}.", AGAIN
        )
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise ModelError(
                "model.broken",
                f"{path}: {name} has shape {tuple(value.shape)}, config.json asks for {tuple(wanted[name].shape)}.",
                AGAIN,
            )
    module.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return Found(module, config, tuple(f"stages.{i}" for i in range(len(config.widths))), "head")


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError("model.broken", f"{path} cannot be read: {str(error).splitlines()[0][:300]}", AGAIN) from error
