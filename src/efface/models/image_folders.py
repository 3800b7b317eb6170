"""Folders of image classifiers: our own and Hugging Face's, read and written without pickles or foreign code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from efface.errors import ModelError
from efface.models.cnn import CNNConfig, ImageConfig, SmallCNN
from efface.models.folder_check import AGAIN, check_folder
from efface.settings import parse

FAMILY = "classifier"
HF_SUFFIX = "ForImageClassification"


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
        raise ModelError("model.no-device", f"Device {device!r} cannot be used: {_line(error)}", "set model.device to cpu or auto.") from None
    return found


def read(folder: Path, feature_blocks: Sequence[str] = (), head: str = "") -> Found:
    """The classifier in ``folder``: one that ``save`` wrote, or a Hugging Face image-classification model.

    ``feature_blocks`` and ``head`` override what is written or found there. Raises ``ModelError``: what ``check_folder``
    raises, ``model.not-classifier``, ``model.broken``, ``model.missing-weights``, ``model.no-normalisation``,
    ``model.no-image-size``, ``model.no-blocks``.
    """
    check_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("architecture") == "efface-cnn":
        found = _ours(folder, config)
    elif any(str(name).endswith(HF_SUFFIX) for name in config.get("architectures") or ()):
        found = _hugging_face(folder, config)
    else:
        raise ModelError("model.not-classifier", f"{folder} holds no image classifier ({config.get('architectures') or 'no architecture named'}).",
                         "give a folder that Efface saved, or a Hugging Face model whose architecture ends in ForImageClassification.")
    return Found(found.module, found.config, tuple(feature_blocks) or found.feature_blocks, head or found.head)


def save(folder: Path, module: nn.Module, config: ImageConfig, feature_blocks: Sequence[str], head: str) -> None:
    """Write ``module`` so that ``read`` gives it back; refuses (``model.not-savable``) what could not be built again."""
    from safetensors.torch import save_file

    if isinstance(module, SmallCNN) and isinstance(config, CNNConfig):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(config.model_dump_json(indent=1), encoding="utf-8")
    elif type(module).__name__.endswith(HF_SUFFIX) and hasattr(module, "save_pretrained"):
        _save_hugging_face(folder, module, config, feature_blocks, head)
    else:
        raise ModelError("model.not-savable", f"A {type(module).__name__} cannot be written to a model folder: nothing there could say how to build it again.",
                         "keep it in Python and save its artifact instead, or use a Hugging Face image-classification model.")


def _ours(folder: Path, values: dict[str, Any]) -> Found:
    config: CNNConfig = parse(CNNConfig, values, str(folder / "config.json"))
    module = SmallCNN(config)
    weights, wanted = _tensors(folder / "model.safetensors"), module.state_dict()
    for name in sorted(set(weights) ^ set(wanted)):
        raise ModelError("model.missing-weights", f"{folder / 'model.safetensors'} and its config do not go together, first at {name}.", AGAIN)
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise ModelError("model.broken", f"{folder / 'model.safetensors'}: {name} has shape {tuple(value.shape)}, its config says "
                             f"{tuple(wanted[name].shape)}.", AGAIN)
    module.load_state_dict(weights)
    return Found(module, config, tuple(f"stages.{i}" for i in range(len(config.widths))), "head")


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError("model.broken", f"{path} cannot be read: {_line(error)}", AGAIN) from error


def _hugging_face(folder: Path, config: Mapping[str, Any]) -> Found:
    module = _pretrained(folder)
    blocks = tuple(map(str, config.get("feature_blocks") or ())) or _stages(folder, module)
    return Found(module, _image_config(folder, module), blocks, str(config.get("head") or ""))


def _pretrained(folder: Path) -> nn.Module:
    from transformers import AutoModelForImageClassification

    from efface.models.folders import quiet_transformers

    try:
        with quiet_transformers():
            module, info = AutoModelForImageClassification.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True)
    except Exception as error:  # transformers and the libraries behind it raise many kinds
        raise ModelError("model.broken", f"The model in {folder} cannot be loaded: {_line(error)}", AGAIN) from error
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise ModelError("model.missing-weights", f"The files in {folder} lack {len(missing)} weights of the model, the first is {missing[0]}.", AGAIN)
    return module


def _stages(folder: Path, module: nn.Module) -> tuple[str, ...]:
    """The outermost stack of blocks: the first module list with two entries or more."""
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) > 1:
            return tuple(f"{name}.{i}" for i in range(len(part)))
    raise ModelError("model.no-blocks", f"No stack of blocks was found in the model of {folder}.", "name its stages with feature_blocks.")


def _image_config(folder: Path, module: Any) -> ImageConfig:
    """Input size and normalisation. Rows must come at the model's own size: nothing is resized behind their back."""
    path = folder / "preprocessor_config.json"
    try:
        pre = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (json.JSONDecodeError, UnicodeDecodeError):
        pre = None
    if not isinstance(pre, dict):
        raise ModelError("model.no-normalisation", f"{folder} has no readable preprocessor_config.json, so how pixels are scaled is unknown.",
                         "copy preprocessor_config.json of the model into it.")
    height, width = _size(folder, module.config, pre)
    factor = 255 * float(pre.get("rescale_factor", 1 / 255)) if pre.get("do_rescale", True) else 255.0
    plain = not pre.get("do_normalize", True)
    mean, std = ((0.0,), (1.0,)) if plain else (_numbers(pre.get("image_mean")), _numbers(pre.get("image_std")))
    values = {"channels": int(getattr(module.config, "num_channels", 3)), "height": height, "width": width, "classes": module.config.num_labels,
              "mean": [m / factor for m in mean], "std": [s / factor for s in std]}
    return parse(ImageConfig, values, str(path))


def _size(folder: Path, config: Any, pre: Mapping[str, Any]) -> tuple[int, int]:
    crop = pre.get("crop_size") if pre.get("do_center_crop") else None
    for size in (getattr(config, "image_size", None), crop, pre.get("size")):
        if isinstance(size, Mapping):
            size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
        pair = [size, size] if isinstance(size, int) else list(size or ())
        if len(pair) == 2 and all(isinstance(side, int) for side in pair):
            return pair[0], pair[1]
    raise ModelError("model.no-image-size", f"Neither config.json nor preprocessor_config.json in {folder} says how large images are.",
                     "add size to preprocessor_config.json.")


def _numbers(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list) else [values]


def _save_hugging_face(folder: Path, module: Any, config: ImageConfig, feature_blocks: Sequence[str], head: str) -> None:
    from efface.models.folders import quiet_transformers

    with quiet_transformers():
        module.save_pretrained(folder)
    path = folder / "config.json"
    extra = {"family": FAMILY, "feature_blocks": list(feature_blocks), "head": head}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | extra, indent=1), encoding="utf-8")
    pre = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(config.mean), "image_std": list(config.std),
           "size": {"height": config.height, "width": config.width}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pre, indent=1), encoding="utf-8")


def _line(error: BaseException) -> str:
    """The first line of what a library had to say."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
