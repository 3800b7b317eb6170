"""Image classifiers of transformers: read from a folder and written back, with the scaling of their pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efface.errors import ModelError, NeedsError
from efface.models.cnn import ImageConfig
from efface.models.folder_check import AGAIN
from efface.settings import parse

SUFFIX = "ForImageClassification"


def pretrained(folder: Path) -> nn.Module:
    """The model in ``folder`` in float32 on the CPU. No pickle, no code from the folder, nothing from the network."""
    from transformers import AutoModelForImageClassification

    from efface.models.folders import quiet_transformers

    safe = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    try:
        with quiet_transformers():
            module, info = AutoModelForImageClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, **safe
            )
    except Exception as error:  # transformers and the libraries behind it raise many kinds
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError("model.broken", f"The model in {folder} cannot be loaded: {why}", AGAIN) from error
    if missing := sorted(map(str, info["missing_keys"])):
        raise ModelError(
            "model.missing-weights",
            f"The files in {folder} lack {len(missing)} weights of the model, the first is {missing[0]}.",
            AGAIN,
        )
    return module


def stages(folder: Path, module: nn.Module) -> tuple[str, ...]:
    """Names of the outermost stack of blocks: the first module list with two entries or more."""
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) > 1:
            return tuple(f"{name}.{i}" for i in range(len(part)))
    raise NeedsError(
        "model.no-blocks",
        f"No stack of blocks was found in the model of {folder}.",
        "name its stages with feature_blocks.",
    )


def image_config(folder: Path, module: Any) -> ImageConfig:
    """Input size and pixel scaling, from ``config.json`` and ``preprocessor_config.json``.

    Rows must come at the model's own size; nothing is resized behind their back.
    """
    path = folder / "preprocessor_config.json"
    known = _preprocessing(path)
    height, width = _size(folder, module.config, known)
    factor = 255 * float(known.get("rescale_factor", 1 / 255)) if known.get("do_rescale", True) else 255.0
    scaled = known.get("do_normalize", True)
    mean, std = (_numbers(known.get("image_mean")), _numbers(known.get("image_std"))) if scaled else ([0.0], [1.0])
    return parse(
        ImageConfig,
        {
            "channels": int(getattr(module.config, "num_channels", 3)),
            "height": height,
            "width": width,
            "classes": module.config.num_labels,
            "mean": [m / factor for m in mean],
            "std": [s / factor for s in std],
        },
        str(path),
    )


def write(folder: Path, module: Any, config: ImageConfig, extra: Mapping[str, Any]) -> None:
    """Write the model as transformers does, with ``extra`` keys in ``config.json`` and its pixel scaling beside it."""
    from efface.models.folders import quiet_transformers

    with quiet_transformers():
        module.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | extra, indent=1), encoding="utf-8")
    scaling = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "size": {"height": config.height, "width": config.width},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(scaling, indent=1), encoding="utf-8")


def _preprocessing(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise ModelError(
            "model.no-normalisation",
            f"{path} is missing or not readable, so how pixels are scaled is unknown.",
            "copy preprocessor_config.json of the model into its folder.",
        )
    return known


def _size(folder: Path, config: Any, known: Mapping[str, Any]) -> tuple[int, int]:
    crop = known.get("crop_size") if known.get("do_center_crop") else None
    for size in (getattr(config, "image_size", None), crop, known.get("size")):
        if isinstance(size, Mapping):
            size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
        pair = [size, size] if isinstance(size, int) else list(size or ())
        if len(pair) == 2 and all(isinstance(side, int) for side in pair):
            return pair[0], pair[1]
    raise ModelError(
        "model.no-image-size",
        f"Neither config.json nor preprocessor_config.json in {folder} says how large images are.",
        "add size to preprocessor_config.json.",
    )


def _numbers(values: Any) -> list[float]:
    found = values if isinstance(values, list) else [values]
    if not all(isinstance(value, (int, float)) for value in found):
        raise ModelError(
            "model.no-normalisation",
            f"preprocessor_config.json has an image_mean or image_std that is no number ({values}).",
            "copy preprocessor_config.json of the model into its folder.",
        )
    return [float(value) for value in found]
