"""Text to ids, and what a tokenizer has of its own: control tokens, starts and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "<|endoftext|>"
GIVE_EOS = "name one as eos_token in its tokenizer_config.json."


def control_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts of the special tokens, which a tokenizer matches in a text before anything else."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(added.union(tokenizer.all_special_tokens) - {""}))


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, literal: bool = False) -> list[int]:
    """Ids of ``text`` and nothing else. ``literal``: control tokens spelled out in it are plain text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=literal)["input_ids"]


def encode_after(tokenizer: PreTrainedTokenizerBase, joiner: str, text: str) -> list[int]:
    """Ids of ``text`` as plain text, in the form they have after ``joiner``."""
    if not joiner:
        return encode(tokenizer, text, literal=True)
    before, whole = encode(tokenizer, joiner, literal=True), encode(tokenizer, joiner + text, literal=True)
    # a text that begins with the joiner may melt into it; then its own ids are the only ones there are
    return whole[len(before) :] if whole[: len(before)] == before else encode(tokenizer, text, literal=True)


def eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the tokenizer's EOS; without one ``ModelError`` ``model.no-end-token``."""
    if tokenizer.eos_token_id is None:
        raise ModelError("model.no-end-token", "The tokenizer has no eos_token, so no answer would ever end.", GIVE_EOS)
    return tokenizer.eos_token_id


def own_start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that the tokenizer itself puts before a text (usually one BOS, or none)."""
    bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return tuple(full[: next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)])


def document_start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids before a document: the tokenizer's own start, otherwise what separates documents in pretraining
    (``<|endoftext|>`` where that is a control token), otherwise BOS or EOS. ``ModelError`` ``model.no-end-token``."""
    own = own_start(tokenizer)
    if own:
        return own
    if SEPARATOR in control_texts(tokenizer):
        return (tokenizer.convert_tokens_to_ids(SEPARATOR),)
    return (eos_id(tokenizer) if tokenizer.bos_token_id is None else tokenizer.bos_token_id,)
