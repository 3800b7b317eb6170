"""Read a GGUF file of the Llama architecture once, and keep it as an ordinary bfloat16 safetensors folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from efface.errors import ModelError
from efface.models.cachedir import cache_root, publish
from efface.models.gguf_file import USE_ORIGINAL, broken, dequantised, open_file, read_metadata, unread
from efface.models.gguf_tokenizer import build_tokenizer
from efface.progress import SILENT, Progress

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import LlamaConfig

VERSION = 1  # of this conversion; part of the folder's name, so that a change here makes new folders
ORIGIN_FILE = "origin.json"
TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
PER_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Settings of the architecture that are not carried over; with any other value the file is refused.
PLAIN = {"llama.rope.scaling.type": ("none", None), "llama.expert_count": (0, None)}


def converted_folder(sha256: str) -> Path:
    """Where the conversion of the GGUF file with this SHA-256 is kept, whether or not it exists."""
    return cache_root() / "models" / f"gguf-{sha256[:32]}-v{VERSION}"


def convert(path: Path, sha256: str, *, progress: Progress = SILENT) -> Path:
    """The Hugging Face folder of a GGUF file: bf16 safetensors, configuration, tokenizer and chat template.

    ``sha256`` is that of the file; the folder is named after it and made only once. Rotary weights come back to the
    row order of Hugging Face (llama.cpp stores queries and keys permuted). Raises ``ModelError`` ``model.gguf-*`` for
    a file that is broken, of another architecture, or has a feature that would be lost; ``RunFailed`` ``disk.full``.
    """
    folder = converted_folder(sha256)
    if folder.is_dir():
        return folder
    reader = open_file(path)
    architecture = read_metadata(reader, path)("general.architecture", "")
    if architecture != "llama":
        raise ModelError(
            "model.gguf-architecture",
            f"{path} holds a model of architecture {architecture!r}; only 'llama' is read.",
            USE_ORIGINAL,
        )
    needed = 2 * sum(int(tensor.n_elements) for tensor in reader.tensors) + 2**24  # bf16, and the tokenizer files
    return publish(folder, lambda target: _write(reader, path, sha256, target, progress), needed=needed)


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's row order of a query or key projection. ``weight`` Float[heads * d, width].

    Within a head llama.cpp interleaves the two halves that the rotary embedding pairs (rows 0, d/2, 1, d/2 + 1, ...);
    transformers keeps the halves one after the other.
    """
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def _write(reader: GGUFReader, path: Path, sha256: str, target: Path, progress: Progress) -> None:
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    get = read_metadata(reader, path)
    config = _config(reader, path)
    tokenizer = build_tokenizer(get, config.max_position_embeddings, str(path))
    save_file(_weights(reader, config, path, progress), target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    ends = {get(f"tokenizer.ggml.{key}_token_id", None) for key in ("eos", "eot", "eom")} - {None}
    GenerationConfig(
        bos_token_id=config.bos_token_id, pad_token_id=config.pad_token_id, eos_token_id=sorted(ends) or None
    ).save_pretrained(target)
    tokenizer.save_pretrained(target)
    origin = {"format": "gguf", "sha256": sha256, "name": get("general.name", "")}
    (target / ORIGIN_FILE).write_text(json.dumps(origin, indent=2), encoding="utf-8")


def _config(reader: GGUFReader, path: Path) -> LlamaConfig:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlamaConfig

    get = read_metadata(reader, path)
    for key, allowed in PLAIN.items():
        if get(key, None) not in allowed:
            raise unread(f"{path} sets {key} to {get(key)!r}, which cannot be carried over.")
    shapes = {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors}
    width, vocabulary = (shapes.get("token_embd.weight", []) + [0, 0])[:2]
    heads, blocks = get("llama.attention.head_count"), get("llama.block_count")
    if not 0 < heads <= width or len(PER_BLOCK) * blocks > len(shapes):
        raise broken(f"{path} lacks tensors of the {blocks} blocks and {heads} heads that it should have.")
    head_width = get("llama.attention.key_length", width // heads)
    if get("llama.rope.dimension_count", head_width) != head_width:
        raise unread(f"{path} rotates only a part of each head, which cannot be carried over.")
    try:
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=get("llama.feed_forward_length"),
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            head_dim=head_width,
            num_key_value_heads=get("llama.attention.head_count_kv", heads),
            max_position_embeddings=get("llama.context_length"),
            rms_norm_eps=_shortest(get("llama.attention.layer_norm_rms_epsilon")),
            rope_parameters={"rope_type": "default", "rope_theta": _shortest(get("llama.rope.freq_base", 10000.0))},
            tie_word_embeddings="output.weight" not in shapes,
            architectures=["LlamaForCausalLM"],
            dtype="bfloat16",
            **{
                f"{name}_id": get(f"tokenizer.ggml.{key}_token_id", None)
                for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"))
            },
        )
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise broken(f"{path} describes no valid Llama model: {error}.") from error


def _shortest(value: float) -> float:
    """The short decimal that a float32 stands for: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _weights(reader: GGUFReader, config: LlamaConfig, path: Path, progress: Progress) -> dict[str, Tensor]:
    expected = _expected(config)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    weights: dict[str, Tensor] = {}
    with progress.step(f"reading {path.name}", total=len(reader.tensors)) as step:
        for tensor in reader.tensors:
            name, weight = _hugging_face_name(tensor.name), dequantised(tensor, path)
            if expected.get(name) != tuple(weight.shape):
                raise unread(f"{path}: tensor {tensor.name} {tuple(weight.shape)} has no place in this Llama model.")
            part = name.split(".")[-2]
            weight = unpermute(weight, heads[part]) if part in heads else weight
            weights[name] = weight.to(torch.bfloat16).contiguous()
            progress.advance(step)
    missing = sorted(set(expected) - set(weights))
    if missing:
        raise broken(f"{path} lacks {len(missing)} tensors, the first is {missing[0]}.")
    return weights


def _expected(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every weight of the model, from a model without memory behind it."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        state = LlamaForCausalLM(config).state_dict()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(value.shape) for name, value in state.items() if name not in tied}


def _hugging_face_name(name: str) -> str:
    """Name of a llama.cpp tensor in transformers; empty if there is none."""
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in PER_BLOCK and parts[3] == "weight":
        return f"model.layers.{parts[1]}.{PER_BLOCK[parts[2]]}.weight"
    return TOP_LEVEL.get(name, "")
