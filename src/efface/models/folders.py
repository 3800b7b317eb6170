"""Opening a model folder from a stranger: safetensors only, no code from it, nothing read from outside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json")
READ = (".safetensors", ".json", ".txt", ".model", ".jinja")
CONVERT = ("convert it on a machine you trust: load it with transformers and call save_pretrained(folder, safe_serialization=True).")


def open_causal_lm(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model and tokenizer of a local Hugging Face folder: on the CPU, in eval mode, weights in ``dtype``.

    Never unpickles, never runs code from the folder, follows no link out of it, and asks nothing of the network.
    Weights that the files lack are an error, where transformers would draw them at random.

    Raises ``ModelError``: see ``check_folder``; ``model.no-tokenizer``, ``model.not-causal``, ``model.broken``,
    ``model.missing-weights``, ``model.vocabulary``.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    check_folder(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError("model.no-tokenizer", f"{folder} has no tokenizer.", "copy tokenizer.json and tokenizer_config.json of the model into it.")
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # transformers and the Rust library behind it raise many kinds
            raise ModelError("model.no-tokenizer", f"The tokenizer in {folder} cannot be loaded: {_line(error)}",
                             "copy tokenizer.json and tokenizer_config.json of the model into the folder again.") from error
        model = _load(folder, dtype)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError("model.vocabulary", f"The tokenizer in {folder} has {len(tokenizer)} tokens, the model only {rows}.",
                         "use the tokenizer that belongs to this model, or save the model with resized embeddings.")
    return model, tokenizer


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a complete and safe Hugging Face model, before anything of it is loaded.

    Raises ``ModelError``: ``model.missing``, ``model.adapter-folder``, ``model.no-config``, ``model.bad-config``,
    ``model.remote-code``, ``model.pickle-only``, ``model.no-weights``, ``model.missing-shards``, ``model.unsafe-file``.
    """
    if not folder.is_dir():
        raise ModelError("model.missing", f"There is no model folder {folder}.", "check the path.")
    _refuse_links(folder)
    if (folder / "adapter_config.json").is_file():
        raise ModelError("model.adapter-folder", f"{folder} holds a PEFT adapter, which would load another model behind it.",
                         "merge the adapter into its base model and save that.")
    if not (folder / "config.json").is_file():
        raise ModelError("model.no-config", f"{folder} has no config.json.", "give a folder written by save_pretrained, or a GGUF file.")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _check_config(folder / name)
    _check_weights(folder)


def content_sha256(folder: Path) -> str:
    """SHA-256 (hex) over names and contents of all files that loading may read: weights, configuration, tokenizer."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in READ and path.is_file():
            with open(path, "rb") as handle:
                total.update(f"{path.name}\0{hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the progress bars that transformers draws on standard error while it loads or saves."""
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            logging.enable_progress_bar()


def _load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True)
    except Exception as error:
        if "Unrecognized configuration class" in str(error):
            raise ModelError("model.not-causal", f"The model in {folder} is not a causal language model.",
                             "give a decoder-only language model.") from error
        raise ModelError("model.broken", f"The model in {folder} cannot be loaded: {_line(error)}", "fetch or save the folder again.") from error
    missing = sorted(str(name) for name in info["missing_keys"])
    if missing:
        raise ModelError("model.missing-weights", f"The files in {folder} lack {len(missing)} weights of the model, the first is {missing[0]}.",
                         "fetch or save the folder again.")
    return model.eval()


def _check_config(path: Path) -> None:
    config = _json(path)
    fix = "give a model of an architecture that transformers has itself; if this is one, delete the named entry."
    if config.get("auto_map"):
        raise ModelError("model.remote-code", f"{path} has an auto_map: it wants to run Python code that comes with the model.", fix)
    for key, value in config.items():
        if "attn_implementation" in key and "/" in json.dumps(value):
            raise ModelError("model.remote-code", f"{path} asks for attention code from a hub ({key}: {value}).", fix)
        # transformers 5.17 opens the files named here as they stand, wherever they are
        named = value if isinstance(value, list) else [value]
        if key in ("transformers_weights", "fast_tokenizer_files") or (key.endswith("_file") and key != "special_tokens_map_file"):
            for name in named:
                if isinstance(name, str) and not _plain(name):
                    raise ModelError("model.unsafe-file", f"{path} names a file outside the folder ({key}: {name}).", "delete that entry.")


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        shards = _json(index).get("weight_map")
        names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
        unsafe = [name for name in names if not _plain(name) or not name.endswith(".safetensors")]
        if unsafe or not names:
            raise ModelError("model.unsafe-file", f"{index} has no proper weight_map ({(unsafe or ['empty'])[0]}).", "fetch the folder again.")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError("model.missing-shards", f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}.",
                             "fetch the missing files.")
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES and path.name != "training_args.bin")
    if pickled:
        raise ModelError("model.pickle-only", f"{folder} has its weights only as {pickled[0]}; such a file can run code when it is opened.", CONVERT)
    raise ModelError("model.no-weights", f"{folder} has no model.safetensors.", "give a folder written by save_pretrained, or a GGUF file itself.")


def _refuse_links(folder: Path) -> None:
    """A link may stay in the folder, or lead to the blobs of the hub cache that the folder is a snapshot of."""
    allowed = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        allowed.append(folder.resolve().parent.parent / "blobs")
    for path in folder.rglob("*"):
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in allowed):
            raise ModelError("model.unsafe-file", f"{path} is a link to a place outside the folder.", "copy the file itself into the folder.")


def _plain(name: str) -> bool:
    return Path(name).name == name and "\\" not in name and name.endswith(READ)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ModelError("model.bad-config", f"{path} is not a JSON object.", "fetch or save the folder again.")
    return content


def _line(error: Exception) -> str:
    """The first line of what a library had to say."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
