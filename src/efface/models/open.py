"""Opening a model of any family from a folder, by what the folder says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from efface.errors import ModelError
from efface.models.base import ModelAdapter
from efface.models.folder_check import ADAPTER_WEIGHTS, bad_adapter, check_adapter

PREFIX = "base_model.model."  # what peft puts before the names of a model's modules


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


def open_adapter(folder: Path, target: ModelAdapter) -> ModelAdapter:
    """A copy of ``target`` with the PEFT adapter of ``folder`` on it. Only ``adapter_model.safetensors`` is read, and
    the adapter has no say in what it is put on: every tensor must have its place there, and every place its tensor.

    Raises ``ModelError``: see ``check_adapter``; ``model.bad-adapter`` if it does not fit.
    """
    settings = check_adapter(folder)
    if target.family != "causal_lm":
        raise bad_adapter(f"{folder} holds an adapter for a language model, and the target is a {target.family}.")
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    model = target.clone()
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    if isinstance(settings.get("target_modules"), str):  # a pattern: the weights say what it found
        settings["target_modules"] = sorted({name.split(".lora_")[0].removeprefix(PREFIX) for name in tensors})
    try:
        model.module = get_peft_model(model.module, LoraConfig(**settings, task_type="CAUSAL_LM"))  # type: ignore[arg-type]
    except Exception as error:  # peft and torch raise many kinds
        why = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise bad_adapter(f"The adapter in {folder} cannot be put on the target: {why}") from error
    _fill(model, tensors, folder)
    model.module.eval()
    return model


def _fill(model: Any, tensors: dict[str, Any], folder: Path) -> None:
    """Put the tensors of an adapter in their places."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    ends = [model.hf.get_input_embeddings(), model.hf.get_output_embeddings()]
    if model.hf.config.tie_word_embeddings and any(hasattr(end, "lora_A") for end in ends):
        raise bad_adapter(f"The adapter in {folder} changes one end of tied embeddings, and would untie them.")
    places = get_peft_model_state_dict(model.module, save_embedding_layers=False)
    for name in sorted({*places, *tensors}):
        there, given = (tuple(found[name].shape) if name in found else None for found in (places, tensors))
        if there != given:
            told = f"{name[:200]} is {given or 'missing'} in the adapter and {there or 'missing'} on the target"
            raise bad_adapter(f"The adapter in {folder} does not fit the target: {told}.")
    set_peft_model_state_dict(model.module, tensors)


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
