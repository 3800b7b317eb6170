"""How answers read to another model, and distinct n-grams by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.metrics.base import METRICS, Need, Tables, compute
from efface.metrics.fluency import BI, TRI, entropy
from efface.testing.bench import bench
from efface.testing.tables import hand_tables


def store_of(**roles: str) -> tuple[Store, list]:
    b = bench("causal_lm")
    rows = list(b.data.eval["forget"])[:6]
    made = {name: Role(lambda m=model: b.model(m)) for name, model in roles.items()}
    return Store(made, {"forget": rows}, PassSettings(12)), rows


def score(store: Store, role: str = "unlearned"):
    tables = Tables(lambda asked, need: store.fetch(role if asked == "subject" else asked, need), "forget", role)
    return compute(METRICS.get("base_log_prob"), tables, "forget", resamples=100)


def test_answers_are_scored_by_the_base_under_the_same_question() -> None:
    """The reference plays the base: log-probs of the target's greedy answer by one plain forward of the reference."""
    store, rows = store_of(unlearned="target", base="reference")
    found = score(store)
    said = store.fetch("unlearned", Need("generate", "forget", "unlearned", ())).to_pylist()
    model = bench("causal_lm").model("reference")
    for row, line in zip(rows, said, strict=True):
        prompt = model.template.prompt_ids(model.tokenizer, row.prompt)
        with torch.no_grad():
            logits = model.module(torch.tensor([[*prompt, *line["ids"]]])).logits[0, len(prompt) - 1 :]
        logp = torch.log_softmax(logits, -1)
        expected = np.mean([float(logp[t, token]) for t, token in enumerate(line["ids"])])
        assert found.per_row[row.id] == pytest.approx(expected, abs=1e-4)
    assert found.extra["perplexity"] == pytest.approx(np.exp(-found.value))


def test_without_a_base_it_is_not_computed() -> None:
    assert "no base model" in score(store_of(unlearned="target")[0]).reason


def test_own_answers_read_better_than_another_s() -> None:
    """The target finds what it says itself more natural than what the reference says of people it never met."""
    own = score(store_of(unlearned="target", base="target")[0])
    other = score(store_of(unlearned="reference", base="target")[0])
    assert own.value > other.value + 0.5


def test_distinct_n_by_hand() -> None:
    """ "a b a b" and "a b": words 2 of 6, pairs ab ba ab ab 2 of 4, triples aba bab 2 of 2."""
    tables = hand_tables({"forget": {"generations": {"gold": ["x", "x"], "text": ["a b a b", "a b"]}}})
    found = compute(METRICS.get("distinct_2"), tables, "forget", resamples=100)
    assert found.value == 0.5 and found.extra == {"distinct_1": pytest.approx(1 / 3), "distinct_3": 1.0}


def test_ngram_entropy_weights() -> None:
    """ "a b a b c": pairs ab ab ba bc: entropy 1.5 bits; triples aba bab abc: log2 3. (2/3 1.5 + 4/3 log2 3) / 2."""
    assert (BI, TRI) == (2 / 3, 4 / 3) and entropy("a b a b c", 2) == pytest.approx(1.5)
    tables = hand_tables({"forget": {"generations": {"gold": ["x"], "text": ["a b a b c"]}}})
    expected = (2 / 3 * 1.5 + 4 / 3 * np.log2(3)) / 2
    assert compute(METRICS.get("ngram_entropy"), tables, "forget", resamples=100).value == pytest.approx(expected)
