"""What is put around a model: ids behind the question, free input vectors, forced starts, edited states; each against a
plain computation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from efface.engine.select import add_lora
from efface.engine.settings import Select
from efface.errors import NeedsError
from efface.models.causal_lm import CausalLM
from efface.models.tampering import StateEdit, Tampering
from efface.models.template import Template
from efface.passes.cache import fingerprint
from efface.passes.generate import GenerateSettings, generate
from efface.passes.hidden import hidden
from efface.passes.score import score
from efface.testing.bench import bench

ANSWERS = ("answer", "answer_paraphrase", "wrong")
GREEDY = GenerateSettings(max_new_tokens=12)


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


@pytest.fixture(scope="module")
def model(b) -> CausalLM:
    return b.model("target")


@pytest.fixture(scope="module")
def rows(b):
    return [*b.data.eval["forget"][:6], *b.data.eval["holdout"][:3]]


def numbers(model: CausalLM, rows, answers: Sequence[str] = ("answer",)) -> list[list[float]]:
    return score(model, rows, answers=answers).tokens["lp"].to_pylist()


def said(model: CausalLM, rows) -> list[list[int]]:
    return generate(model, rows, settings=GREEDY)["ids"].to_pylist()


def close(a, c, atol: float = 1e-4) -> bool:
    return all(torch.allclose(torch.tensor(x), torch.tensor(y), atol=atol) for x, y in zip(a, c, strict=True))


def vector(model: CausalLM, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(model.hf.config.hidden_size, generator=torch.Generator().manual_seed(seed))


def rows_of_table(model: CausalLM, ids: Sequence[int]) -> torch.Tensor:
    return model.hf.get_input_embeddings().weight[list(ids)].detach().clone()


def edits(model: CausalLM) -> dict[str, Tampering]:
    """One of every kind."""
    size = model.hf.get_input_embeddings().weight.shape[0]
    return {
        "suffix": Tampering(suffix={"": (300, 301, 302)}),
        "virtual": Tampering(suffix={"": (size, 300, size + 1)}, virtual=torch.stack([vector(model), vector(model)])),
        "forced": Tampering(forced="I am sure that"),
        "add": Tampering(edits=[StateEdit(1, "add", vector(model), 0.5, "last_prompt")]),
        "project_out": Tampering(edits=[StateEdit(1, "project_out", vector(model))]),
        "replace": Tampering(edits=[StateEdit(1, "replace", vector(model), where="last_prompt")]),
        "skip": Tampering(edits=[StateEdit(2, "skip")]),
    }


# -- ids behind the question -----------------------------------------------------------------------------------------
def test_suffix_ids_equal_the_text_typed_behind_the_question(model, rows) -> None:
    """ " Please answer." is tokenised alike on its own and behind a question mark."""
    text = " Please answer."
    ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    typed = [replace(r, prompt=r.prompt + text) for r in rows]
    tampered = model.tampered(Tampering(suffix={"": ids}))
    assert [tampered.encode(r).payload for r in rows] == [model.encode(r).payload for r in typed]
    assert numbers(tampered, rows) == numbers(model, typed) and said(tampered, rows) == said(model, typed)


def test_a_row_of_its_own_goes_before_the_suffix_of_all(model, rows) -> None:
    tampering = Tampering(suffix={"": (300,), rows[0].id: (301, 302)})
    plain = model.encode(rows[1]).payload.prompt
    found = [model.tampered(tampering).encode(r).payload.prompt for r in rows[:2]]
    assert found[1] == (*plain[:-1], 300, plain[-1]) and found[0][-3:-1] == (301, 302)


def test_what_follows_the_suffix_keeps_its_ids_where_a_text_of_its_own_gets_a_blank() -> None:
    """A sentencepiece-like tokenizer writes "_" before every text: "?\\nA:" after the suffix must not get one."""
    pieces = ["<unk>", "</s>", "▁", "Q", ":", "who", "▁who", "?", "\n", "A", "qqq", "zzz", "▁zzz", "▁qqq", "▁Q"]
    tokenizer = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    template = Template.choose("Q: {question}\nA:", fast)
    plain, suffixed = template.prompt_ids(fast, "who?"), template.prompt_ids(fast, "who?", (5,))
    at = suffixed.index(5, len(plain) - 3)
    assert template.joiner and suffixed[:at] + suffixed[at + 1 :] == plain


# -- free input vectors ----------------------------------------------------------------------------------------------
def test_virtual_vectors_equal_to_embedding_rows_change_no_bit(model, rows) -> None:
    ids, size = (310, 280, 305), model.hf.get_input_embeddings().weight.shape[0]
    real = model.tampered(Tampering(suffix={"": ids}))
    free = model.tampered(Tampering(suffix={"": [size + i for i in range(3)]}, virtual=rows_of_table(model, ids)))
    assert numbers(real, rows, ANSWERS) == numbers(free, rows, ANSWERS) and said(real, rows) == said(free, rows)
    assert hidden(real, rows, layers=(0, 1)).equals(hidden(free, rows, layers=(0, 1)))


def test_gradients_reach_the_free_vectors(model, rows) -> None:
    size = model.hf.get_input_embeddings().weight.shape[0]
    vectors = rows_of_table(model, (310,)).requires_grad_(True)
    free = model.tampered(Tampering(suffix={"": (size,)}, virtual=vectors))
    batch = free.collate([free.encode(r) for r in rows[:2]], [0, 1])
    free.forward(batch).logits.sum().backward()
    assert vectors.grad is not None and float(vectors.grad.abs().sum()) > 0


def test_an_id_without_a_vector_is_refused(model, rows) -> None:
    size = model.hf.get_input_embeddings().weight.shape[0]
    for tampering in (
        Tampering(suffix={"": (size,)}),
        Tampering(suffix={"": (size + 1,)}, virtual=vector(model)[None]),
    ):
        with pytest.raises(NeedsError) as caught:
            numbers(model.tampered(tampering), rows[:1])
        assert caught.value.code == "tampering.no-vector"


# -- edits of hidden states ------------------------------------------------------------------------------------------
def test_edits_of_nothing_change_nothing(model, rows) -> None:
    zero = torch.zeros(model.hf.config.hidden_size)
    nothing = [
        Tampering(),
        Tampering(edits=[StateEdit(1, "add", zero), StateEdit(0, "add", vector(model), 0.0)]),
        Tampering(edits=[StateEdit(2, "project_out", zero), StateEdit(2, "project_out", vector(model), 0.0)]),
    ]
    for tampering in nothing:
        tampered = model.tampered(tampering)
        assert numbers(tampered, rows, ANSWERS) == numbers(model, rows, ANSWERS) and said(tampered, rows) == said(
            model, rows
        )


def test_add_at_the_last_prompt_token_is_not_applied_later(model, rows) -> None:
    """States after block 1: the vector is added at the place that predicts the first answer token and nowhere else;
    through that place's keys the later log-probs change too, but only because block 2 reads it."""
    push = vector(model)
    tampered = model.tampered(Tampering(edits=[StateEdit(1, "add", push, 2.0, "last_prompt")]))
    row = rows[0]
    encoded = model.encode(row)
    batch, last = model.collate([encoded], [0]), len(encoded.payload.prompt) - 1
    with torch.no_grad():
        before, after = (m.forward(batch, hidden=(1, 2)) for m in (model, tampered))
    moved = after.hidden[1][0] - before.hidden[1][0]
    assert torch.allclose(moved[last], 2.0 * push, atol=1e-4)
    assert not moved[:last].any() and not moved[last + 1 :].any()
    later = (after.hidden[2] - before.hidden[2])[0, last + 1 :]
    assert bool(later.abs().sum(-1).gt(0).all())
    old, new = numbers(model, [row])[0], numbers(tampered, [row])[0]
    assert all(abs(a - c) > 1e-6 for a, c in zip(old, new, strict=True))


def test_add_in_the_last_block_touches_the_first_token_only(model, rows) -> None:
    """After the last block nothing reads the edited place again."""
    last = len(model.blocks)
    tampered = model.tampered(Tampering(edits=[StateEdit(last, "add", vector(model), 2.0, "last_prompt")]))
    for old, new in zip(numbers(model, rows), numbers(tampered, rows), strict=True):
        assert abs(old[0] - new[0]) > 1e-3 and new[1:] == pytest.approx(old[1:], abs=1e-5)


def test_project_out_removes_the_component(model, rows) -> None:
    direction = vector(model)
    unit = direction / direction.norm()
    half, whole = (
        model.tampered(Tampering(edits=[StateEdit(1, "project_out", direction, strength)])) for strength in (0.5, 1.0)
    )
    batch = model.collate([model.encode(r) for r in rows], list(range(len(rows))))
    with torch.no_grad():
        plain, part, gone = (m.forward(batch, logits=False, hidden=(1,)).hidden[1] for m in (model, half, whole))
    assert float((plain @ unit).abs().max()) > 0.1 and float((gone @ unit).abs().max()) < 1e-5
    assert torch.allclose(part @ unit, 0.5 * (plain @ unit), atol=1e-5)
    assert torch.allclose(gone + (plain @ unit)[..., None] * unit, plain, atol=1e-5)


def test_skip_equals_removing_the_block(model, rows) -> None:
    for layer in range(1, len(model.blocks) + 1):
        tampered = model.tampered(Tampering(edits=[StateEdit(layer, "skip")]))
        cut = model.clone()
        del cut.hf.model.layers[layer - 1]
        for i, block in enumerate(cut.hf.model.layers):
            block.self_attn.layer_idx = i
        cut.hf.config.num_hidden_layers -= 1
        assert numbers(tampered, rows) == numbers(cut, rows) and said(tampered, rows) == said(cut, rows)


def test_edits_of_one_layer_are_applied_in_order(model, rows) -> None:
    """Add u then take u out: nothing of u is left. Take it out then add it: exactly u is there."""
    u = vector(model)
    unit = u / u.norm()
    add, out = StateEdit(1, "add", u), StateEdit(1, "project_out", u)
    batch = model.collate([model.encode(r) for r in rows[:2]], [0, 1])
    with torch.no_grad():
        first, second = (
            model.tampered(Tampering(edits=order)).forward(batch, logits=False, hidden=(1,)).hidden[1] @ unit
            for order in ([add, out], [out, add])
        )
    assert float(first.abs().max()) < 1e-5 and torch.allclose(second, u.norm().expand_as(second), atol=1e-4)


def test_embedding_edits_reach_free_vectors(model, rows) -> None:
    size = model.hf.get_input_embeddings().weight.shape[0]
    push = vector(model)
    tampering = Tampering(suffix={"": (size,)}, virtual=rows_of_table(model, (310,)), edits=[StateEdit(0, "add", push)])
    batch_of = model.tampered(tampering)
    batch = batch_of.collate([batch_of.encode(rows[0])], [0])
    with torch.no_grad():
        found = batch_of.forward(batch, logits=False, hidden=(0,)).hidden[0][0]
    at = batch.inputs["input_ids"][0].tolist().index(size)
    assert torch.allclose(found[at], rows_of_table(model, (310,))[0] + push, atol=1e-6)


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_refused(model, rows, layer: int) -> None:
    with pytest.raises(NeedsError) as caught:
        numbers(model.tampered(Tampering(edits=[StateEdit(layer, "add", vector(model))])), rows[:1])
    assert caught.value.code == "tampering.no-layer"


# -- forced starts ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("template", ["auto", "plain"])
def test_a_forced_start_is_part_of_the_prompt_and_the_answer_goes_on_behind_it(b, template: str) -> None:
    """Ids of prompt, start, blank and answer are those of the whole text, where tokenisation agrees."""
    made = b.made["target"].open(b.spec.model)
    model = CausalLM(made.module, made.tokenizer, template=template)
    row = b.data.eval["forget"][0]
    tampered = model.tampered(Tampering(forced="I am sure that"))
    found = tampered.encode(row).payload
    joined = model.template.answer_ids(model.tokenizer, f"I am sure that {row.answer}")
    assert [*found.prompt, *found.branches[0]] == [*model.template.prompt_ids(model.tokenizer, row.prompt), *joined]
    assert said(tampered, [row])[0] == said_after(model, found.prompt)


def said_after(model: CausalLM, prompt: Sequence[int]) -> list[int]:
    """Plain greedy decoding, one forward a token."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) - len(prompt) < GREEDY.max_new_tokens:
            token = int(model.module(torch.tensor([ids])).logits[0, -1].argmax())
            if token in model.stops:
                break
            ids.append(token)
    return ids[len(prompt) :]


# -- all kinds -------------------------------------------------------------------------------------------------------
KINDS = ("suffix", "virtual", "forced", "add", "project_out", "replace", "skip")


@contextmanager
def layout(model: CausalLM, tree: bool) -> Iterator[CausalLM]:
    other = model.clone()
    other._tree = tree
    yield other


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_from_the_scoring_pass_equals_plain_greedy(model, rows, kind: str) -> None:
    tampered = model.tampered(edits(model)[kind])
    ours = score(tampered, rows, answers=ANSWERS, generate=GREEDY).generations["ids"].to_pylist()
    assert ours == said(tampered, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_tree_and_plain_layout_agree(model, rows, kind: str) -> None:
    with layout(model, True) as tree, layout(model, False) as plain:
        a, c = (numbers(m.tampered(edits(model)[kind]), rows, ANSWERS) for m in (tree, plain))
    assert close(a, c)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_a_lora_wrapper_is_tampered_with_alike(model, rows, kind: str) -> None:
    """A fresh LoRA adapter adds nothing."""
    wrapped = model.clone()
    add_lora(wrapped, Select(kind="lora", rank=2), seed=0)
    wrapped.module.eval()
    tampering = edits(model)[kind]
    assert close(numbers(wrapped.tampered(tampering), rows), numbers(model.tampered(tampering), rows))


@pytest.mark.parametrize("kind", KINDS)
def test_tampering_changes_outputs_and_leaves_weights_and_model_alone(model, rows, kind: str) -> None:
    before, plain = fingerprint(model), numbers(model, rows)
    tampered = model.tampered(edits(model)[kind])
    assert not close(numbers(tampered, rows), plain, 1e-3) and numbers(model, rows) == plain
    assert fingerprint(model) == fingerprint(tampered) == before and tampered.module is model.module
    assert not model.hf.get_input_embeddings()._forward_hooks and not any(k._forward_hooks for k in model.blocks)


def test_digests_differ(model) -> None:
    v = vector(model)
    kinds = [
        *edits(model).values(),
        Tampering(),
        Tampering(suffix={"": (300, 301)}),
        Tampering(suffix={"a": (300, 301)}),
        Tampering(forced={"a": "I am sure that"}),
        Tampering(virtual=v[None]),
        Tampering(virtual=v.reshape(2, -1)),
        Tampering(edits=[StateEdit(1, "add", v, 0.5)]),
        Tampering(edits=[StateEdit(1, "add", v, 0.6)]),
        Tampering(edits=[StateEdit(2, "add", v, 0.5)]),
        Tampering(edits=[StateEdit(1, "add", v + 1, 0.5)]),
        Tampering(edits=[StateEdit(1, "project_out", v, 0.5)]),
    ]
    assert len({t.digest() for t in kinds}) == len(kinds)
    assert len({str(model.tampered(t).identity()) for t in kinds}) == len(kinds)
    again = edits(model)
    assert all(t.digest() == again[name].digest() for name, t in edits(model).items())
