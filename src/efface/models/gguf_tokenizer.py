"""A tokenizer out of the metadata of a GGUF file: byte-level BPE, pre-tokenised as the file says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from efface.errors import ModelError
from efface.models.gguf_file import USE_ORIGINAL

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def build_tokenizer(metadata: Callable[..., Any], context: int, file: str) -> PreTrainedTokenizerFast:
    """The tokenizer that ``metadata(key, default)`` describes; ``context`` is the longest input in tokens.

    transformers has a conversion of its own, but it does not know the pre-tokenizer ``smollm``: blanks and line breaks
    before a digit come out as other tokens than those the model was trained on. So the parts are put together here.

    Raises ``ModelError`` ``model.gguf-tokenizer`` for another vocabulary or pre-tokenizer than those known here.
    """
    from transformers import PreTrainedTokenizerFast

    tokens = metadata("tokenizer.ggml.tokens", [])
    named = {
        name: _token(tokens, metadata(f"tokenizer.ggml.{key}_token_id", None), file) for name, key in NAMED.items()
    }
    bpe = _byte_level(metadata, tokens, file)
    _add_special(bpe, tokens, metadata("tokenizer.ggml.token_type", []))
    if metadata("tokenizer.ggml.add_bos_token", False) and named["bos_token"]:
        _prepend(bpe, named["bos_token"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in named.items() if token is not None},
    )
    template = metadata("tokenizer.chat_template", None)
    if template:
        tokenizer.chat_template = template
    return tokenizer


def _byte_level(metadata: Callable[..., Any], tokens: list[str], file: str) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models

    kind = metadata("tokenizer.ggml.model", "")
    if kind != "gpt2" or not tokens:
        raise _refused(f"{file} has a vocabulary of kind {kind!r}; only byte-level BPE ('gpt2') is read.")
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in metadata("tokenizer.ggml.merges", [])]
    if len(vocab) != len(tokens) or any(len(pair) != 2 for pair in merges):
        raise _refused(f"{file} has a vocabulary with repeated tokens or malformed merges.")
    try:
        bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:  # the Rust library has no exception class of its own
        raise _refused(f"{file} has merges that do not fit its vocabulary: {error}.") from error
    bpe.pre_tokenizer = _pre_tokenizer(metadata("tokenizer.ggml.pre", ""), file)
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _pre_tokenizer(name: str, file: str) -> Any:
    from tokenizers import pre_tokenizers

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    known = {"gpt-2": gpt2, "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])}
    if name not in known:
        raise _refused(f"{file} asks for the pre-tokenizer {name!r}; known are {', '.join(sorted(known))}.")
    return known[name]


def _add_special(bpe: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Make control and user-defined tokens whole: they are matched in the text before anything is split."""
    from tokenizers import AddedToken

    for token, kind in zip(tokens, types, strict=False):
        if kind == CONTROL:
            bpe.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            bpe.add_tokens([AddedToken(token, normalized=False, special=False)])


def _prepend(bpe: Tokenizer, token: str) -> None:
    from tokenizers import processors

    bpe.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B:1", special_tokens=[(token, bpe.token_to_id(token))]
    )


def _token(tokens: list[str], index: int | None, file: str) -> str | None:
    if index is None:
        return None
    if not 0 <= index < len(tokens):
        raise _refused(f"{file} names token {index}, but its vocabulary has {len(tokens)} tokens.")
    return tokens[index]


def _refused(cause: str) -> ModelError:
    return ModelError("model.gguf-tokenizer", cause, USE_ORIGINAL)
