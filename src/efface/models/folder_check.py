"""Is a model folder complete, and safe to open? Looked at from outside, before anything of it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from efface.errors import ModelError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
READ = (".safetensors", ".json", ".txt", ".model", ".jinja")
AGAIN = "fetch or save the folder again."
CONVERT = "on a machine you trust, load it with transformers and save it with save_pretrained(folder)."
NATIVE = "give a model of an architecture that transformers has itself; if this is one, delete the named entry."
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
            "merge the adapter into its base model and save that.",
        )
    if not (folder / "config.json").is_file():
        raise ModelError("model.no-config", f"{folder} has no config.json.", SAVED)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _check_config(folder / name)
    _check_weights(folder)


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
