"""Opening a model folder from a stranger: safetensors only, no code from it, nothing read from outside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from efface.errors import ModelError
from efface.models.cachedir import file_sha256
from efface.models.folder_check import AGAIN, READ, check_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def open_causal_lm(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Causal language model and tokenizer of a local Hugging Face folder: on the CPU, in eval mode, in ``dtype``.

    Never unpickles, never runs code from the folder, follows no link out of it, and asks nothing of the network.
    Weights that the files lack are an error, where transformers would draw them at random.

    Raises ``ModelError``: see ``check_folder``; ``model.no-tokenizer``, ``model.not-causal``, ``model.broken``,
    ``model.missing-weights``, ``model.vocabulary``.
    """
    folder = Path(folder)
    check_folder(folder)
    with quiet_transformers():
        tokenizer = _load_tokenizer(folder)
        model = _load_model(folder, dtype)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            "model.vocabulary",
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, the model only {rows}.",
            "use the tokenizer that belongs to this model, or save the model with resized embeddings.",
        )
    return model, tokenizer


def content_sha256(folder: Path) -> str:
    """SHA-256 (hex) over names and contents of all files that loading may read: weights, configuration, tokenizer."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in READ and path.is_file():
            total.update(f"{path.name}\0{file_sha256(path)}\n".encode())
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


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    fix = "copy tokenizer.json and tokenizer_config.json of the model into it."
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError("model.no-tokenizer", f"{folder} has no tokenizer.", fix)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers and the Rust library behind it raise many kinds
        cause = f"The tokenizer in {folder} cannot be loaded: {_line(error)}"
        raise ModelError("model.no-tokenizer", cause, fix) from error


def _load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        if "Unrecognized configuration class" in str(error):
            raise ModelError(
                "model.not-causal",
                f"The model in {folder} is not a causal language model.",
                "give a decoder-only language model.",
            ) from error
        raise ModelError("model.broken", f"The model in {folder} cannot be loaded: {_line(error)}", AGAIN) from error
    missing = sorted(str(name) for name in info["missing_keys"])
    if missing:
        cause = f"The files in {folder} lack {len(missing)} weights of the model, the first is {missing[0]}."
        raise ModelError("model.missing-weights", cause, AGAIN)
    return model.eval()


def _line(error: Exception) -> str:
    """The first line of what a library had to say."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
