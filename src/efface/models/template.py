"""Template: how a question and an answer become tokens. The only place where prompts are formatted."""

from __future__ import annotations

import datetime
import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from efface.errors import DataError, ModelError, SpecError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAIN = "Question: {question}\nAnswer: "
TODAY = datetime.date(2024, 7, 26)  # what a template that prints the date gets, so that prompts are the same every day
PROBE_QUESTION, PROBE_ANSWER = "qqq", "zzz"
USE_PLAIN = "--set model.template=plain"
GIVE_EOS = "name one as eos_token in its tokenizer_config.json."
VERSION = 1


@dataclass(frozen=True, slots=True)
class Template:
    """Format of prompts for one tokenizer; made by ``Template.choose``.

    ``kind``: ``chat``, ``plain`` or ``custom``. ``source``: the chat template or format string. ``prefix``: text after
    the generation prompt that belongs to the prompt (an empty reasoning block). ``lead``: blanks before the answer's
    text. ``start``: ids before a plain prompt. ``end``: ids after an answer, the last one stops generation. ``joiner``:
    text after which an answer is tokenised, for tokenizers that would put a blank before a text of its own.
    ``control``: texts of the tokenizer's control tokens.
    """

    kind: str
    source: str
    prefix: str
    lead: str
    start: tuple[int, ...]
    end: tuple[int, ...]
    joiner: str
    control: tuple[str, ...]

    @classmethod
    def choose(cls, name: str, tokenizer: PreTrainedTokenizerBase) -> Template:
        """``auto`` and ``chat``: the tokenizer's chat template; ``plain``: "Question: ... Answer: ..."; otherwise a
        format string with ``{question}``, whose blanks at the end go to the answer.

        Raises ``ModelError`` ``model.no-template``, ``model.bad-template``, ``model.no-end-token``; ``SpecError``
        ``spec.bad-template``.
        """
        if name in ("auto", "chat"):
            return _chat(tokenizer)
        if name != "plain" and name.count("{question}") != 1:
            raise SpecError("spec.bad-template",
                            f"model.template is {name!r}: neither a known name nor a format with one {{question}}.",
                            nearest(name, ("auto", "chat", "plain")))
        kind, text = ("plain", PLAIN) if name == "plain" else ("custom", name)
        body = text.rstrip(" ")
        lead = text[len(body):]
        joiner = _joiner(tokenizer, body.replace("{question}", PROBE_QUESTION), lead)
        return cls(kind, body, "", lead, own_start(tokenizer), (_eos(tokenizer),), joiner, _control(tokenizer))

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
        """Ids of everything up to where the answer starts. A control token spelled out in ``question`` stays text."""
        if self.kind == "chat":
            text = _render(tokenizer, [{"role": "user", "content": question}], generate=True) + self.prefix
            return self._encode_prompt(tokenizer, text, question)
        return [*self.start, *self._encode_prompt(tokenizer, self.source.replace("{question}", question), question)]

    def answer_ids(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
        """Ids of ``answer``, tokenised apart from the prompt, up to and with the token that ends it."""
        return [*_encode_after(tokenizer, self.joiner, self.lead + answer), *self.end]

    def document_ids(self, tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
        """``(prefix, body)`` of a plain document: what stands before its first token, and its own tokens."""
        return list(document_start(tokenizer)), _encode(tokenizer, text, literal=True)

    def digest(self) -> str:
        """Hash (hex) of everything here that changes ids, for cache keys. The tokenizer itself is not part of it."""
        content = json.dumps([VERSION, TODAY.isoformat(), asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _encode_prompt(self, tokenizer: PreTrainedTokenizerBase, text: str, question: str) -> list[int]:
        """A question that spells out a control token must not end its own turn: it is then tokenised apart, as text."""
        if not any(token in question for token in self.control):
            return _encode(tokenizer, text)
        question = question if question in text else question.strip()
        if text.count(question) != 1:
            raise DataError("data.control-token",
                            f"A question contains a control token of the model: {question[:80]!r}.",
                            "take the token out of the row.")
        before, after = text.split(question)
        middle = _encode_after(tokenizer, self.joiner, question)
        return [*_encode(tokenizer, before), *middle, *_encode(tokenizer, after)]


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that end a generation: of the generation settings, the configuration, the tokenizer, the chat template."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    if tokenizer.chat_template:
        with suppress(ModelError):  # a chat template that does not work cannot have been chosen, so it ends nothing
            found.add(_chat(tokenizer).end[-1])
    return found


def own_start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that the tokenizer itself puts before a text (usually one BOS, or none)."""
    bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    return tuple(full[:next((at for at in range(len(full)) if full[at:at + len(bare)] == bare), 0)])


def document_start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids before a document, at least one, so that its first token can be scored: the tokenizer's own start, otherwise
    what separates documents in pretraining (``<|endoftext|>`` where there is one), otherwise BOS or EOS."""
    own = own_start(tokenizer)
    separator = tokenizer.get_vocab().get("<|endoftext|>")
    found = [token for token in (separator, tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None]
    if not own and not found:
        raise ModelError("model.no-end-token", "The tokenizer has no token that could start or end a text.", GIVE_EOS)
    return own or (found[0],)


def _chat(tokenizer: PreTrainedTokenizerBase) -> Template:
    if not tokenizer.chat_template:
        raise ModelError("model.no-template", "The tokenizer has no chat template.", USE_PLAIN)
    ask = [{"role": "user", "content": PROBE_QUESTION}]
    prompt = _render(tokenizer, ask, generate=True)
    whole = _render(tokenizer, [*ask, {"role": "assistant", "content": PROBE_ANSWER}], generate=False)
    at = whole.rfind(PROBE_ANSWER)
    if at < 0 or PROBE_QUESTION not in prompt:
        raise ModelError("model.bad-template", "The chat template leaves out the question or the answer.", USE_PLAIN)
    between = whole[len(prompt):at] if whole.startswith(prompt) else ""
    prefix = between.rstrip(" ")
    lead = between[len(prefix):]
    end = _end(tokenizer, whole[at + len(PROBE_ANSWER):])
    joiner = _joiner(tokenizer, prompt + prefix, lead)
    return Template("chat", json.dumps(tokenizer.chat_template), prefix, lead, (), end, joiner, _control(tokenizer))


def _joiner(tokenizer: PreTrainedTokenizerBase, prompt: str, lead: str) -> str:
    """The text after which an answer gets the ids it would have right behind the prompt: none for byte-level
    tokenizers, a line break for those that put a blank before every text (sentencepiece)."""
    wanted = _encode(tokenizer, prompt + lead + PROBE_ANSWER)
    before = _encode(tokenizer, prompt)
    fitting = (text for text in ("", "\n") if before + _encode_after(tokenizer, text, lead + PROBE_ANSWER) == wanted)
    return next(fitting, "")


def _end(tokenizer: PreTrainedTokenizerBase, tail: str) -> tuple[int, ...]:
    """Ids from the end of an answer to the first control token after it; EOS if the template writes none."""
    ids = _encode(tokenizer, tail)
    control = set(tokenizer.convert_tokens_to_ids(list(_control(tokenizer))))
    stop = next((at for at, token in enumerate(ids) if token in control), None)
    return (_eos(tokenizer),) if stop is None else tuple(ids[:stop + 1])


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError("model.no-end-token", "The tokenizer has no eos_token, so no answer would ever end.", GIVE_EOS)
    return tokenizer.eos_token_id


def _control(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts of the special tokens, which a tokenizer matches in a text before anything else."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(added.union(tokenizer.all_special_tokens)))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, literal: bool = False) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=literal)["input_ids"]


def _encode_after(tokenizer: PreTrainedTokenizerBase, joiner: str, text: str) -> list[int]:
    """Ids of ``text`` as plain text, in the form they have after ``joiner``."""
    if not joiner:
        return _encode(tokenizer, text, literal=True)
    before, whole = _encode(tokenizer, joiner, literal=True), _encode(tokenizer, joiner + text, literal=True)
    # a text that begins with the joiner may melt into it; then its own ids are the only ones there are
    return whole[len(before):] if whole[:len(before)] == before else _encode(tokenizer, text, literal=True)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, generate: bool) -> str:
    """The text of a conversation. Not tokenised here: in transformers 5 that gives a BatchEncoding, and double BOS."""
    from jinja2 import TemplateError

    options: dict[str, Any] = {"strftime_now": TODAY.strftime}
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate, **options)
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise ModelError("model.bad-template", f"The chat template fails: {error}.", USE_PLAIN) from error
