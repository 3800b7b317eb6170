"""No evaluation holds more logits than the budget says: the largest tensor that leaves the output head is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Row
from efface.metrics.base import Need
from efface.metrics.fade import cross_need
from efface.passes import batching
from efface.passes.generate import GenerateSettings, generate
from efface.passes.harness_model import likelihoods, pair
from efface.passes.lens import lens
from efface.passes.registry import PassInput
from efface.passes.score import score
from efface.testing.bench import bench

POSITIONS = 128


@dataclass
class Seen:
    """Positions of the largest logits tensor, and of all of them together."""

    most: int = 0
    total: int = 0


@contextmanager
def watching(*models) -> Iterator[Seen]:
    seen, handles = Seen(), []

    def look(module, args, out) -> None:
        positions = out.numel() // out.shape[-1]
        seen.most, seen.total = max(seen.most, positions), seen.total + positions

    for model in models:
        handles.append(model.hf.get_output_embeddings().register_forward_hook(look))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """A budget of 128 positions: more than any one row here has (105), far fewer than all have together."""
    vocabulary = bench("causal_lm").model("target").hf.config.vocab_size
    monkeypatch.setattr(batching, "LOGIT_BYTES", 4 * vocabulary * POSITIONS)
    return POSITIONS


def rows() -> list[Row]:
    data = bench("causal_lm").data.eval
    return [*data["forget"], *data["retain"], *data["holdout"]]


RUNS: dict[str, Callable] = {
    "score": lambda m: score(m, rows(), answers=("answer", "answer_paraphrase", "wrong")),
    "score and greedy": lambda m: score(m, rows(), generate=GenerateSettings(max_new_tokens=4)),
    "lens": lambda m: lens(PassInput(m, rows(), Need("lens", variants=()), lambda role: m, lambda role, need: None)),
    "likelihoods": lambda m: likelihoods(m, [pair(m, r.prompt, " " + r.answer) for r in rows()], 4096),
    "samples": lambda m: generate(m, rows(), settings=GenerateSettings(max_new_tokens=4, samples=2, temperature=1.0)),
}


@pytest.mark.parametrize("name", RUNS)
def test_passes_stay_within_the_budget(name: str, small: int) -> None:
    """Every pass needs several times the budget in all, and never holds more than it at once."""
    model = bench("causal_lm").model("target")
    with watching(model) as seen:
        RUNS[name](model)
    assert seen.total > 2 * small and 0 < seen.most <= small


def test_two_models_share_one_budget(small: int) -> None:
    """FADE holds the logits of two models at once: half the budget each."""
    b = bench("causal_lm")
    models = {"unlearned": b.model("target"), "reference": b.model("reference")}
    made = {name: Role(lambda m=m: m) for name, m in models.items()}
    store = Store(made, {"forget": list(b.data.eval["forget"])}, PassSettings(24))
    store.fetch("reference", cross_need("reference", "forget"))  # samples are drawn beforehand
    store.fetch("unlearned", cross_need("unlearned", "forget"))
    again = Store(made, {"forget": list(b.data.eval["forget"])}, PassSettings(24))
    with watching(*models.values()) as seen:
        again.fetch("unlearned", cross_need("unlearned", "forget"))
    assert seen.most <= small and seen.total > 4 * small


def test_a_single_long_text_is_taken_in_pieces(small: int) -> None:
    """One text of more positions than the budget: same log-prob as in one piece, never more than the budget at once."""
    model = bench("causal_lm").model("target")
    ids = [t for r in rows() for t in model.template.answer_ids(model.tokenizer, r.answer)][:300]
    with watching(model) as seen:
        ((found, _),) = likelihoods(model, [([ids[0]], ids[1:])], 4096)
    with torch.no_grad():
        logp = torch.log_softmax(model.module(torch.tensor([ids])).logits[0].double(), -1)
    expected = float(sum(logp[t, ids[t + 1]] for t in range(len(ids) - 1)))
    assert seen.most <= small < len(ids) and found == pytest.approx(expected, abs=1e-2)


def test_the_budget_is_a_quarter_of_a_gibibyte() -> None:
    """Float32 logits of a batch stay under 256 MiB whatever the vocabulary: 1,365 positions of SmolLM2's 49,152."""
    assert batching.LOGIT_BYTES == 1 << 28 and (1 << 28) // (4 * 49152) == 1365
