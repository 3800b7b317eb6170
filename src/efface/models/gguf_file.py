"""Reading the parts of a GGUF file: metadata of the right types, tensors as float32, and errors that name the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from efface.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFReader

USE_ORIGINAL = "give the original Hugging Face folder (safetensors and tokenizer.json) of this model instead."
# Types of metadata, by the last part of the key: (type, type of the items); everything else is a number.
KINDS = {
    **dict.fromkeys(("architecture", "type", "name", "model", "pre", "chat_template"), (str, None)),
    **dict.fromkeys(("tokens", "merges"), (list, str)),
    "token_type": (list, int),
}


def open_file(path: Path) -> GGUFReader:
    """The file, mapped into memory."""
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as error:
        raise broken(f"{path} cannot be read as a GGUF file: {error}.") from error


def read_metadata(reader: GGUFReader, path: Path) -> Callable[..., Any]:
    """``metadata(key, default)``, of the type that belongs to the key; without a default a missing key is an error."""

    def get(key: str, *default: Any) -> Any:
        field = reader.get_field(key)
        if field is None and default:
            return default[0]
        try:
            value = field.contents() if field else None
        except ValueError:  # text that is not UTF-8
            value = None
        kind, of = KINDS.get(key.rpartition(".")[2], ((int, float), None))
        if not isinstance(value, kind) or (of and not all(isinstance(item, of) for item in value)):
            raise broken(f"{path} does not say {key}, or not as it should.")
        return value

    return get


def dequantised(tensor: Any, path: Path) -> Tensor:
    """Float32[out, in] of one stored tensor."""
    from gguf.quants import dequantize

    try:
        values = dequantize(tensor.data, tensor.tensor_type)
    except (NotImplementedError, ValueError) as error:
        raise unread(f"{path}: {tensor.name} is stored as {tensor.tensor_type.name}, which is not read.") from error
    # float32 files are mapped read-only, and torch wants memory it may write
    return torch.from_numpy(np.array(values, dtype=np.float32))


def broken(cause: str) -> ModelError:
    """The error for a file that is damaged."""
    return ModelError("model.gguf-broken", cause, "fetch the file again.")


def unread(cause: str) -> ModelError:
    """The error for a file with something in it that would be lost."""
    return ModelError("model.gguf-feature", cause, USE_ORIGINAL)
