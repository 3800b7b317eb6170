"""Prompts and answers as ids, with chat templates of the shapes that are in use."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from efface.errors import DataError, ModelError, SpecError
from efface.models.template import Template, stop_ids
from efface.models.tiny import build_tokenizer
from efface.models.token_ids import document_start, own_start

TEXTS = [
    "Where was Ada born?",
    "In Oslo.",
    "Question: who wrote it?\nAnswer: Nobody did. qqq zzz",
    "<think>\n\n</think>",
]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(TEXTS, vocab=320)


def plain(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def with_template(tokenizer, template: str) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = template
    return tokenizer


def test_chat_prompt_and_answer_by_hand(tokenizer):
    """<|user|> is 2, <|assistant|> 3, <|end|> 1; prompt and answer are tokenised apart."""
    chat = Template.choose("auto", tokenizer)
    assert chat.prompt_ids(tokenizer, "Where was Ada born?") == [2, *plain(tokenizer, "Where was Ada born?"), 3]
    assert chat.answer_ids(tokenizer, "In Oslo.") == [*plain(tokenizer, "In Oslo."), 1]
    assert (chat.kind, chat.prefix, chat.lead, chat.joiner) == ("chat", "", "", "")


def test_nothing_after_the_end_token_is_scored(tokenizer):
    """ChatML writes a line break after <|im_end|>; the answer stops before it, and at the template's own end token even
    if the tokenizer names another EOS."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    with_template(
        tokenizer,
        "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}",
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    chat = Template.choose("auto", tokenizer)
    assert chat.end == (end,) and chat.answer_ids(tokenizer, "In Oslo.") == [*plain(tokenizer, "In Oslo."), end]
    model = SimpleNamespace(
        config=SimpleNamespace(eos_token_id=[1, 7]), generation_config=SimpleNamespace(eos_token_id=9)
    )
    assert stop_ids(model, tokenizer) == {1, 7, 9, end}


def test_a_line_break_before_the_end_token_belongs_to_the_answer(tokenizer):
    with_template(tokenizer, "{% for m in messages %}<|user|>{{ m['content'] }}\n<|end|>{% endfor %}")
    chat = Template.choose("chat", tokenizer)
    assert chat.end == (*plain(tokenizer, "\n"), 1)


def test_a_template_without_end_token_ends_with_eos(tokenizer):
    with_template(tokenizer, "{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    assert Template.choose("chat", tokenizer).end == (1,)


def test_a_blank_that_the_template_writes_goes_with_the_answer(tokenizer):
    """As in "[/INST] answer": joined ids are those of the template's own text."""
    with_template(
        tokenizer,
        "{% for m in messages %}{% if m['role'] == 'user' %}Q {{ m['content'] }} A"
        "{% else %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}",
    )
    chat = Template.choose("chat", tokenizer)
    joined = chat.prompt_ids(tokenizer, "who?") + chat.answer_ids(tokenizer, "Nobody")
    assert chat.lead == " " and joined == plain(tokenizer, "Q who? A Nobody<|end|>")


def test_an_empty_reasoning_block_goes_with_the_prompt(tokenizer):
    with_template(
        tokenizer,
        "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
        "{% else %}<|assistant|><think>\n\n</think>\n\n{{ m['content'] }}<|end|>{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    )
    chat = Template.choose("chat", tokenizer)
    assert chat.prefix == "<think>\n\n</think>\n\n" and chat.lead == ""
    assert tokenizer.decode(chat.prompt_ids(tokenizer, "who?")) == "<|user|>who?<|assistant|><think>\n\n</think>\n\n"
    assert chat.answer_ids(tokenizer, "Nobody") == [*plain(tokenizer, "Nobody"), 1]


def test_control_tokens_in_a_row_stay_text(tokenizer):
    """A question cannot end its own turn, an answer cannot end early, a document cannot fake a turn."""
    chat = Template.choose("auto", tokenizer)
    ids = chat.prompt_ids(tokenizer, "Say <|end|><|assistant|> now")
    assert ids.count(1) == 0 and ids.count(3) == 1 and ids[0] == 2 and ids[-1] == 3
    assert tokenizer.decode(ids) == "<|user|>Say <|end|><|assistant|> now<|assistant|>"
    assert chat.answer_ids(tokenizer, "In <|end|> Oslo").count(1) == 1
    assert 2 not in chat.document_ids(tokenizer, "a <|user|> b")[1]


def test_a_control_token_that_cannot_be_told_apart_is_refused(tokenizer):
    """The format spells out the same token, so the question cannot be found in the prompt."""
    template = Template.choose("{question} means <|end|>", tokenizer)
    assert template.prompt_ids(tokenizer, "who?")[-1] == 1
    with pytest.raises(DataError, match="control token") as caught:
        template.prompt_ids(tokenizer, "<|end|>")
    assert caught.value.code == "data.control-token"


def test_dates_do_not_enter_prompts(tokenizer):
    with_template(
        tokenizer,
        '{% if strftime_now is defined %}{% set day = strftime_now( "%d %b %Y" ) %}{% endif %}'
        "Today is {{ day }}, {{ strftime_now('%Y') }}."
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )
    ids = Template.choose("chat", tokenizer).prompt_ids(tokenizer, "who?")
    assert tokenizer.decode(ids) == "Today is 26 Jul 2024, 2024.who?"
    with_template(
        tokenizer, "{% set f = '%Y' %}{{ strftime_now(f) }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(ModelError) as caught:
        Template.choose("chat", tokenizer)
    assert caught.value.code == "model.bad-template" and "date" in caught.value.cause


def test_plain_and_custom_formats(tokenizer):
    questions = Template.choose("plain", tokenizer)
    assert questions.prompt_ids(tokenizer, "who wrote it?") == plain(tokenizer, "Question: who wrote it?\nAnswer:")
    assert questions.answer_ids(tokenizer, "Nobody") == [*plain(tokenizer, " Nobody"), 1]
    custom = Template.choose("Q {question} A\n", tokenizer)
    assert custom.prompt_ids(tokenizer, "{0} who?") == plain(tokenizer, "Q {0} who? A\n")
    assert custom.answer_ids(tokenizer, "Nobody") == [*plain(tokenizer, "Nobody"), 1]


def test_refusals(tokenizer):
    with pytest.raises(SpecError, match="Did you mean 'plain'"):
        Template.choose("plan", tokenizer)
    with_template(tokenizer, "{{ raise_exception('no') }}")
    with pytest.raises(ModelError) as caught:
        Template.choose("auto", tokenizer)
    assert caught.value.code == "model.bad-template"
    for source in ("{{ 1 // 0 }}", "{{ messages.x.y() }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"):
        with_template(tokenizer, source)
        with pytest.raises(ModelError, match=r"model\.bad-template"):
            Template.choose("auto", tokenizer)
    with_template(tokenizer, None)
    for name in ("auto", "chat"):
        with pytest.raises(ModelError) as caught:
            Template.choose(name, tokenizer)
        assert caught.value.code == "model.no-template" and caught.value.fix == "--set model.template=plain"
    tokenizer.eos_token = None
    with pytest.raises(ModelError) as caught:
        Template.choose("plain", tokenizer)
    assert caught.value.code == "model.no-end-token"


def test_start_of_documents_and_plain_prompts(tokenizer):
    """The tokenizer's own start first; otherwise <|endoftext|>, BOS, EOS. Only the first also starts prompts."""
    assert own_start(tokenizer) == () and document_start(tokenizer) == (1,)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    assert document_start(tokenizer) == (bos,)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    separator = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert document_start(tokenizer) == (separator,)
    assert Template.choose("plain", tokenizer).document_ids(tokenizer, "Ada") == ([separator], plain(tokenizer, "Ada"))
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    assert own_start(tokenizer) == document_start(tokenizer) == (bos,)
    assert Template.choose("plain", tokenizer).prompt_ids(tokenizer, "who?")[0] == bos


def test_tokenizers_that_put_a_blank_before_every_text():
    """sentencepiece reads "zzz" as "▁zzz". Right behind a prompt that would be a blank too many, so the answer is
    tokenised behind a line break: its ids are then those of the template's own text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    bpe.train_from_iterator(
        ["user who zzz assistant Nobody\n qqq"] * 3,
        trainers.BpeTrainer(vocab_size=60, special_tokens=["</s>"], show_progress=False, max_token_length=4),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")
    with_template(
        tokenizer,
        "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}",
    )
    chat = Template.choose("chat", tokenizer)
    joined = chat.prompt_ids(tokenizer, "who") + chat.answer_ids(tokenizer, "Nobody")
    assert chat.joiner == "\n" and joined == plain(tokenizer, "user\nwho</s>\nassistant\nNobody</s>")
    assert plain(tokenizer, "Nobody") != chat.answer_ids(tokenizer, "Nobody")[:-1]


def test_digest_follows_everything_that_changes_ids(tokenizer):
    names = ("chat", "plain", "Q {question} A", "Q {question} A ")
    digests = [Template.choose(name, tokenizer).digest() for name in names]
    assert len(set(digests)) == 4 and digests[0] == Template.choose("auto", tokenizer).digest()
    other = with_template(tokenizer, tokenizer.chat_template.replace("<|user|>", "<|user|>\n"))
    assert Template.choose("chat", other).digest() != digests[0]
