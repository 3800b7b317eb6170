"""A language model small enough to train from nothing in seconds: Llama architecture, own byte-level BPE."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from efface.errors import SpecError
from efface.models.folders import quiet_transformers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}{{ raise_exception('only the roles user and assistant are known') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(texts: Iterable[str], vocab: int = 1024) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on ``texts``; the same texts always give the same tokenizer.

    ``vocab`` is an upper bound on the entries, of which 4 are special tokens and 256 the bytes; so any text can be
    encoded. Special tokens: ``<|pad|>`` 0, ``<|end|>`` 1 (end of an answer), ``<|user|>`` 2, ``<|assistant|>`` 3.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, END, USER, ASSISTANT],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    width: int = 192,
    layers: int = 3,
    ff: int = 512,
    heads: int = 4,
    seed: int = 0,
    context: int = 512,
    tied: bool = True,
) -> LlamaForCausalLM:
    """A randomly initialised Llama in float32 on the CPU, in eval mode; 1.5 M parameters as it stands.

    The weights depend on ``seed`` and the sizes only; the global random state is left as it was. Of the sizes tried
    (0.8 M to 5.1 M parameters) the default one learned 300 facts exactly at the best rate per second.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if width % (2 * heads):
        raise SpecError(
            "spec.bad-value",
            f"model.tiny.width is {width}, which {heads} heads cannot share in pairs.",
            f"set it to a multiple of {2 * heads}.",
        )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=ff,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.float().eval()


def tiny_folder(
    texts: Iterable[str],
    folder: Path,
    seed: int = 0,
    *,
    vocab: int = 1024,
    width: int = 192,
    layers: int = 3,
    ff: int = 512,
    heads: int = 4,
    context: int = 512,
    tied: bool = True,
) -> Path:
    """Write an untrained tiny model and its tokenizer to ``folder`` (safetensors), as ``open_causal_lm`` reads it."""
    tokenizer = build_tokenizer(texts, vocab)
    model = tiny_model(tokenizer, width=width, layers=layers, ff=ff, heads=heads, seed=seed, context=context, tied=tied)
    tokenizer.model_max_length = context
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Path(folder)
