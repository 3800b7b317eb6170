"""Template: how a question and an answer become tokens. The only place where prompts are formatted."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from efface.errors import DataError, ModelError, SpecError, nearest
from efface.models.token_ids import control_texts, document_start, encode, encode_after, eos_id, own_start

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAIN = "Question: {question}\nAnswer: "
TODAY = datetime.date(2024, 7, 26)  # what a template that prints the date gets
PROBE_QUESTION, PROBE_ANSWER = "qqq", "zzz"
DATE_CALL = re.compile(r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)""")
USE_PLAIN = "--set model.template=plain"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Template:
    """Format of prompts for one tokenizer; made by ``Template.choose``.

    ``kind``: ``chat``, ``plain`` or ``custom``. ``source``: the chat template or format string. ``prefix``: text after
    the generation prompt that belongs to the prompt (an empty reasoning block). ``lead``: blanks before the answer's
    text. ``start``: ids before a plain prompt. ``end``: ids after an answer, the last one stops generation. ``joiner``:
    text after which an answer is tokenised, for tokenizers that would put a blank before a text of its own.
    ``document``: ids before a plain document. ``control``: texts of the tokenizer's control tokens.
    """

    kind: str
    source: str
    prefix: str
    lead: str
    start: tuple[int, ...]
    end: tuple[int, ...]
    joiner: str
    document: tuple[int, ...]
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
            raise SpecError(
                "spec.bad-template",
                f"model.template is {name!r}: neither a known name nor a format with one {{question}}.",
                nearest(name, ("auto", "chat", "plain")),
            )
        kind, text = ("plain", PLAIN) if name == "plain" else ("custom", name)
        body = text.rstrip(" ")
        lead = text[len(body) :]
        joiner = _joiner(tokenizer, body.replace("{question}", PROBE_QUESTION), lead)
        return cls(
            kind,
            body,
            "",
            lead,
            own_start(tokenizer),
            (eos_id(tokenizer),),
            joiner,
            document_start(tokenizer),
            control_texts(tokenizer),
        )

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, question: str, suffix: Sequence[int] = ()) -> list[int]:
        """Ids of everything up to where the answer starts. A control token spelled out in ``question`` stays text.

        ``suffix``: ids put right behind the question, inside its turn.
        """
        if self.kind == "chat":
            text = _render(tokenizer, self.source, [{"role": "user", "content": question}]) + self.prefix
        else:
            text = self.source.replace("{question}", question)
        return [*self.start, *self._encode_prompt(tokenizer, text, question, suffix)]

    def forced_ids(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """Ids of ``text`` as the start of an answer that goes on after it."""
        return encode_after(tokenizer, self.joiner, self.lead + text)

    def answer_ids(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
        """Ids of ``answer``, tokenised apart from the prompt, up to and with the token that ends it."""
        return [*encode_after(tokenizer, self.joiner, self.lead + answer), *self.end]

    def continued_ids(self, tokenizer: PreTrainedTokenizerBase, rest: str) -> list[int]:
        """Ids of an answer that goes on with ``rest`` behind a forced start, up to and with the token that ends it."""
        return [*encode_after(tokenizer, self.joiner, f" {rest}"), *self.end]

    def document_ids(self, tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
        """``(prefix, body)`` of a plain document: its own tokens, and what stands before the first of them (at least
        one id, so that it can be scored too)."""
        return list(self.document), encode(tokenizer, text, literal=True)

    def digest(self) -> str:
        """Hash (hex) of everything here that changes ids, for cache keys. The tokenizer itself is not part of it."""
        content = json.dumps([VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _encode_prompt(
        self, tokenizer: PreTrainedTokenizerBase, text: str, question: str, suffix: Sequence[int]
    ) -> list[int]:
        """A question that spells out a control token must not end its own turn: it is then tokenised apart, as text."""
        literal = any(token in question for token in self.control)
        if not literal and not suffix:
            return encode(tokenizer, text)
        question = question if question in text else question.strip()
        if text.count(question) != 1:
            raise DataError(
                "data.control-token",
                f"A question cannot be found again in its prompt, or holds a control token: {question[:80]!r}.",
                "take the token out of the row.",
            )
        before, after = text.split(question)
        start = (
            [*encode(tokenizer, before), *encode_after(tokenizer, self.joiner, question)]
            if literal
            else encode(tokenizer, before + question)
        )
        return [*start, *suffix, *self._encode_rest(tokenizer, after)]

    def _encode_rest(self, tokenizer: PreTrainedTokenizerBase, after: str) -> list[int]:
        """Ids of what follows the question. Some tokenizers would put a blank before a text of its own; control tokens
        in it are control tokens."""
        lead = encode(tokenizer, self.joiner) if self.joiner else []
        whole = encode(tokenizer, self.joiner + after)
        return whole[len(lead) :] if whole[: len(lead)] == lead else encode(tokenizer, after)


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


def _chat(tokenizer: PreTrainedTokenizerBase) -> Template:
    if not tokenizer.chat_template:
        raise ModelError("model.no-template", "The tokenizer has no chat template.", USE_PLAIN)
    source = _dated(_default_template(tokenizer))
    ask = [{"role": "user", "content": PROBE_QUESTION}]
    prompt = _render(tokenizer, source, ask)
    whole = _render(tokenizer, source, [*ask, {"role": "assistant", "content": PROBE_ANSWER}], generate=False)
    at = whole.rfind(PROBE_ANSWER)
    if at < 0 or PROBE_QUESTION not in prompt:
        raise ModelError("model.bad-template", "The chat template leaves out the question or the answer.", USE_PLAIN)
    between = whole[len(prompt) : at] if whole.startswith(prompt) else ""
    prefix = between.rstrip(" ")
    lead = between[len(prefix) :]
    end = _end(tokenizer, whole[at + len(PROBE_ANSWER) :])
    joiner = _joiner(tokenizer, prompt + prefix, lead)
    return Template("chat", source, prefix, lead, (), end, joiner, document_start(tokenizer), control_texts(tokenizer))


def _default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:  # several named templates, and none of them is the default
        raise ModelError("model.bad-template", f"No chat template can be chosen: {error}", USE_PLAIN) from error


def _dated(source: str) -> str:
    """The template with every call for today's date replaced by a fixed one, so that prompts are the same every day.

    Replaced in the text, because transformers 5.23 lets no function be passed to a template.
    """
    fixed = DATE_CALL.sub(lambda call: json.dumps(TODAY.strftime(call[2])), source)
    if re.search(r"strftime_now\s*\(", fixed):
        raise ModelError("model.bad-template", "The chat template works out a date, which cannot be fixed.", USE_PLAIN)
    return fixed


def _joiner(tokenizer: PreTrainedTokenizerBase, prompt: str, lead: str) -> str:
    """The text after which an answer gets the ids it would have right behind the prompt: none for byte-level
    tokenizers, a line break for those that put a blank before every text (sentencepiece)."""
    wanted = encode(tokenizer, prompt + lead + PROBE_ANSWER)
    before = encode(tokenizer, prompt)
    fitting = (text for text in ("", "\n") if before + encode_after(tokenizer, text, lead + PROBE_ANSWER) == wanted)
    return next(fitting, "")


def _end(tokenizer: PreTrainedTokenizerBase, tail: str) -> tuple[int, ...]:
    """Ids from the end of an answer to the first control token after it; EOS if the template writes none."""
    ids = encode(tokenizer, tail)
    control = set(tokenizer.convert_tokens_to_ids(list(control_texts(tokenizer))))
    stop = next((at for at, token in enumerate(ids) if token in control), None)
    return (eos_id(tokenizer),) if stop is None else tuple(ids[: stop + 1])


def _render(
    tokenizer: PreTrainedTokenizerBase, source: str, messages: list[dict[str, str]], generate: bool = True
) -> str:
    """Text of a conversation. Not tokenised here: in transformers 5 that gives a BatchEncoding, and double BOS."""
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=generate
        )
    except Exception as error:  # a template is a program of somebody else's
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise ModelError("model.bad-template", f"The chat template fails ({why}).", USE_PLAIN) from error
