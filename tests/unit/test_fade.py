"""FADE through the real passes: two bigram language models against full enumeration, and the tiny world."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Row
from efface.metrics.base import METRICS, Need, Tables, compute
from efface.metrics.fade import SAMPLES, cross_need
from efface.models.causal_lm import CausalLM
from efface.testing.bench import bench

SYMBOLS, LENGTH = "abcde", 6
WORDS = [*SYMBOLS, "q", "<eos>", "<end>", "<unk>"]


def bigram(seed: int) -> CausalLM:
    """A Llama whose one block adds nothing: next-token logits are a table row of the last token. Two tokens end an
    answer; the others but the five symbols have probability e^-40."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    size = len(WORDS)
    width = 16
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=[6, 7],
        rms_norm_eps=0.0,
    )
    model = LlamaForCausalLM(config)
    logits = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    logits[:, [5, 8]] = -40.0
    with torch.no_grad():
        for p in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj):
            p.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, width))
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :size] = logits.T / math.sqrt(width)
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>")
    return CausalLM(model, tokenizer, template="{question}", compute="fp32")


def table_of(model: CausalLM) -> np.ndarray:
    """Log-probs [last, next] over the five symbols and "end" (both end tokens together)."""
    with torch.no_grad():
        raw = torch.log_softmax(model.module(torch.tensor([[i] for i in range(len(WORDS))])).logits[:, 0].double(), -1)
    return torch.cat([raw[:, :5], raw[:, [6, 7]].logsumexp(1, keepdim=True)], 1).numpy()


def enumerated(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) over every answer of up to six symbols: five to the sixth cut ones, and all that end before."""
    total = 0.0
    for length in range(LENGTH + 1):
        for text in itertools.product(range(5), repeat=length):
            steps = list(zip((5, *text), (*text, 5) if length < LENGTH else text, strict=False))
            a, b = (sum(t[last, following] for last, following in steps) for t in (p, q))
            total += math.exp(a) * (a - b)
    return total


def store_of(rows: list[Row], longest: int, **roles: object) -> Store:
    return Store({name: Role(lambda m=m: m) for name, m in roles.items()}, {"forget": rows}, PassSettings(longest))


def score(store: Store, name: str, role: str = "unlearned"):
    def fetch(asked, need):
        return store.fetch(role if asked == "subject" else asked, need)

    return compute(METRICS.get(name), Tables(fetch, "forget", role), "forget", resamples=200)


@pytest.fixture(scope="module")
def bigrams():
    u, r = bigram(0), bigram(1)
    rows = [Row(f"r{i}", "a", "q", entity=f"e{i}") for i in range(200)]
    return u, r, store_of(rows, LENGTH, unlearned=u, reference=r)


def test_bigram_models_against_enumeration(bigrams):
    """200 prompts x 4 samples of two bigram models over 5 symbols, at most 6 long, ends included: both estimators agree
    with the enumeration of all answers within two standard errors, and the exact one has less than half the error."""
    u, r, store = bigrams
    p, q = table_of(r), table_of(u)
    forward, reverse = enumerated(p, q), enumerated(q, p)
    sampled, exact = score(store, "fade"), score(store, "fade_exact")
    for found in (sampled, exact):
        assert found.value == pytest.approx((forward + reverse) / 2, abs=2 * found.extra["error"])
        assert found.extra["forward"] == pytest.approx(forward, rel=0.1)
        assert found.extra["reverse"] == pytest.approx(reverse, rel=0.1)
        assert found.low < found.value < found.high and found.n == 200 and found.direction == "lower"
    assert exact.extra["error"] < 0.5 * sampled.extra["error"]
    assert sampled.extra["samples"] == sampled.extra["samples_reference"] == 200 * SAMPLES


def test_ends_count_as_one_and_belong_to_the_answer(bigrams):
    """The share of one-symbol answers is p(symbol | q) p(any end | symbol); an empty answer is scored as the end."""
    u, _, store = bigrams
    lines = store.fetch("unlearned", cross_need(rows="forget")).to_pylist()
    mine = [line for line in lines if line["mine"]]
    table = table_of(u)
    expected = sum(math.exp(table[5, a] + table[a, 5]) for a in range(5))
    share = np.mean([len(line["own"]) == 2 for line in mine])
    assert share == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / len(mine)))
    assert all(len(line["own"]) == len(line["cross"]) == len(line["kl"]) <= LENGTH for line in lines)
    empty = next(line for line in mine if len(line["own"]) == 1)
    assert empty["own"][0] == pytest.approx(table[5, 5], abs=1e-5)


def test_a_model_against_itself_is_zero_and_against_its_copy_exactly_zero(bigrams):
    u, r, _ = bigrams
    rows = [Row(f"r{i}", "a", "q") for i in range(8)]
    store = store_of(rows, LENGTH, unlearned=u.clone(), reference=u)
    assert score(store, "fade").value == 0.0 == score(store, "fade_exact").value
    assert score(store, "fade", "reference").value == 0.0


def test_samples_of_the_reference_are_drawn_once_for_all_models(bigrams):
    """Three models against one reference: one drawing of the reference, one cross pass each."""
    u, r, _ = bigrams
    store = store_of([Row("r", "a", "q")], LENGTH, unlearned=u, target=bigram(2), reference_2=bigram(3), reference=r)
    found = score(store, "fade")
    assert store.passes == 4 and set(found.extra) >= {"floor", "anchor", "normalised"}
    assert score(store, "fade_exact").value is not None and store.passes == 4


def test_missing_roles_say_so(bigrams):
    u, r, _ = bigrams
    rows = [Row("r", "a", "q")]
    assert score(store_of(rows, LENGTH, unlearned=u), "fade").reason.startswith("there is no reference model")
    extra = score(store_of(rows, LENGTH, unlearned=u, reference=r), "fade").extra
    assert extra["normalised"] is None and "there is no target model" in extra["why_not_normalised"]
    assert "reference_2" in extra["why_not_normalised"]


def test_other_tokenizers_do_not_compare(bigrams):
    u, _, _ = bigrams
    store = store_of([Row("r", "a", "q")], LENGTH, unlearned=u, reference=bench("causal_lm").model("reference"))
    assert "same tokenizer" in score(store, "fade").reason


@pytest.fixture(scope="module")
def tiny():
    b = bench("causal_lm")
    rows = list(b.data.eval["forget"])
    return (
        b,
        rows,
        store_of(rows, 24, unlearned=b.model("target"), target=b.model("target"), reference=b.model("reference")),
    )


def test_own_log_probs_are_those_of_the_model_alone(tiny):
    """Log-probs of a sampled answer against one plain forward of the same ids under each model."""
    b, rows, store = tiny
    line = next(x for x in store.fetch("unlearned", cross_need(rows="forget")).to_pylist() if not x["mine"])
    drawn = store.fetch("reference", Need("own_samples", "forget", "reference", (str(SAMPLES),)))
    ids = next(x for x in drawn.to_pylist() if (x["row"], x["sample"]) == (line["row"], line["sample"]))
    row = next(r for r in rows if r.id == line["row"])
    for role, column in (("reference", "own"), ("target", "cross")):
        model = b.model(role)
        prompt = model.template.prompt_ids(model.tokenizer, row.prompt)
        with torch.no_grad():
            logp = torch.log_softmax(
                model.module(torch.tensor([[*prompt, *ids["ids"]]])).logits[0, len(prompt) - 1 :], -1
            )
        expected = [float(logp[t, token]) for t, token in enumerate(ids["ids"])]
        assert line[column][: len(expected)] == pytest.approx(expected, abs=1e-4)


def test_the_target_is_far_from_the_reference_and_the_estimators_agree(tiny):
    _, _, store = tiny
    sampled, exact = score(store, "fade"), score(store, "fade_exact")
    assert exact.low > 1.0 and exact.extra["anchor"] == pytest.approx(exact.value)
    assert abs(sampled.value - exact.value) < 4 * sampled.extra["error"]
