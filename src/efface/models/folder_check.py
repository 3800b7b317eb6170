"""Is a model folder complete, and safe to open? Looked at from outside, before anything of it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from efface.errors import ModelError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
READ = (".safetensors", ".json", ".txt", ".model", ".jinja")
AGAIN = "fetch or save the folder again."
CONVERT = "on a machine you trust, load it with transformers and save it with save_pretrained(folder)."
NATIVE = "give a model of an architecture that transformers has itself; if this is one, delete the named entry."
MERGE = "merge the adapter into its base model, save that with save_pretrained, and give the folder."
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PLAIN_PATTERN = re.compile(r"[\w.^$|\\]*")  # a regular expression that repeats nothing: it cannot run for ever
ADAPTER_READ = (  # settings of a LoRA adapter that are handed to peft
    "r",
    "target_modules",
    "exclude_modules",
    "lora_alpha",
    "fan_in_fan_out",
    "use_rslora",
    "use_dora",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)
ADAPTER_UNREAD = {  # settings of training and housekeeping, which say nothing about what the adapter computes
    "peft_type",
    "task_type",
    "peft_version",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
}
START_VALUES = (None, True, False, "gaussian", "orthogonal")  # starts that leave the base model's weights alone
SAVED = "give a folder written by save_pretrained, or a GGUF file itself."


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a complete and safe Hugging Face model, before anything of it is loaded.

    Raises ``ModelError``: ``model.missing``, ``model.adapter-folder``, ``model.no-config``, ``model.bad-config``,
    ``model.remote-code``, ``model.pickle-only``, ``model.no-weights``, ``model.missing-shards``, ``model.unsafe-file``.
    """
    if not folder.is_dir():
        raise ModelError("model.missing", f"There is no model folder {folder}.", "check the path.")
    _refuse_links(folder)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            "model.adapter-folder",
            f"{folder} holds a PEFT adapter, which would load another model behind it.",
            "audit it with `efface audit FOLDER --target BASE`, or merge it into its base model and save that.",
        )
    if not (folder / "config.json").is_file():
        raise ModelError("model.no-config", f"{folder} has no config.json.", SAVED)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _check_config(folder / name)
    _check_weights(folder)


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds a PEFT adapter, and neither a model nor an artifact of ours."""
    others = ("config.json", "artifact.json")
    return (folder / ADAPTER).is_file() and not any((folder / name).is_file() for name in others)


def adapter_base(folder: Path) -> str:
    """What an adapter says it belongs to; nothing of that name is ever opened."""
    return str(_json(folder / ADAPTER).get("base_model_name_or_path") or "")


def check_adapter(folder: Path) -> dict[str, Any]:
    """Settings of a PEFT adapter for peft's own ``LoraConfig``, after everything that can be refused with nothing
    loaded. Only plain LoRA is taken: what else peft can do changes the model around the adapter, or imports modules.

    Raises ``ModelError``: ``model.bad-config``, ``model.bad-adapter``, ``model.pickle-only``, ``model.no-weights``,
    ``model.unsafe-file``, ``model.broken``.
    """
    _refuse_links(folder)
    config = _json(folder / ADAPTER)
    if (kind := config.get("peft_type")) != "LORA":
        raise bad_adapter(f"{folder} holds an adapter of type {str(kind)[:50]!r}; only LORA can be opened.")
    if (task := config.get("task_type")) not in (None, "CAUSAL_LM"):
        raise bad_adapter(f"{folder} holds an adapter for {str(task)[:50]!r}, not for a causal language model.")
    _check_adapter_settings(folder, config)
    _check_ranks(folder, config)
    return {name: config[name] for name in ADAPTER_READ if config.get(name) is not None}


def bad_adapter(cause: str) -> ModelError:
    """The error for a PEFT adapter that is not opened."""
    return ModelError("model.bad-adapter", cause, MERGE)


def _check_adapter_settings(folder: Path, config: dict[str, Any]) -> None:
    """Nothing may be set that is not understood, and no pattern may run for ever."""
    allowed = {*ADAPTER_READ, *ADAPTER_UNREAD, "init_lora_weights", "bias"}
    for name in sorted(set(config) - allowed):
        if config[name]:
            raise bad_adapter(f"{folder / ADAPTER} sets {name[:100]!r}, which is more than a plain LoRA adapter.")
    if config.get("bias", "none") != "none":
        raise bad_adapter(f"{folder / ADAPTER} trains biases of the base model (bias: {config['bias']!r}).")
    start = config.get("init_lora_weights")
    if start not in START_VALUES:
        raise bad_adapter(f"{folder / ADAPTER} changes base weights (init_lora_weights: {str(start)[:50]!r}).")
    for name in ("exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
        value = config.get(name)
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, dict)) else []
        for text in texts:
            if not PLAIN_PATTERN.fullmatch(str(text)):
                raise bad_adapter(f"{folder / ADAPTER} has a pattern that repeats in {name}: {str(text)[:100]!r}.")


def _check_ranks(folder: Path, config: dict[str, Any]) -> None:
    """The weights are there as safetensors, and no rank is larger than any of them."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        if pickled := pickles(file.name for file in folder.iterdir()):
            raise pickle_only(str(folder), pickled[0])
        raise ModelError("model.no-weights", f"{folder} has no {ADAPTER_WEIGHTS}.", AGAIN)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as tensors:
            largest = max((n for k in tensors.keys() for n in tensors.get_slice(k).get_shape()), default=0)
    except (SafetensorError, OSError) as error:
        raise ModelError("model.broken", f"{path} cannot be read: {str(error).splitlines()[0]}", AGAIN) from None
    patterns = config.get("rank_pattern") or {}
    ranks = [config.get("r", 8), *(patterns.values() if isinstance(patterns, dict) else [None])]
    if not all(isinstance(r, int) and 0 < r <= largest for r in ranks):
        raise bad_adapter(f"{folder / ADAPTER} has a rank that is not that of its weights.")


def _check_config(path: Path) -> None:
    config = _json(path)
    if config.get("auto_map"):
        raise _remote_code(f"{path} has an auto_map: it wants to run Python code of its own.")
    for key, value in config.items():
        if "attn_implementation" in key and "/" in json.dumps(value):
            raise _remote_code(f"{path} asks for attention code from a hub ({key}: {value}).")
        # transformers 5.17 opens files named here as they stand, wherever they are
        names_files = key in ("transformers_weights", "fast_tokenizer_files") or key.endswith("_file")
        if names_files and key != "special_tokens_map_file":  # many folders keep a stale path there; it is never opened
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and not _plain(name):
                    raise _unsafe(f"{path} names a file outside the folder ({key}: {name}).", "delete that entry.")


def _check_weights(folder: Path) -> None:
    if (folder / "model.safetensors").is_file():
        return
    if (folder / "model.safetensors.index.json").is_file():
        _check_shards(folder, folder / "model.safetensors.index.json")
        return
    pickled = pickles(path.name for path in folder.iterdir())
    if pickled:
        raise pickle_only(str(folder), pickled[0])
    raise ModelError("model.no-weights", f"{folder} has no model.safetensors.", SAVED)


def pickles(names: Iterable[str]) -> list[str]:
    """Those of the file names that look like weights in a format other than safetensors, sorted."""
    return sorted(name for name in names if name.endswith(PICKLES) and name != "training_args.bin")


def pickle_only(where: str, name: str) -> ModelError:
    """The error for a model whose weights exist only in a format that can run code."""
    cause = f"{where} has its weights only as {name}, which can run code when opened."
    return ModelError("model.pickle-only", cause, CONVERT)


def _check_shards(folder: Path, index: Path) -> None:
    shards = _json(index).get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    unsafe = [name for name in names if not _plain(name) or not name.endswith(".safetensors")]
    if unsafe or not names:
        raise _unsafe(f"{index} has no proper weight_map ({(unsafe or ['empty'])[0]}).", AGAIN)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        cause = f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}."
        raise ModelError("model.missing-shards", cause, AGAIN)


def _refuse_links(folder: Path) -> None:
    """A link may stay in the folder, or lead to the blobs of the hub cache that the folder is a snapshot of."""
    home = folder.resolve()
    allowed = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    for path in home.rglob("*"):
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in allowed):
            raise _unsafe(f"{path} is a link to a place outside the folder.", "copy the file itself into the folder.")


def _plain(name: str) -> bool:
    return Path(name).name == name and "\\" not in name and name.endswith(READ)


def _remote_code(cause: str) -> ModelError:
    return ModelError("model.remote-code", cause, NATIVE)


def _unsafe(cause: str, fix: str) -> ModelError:
    return ModelError("model.unsafe-file", cause, fix)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ModelError("model.bad-config", f"{path} is not a JSON object.", AGAIN)
    return content
