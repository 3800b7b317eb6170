"""A prompt start that all rows share is run once: same numbers, same gradients, fewer positions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from efface.models import sharing
from efface.passes.generate import GenerateSettings
from efface.passes.score import score
from efface.testing.bench import bench

START = "Read this with care and answer in one short sentence, as you were told before. "


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


@pytest.fixture(scope="module")
def rows(b):
    return [replace(row, prompt=START + row.prompt) for row in b.data.eval["forget"][:8]]


@pytest.fixture
def off(monkeypatch):
    """Calling it switches sharing off."""
    return lambda: monkeypatch.setattr(sharing, "LEAST_ROWS", 10**9)


def test_scores_and_greedy_answers_are_the_same(b, rows, off) -> None:
    """Log-probs to 1e-5 in float32, in the tree layout too, and the very same answers."""
    model, settings = b.model("target"), GenerateSettings(max_new_tokens=12)
    shared = score(model, rows, answers=("answer", "wrong"), generate=settings)
    off()
    plain = score(model, rows, answers=("answer", "wrong"), generate=settings)
    a, c = ([v for lp in r.tokens["lp"].to_pylist() for v in lp] for r in (shared, plain))
    assert a == pytest.approx(c, abs=1e-5)
    assert shared.generations["ids"].to_pylist() == plain.generations["ids"].to_pylist()


def test_gradients_and_hidden_states_are_the_same(b, rows, off) -> None:
    model = b.model("target")
    batch = model.collate([model.encode(row) for row in rows], range(len(rows)))

    def run() -> tuple[list[torch.Tensor], dict[int, torch.Tensor]]:
        model.module.zero_grad()
        with model.training():
            out = model.forward(batch, hidden=(0, 1, 2))
            cross_entropy(out.logits, batch.label_id).backward()
        return [p.grad.clone() for p in model.module.parameters()], out.hidden

    gradients, states = run()
    off()
    plain_gradients, plain_states = run()
    assert all(torch.allclose(a, c, atol=1e-6) for a, c in zip(gradients, plain_gradients, strict=True))
    real = batch.inputs["attention_mask"].bool()
    for layer, value in states.items():
        assert value.shape == plain_states[layer].shape
        assert torch.allclose(value[real], plain_states[layer][real], atol=1e-5)


def test_the_start_is_run_once(b, rows) -> None:
    """Eight rows, and the shared positions are seen by the first block once."""
    model, seen = b.model("target"), []
    batch = model.collate([model.encode(row) for row in rows], range(len(rows)))
    start = sharing.shared_start(model, batch, batch.inputs)
    assert start >= sharing.LEAST_TOKENS
    handle = model.blocks[0].register_forward_hook(
        lambda m, a, out: seen.append((out[0] if isinstance(out, tuple) else out).shape[:2])
    )
    with torch.no_grad():
        model.forward(batch)
    handle.remove()
    width = batch.token_mask.shape[1]
    assert [tuple(s) for s in seen] == [(1, start), (len(rows), width - start)]


def test_where_it_does_not_pay_nothing_is_shared(b, rows) -> None:
    model = b.model("target")
    few = model.collate([model.encode(row) for row in rows[:2]], range(2))
    assert sharing.shared_start(model, few, few.inputs) == 0
    short = [replace(row, prompt=row.prompt.removeprefix(START)) for row in rows]
    batch = model.collate([model.encode(row) for row in short], range(len(short)))
    assert sharing.shared_start(model, batch, batch.inputs) == 0


def test_two_models_side_by_side_share_nothing(b, rows) -> None:
    """The shared start would be cached for one of the two models only."""
    from efface.models.contrasted import Contrasted

    target, other = b.model("target"), b.model("reference")
    model = Contrasted.of(target, other.module, 1.0)
    batch = model.collate([model.encode(row) for row in rows], range(len(rows)))
    assert sharing.shared_start(model, batch, batch.inputs) == 0
    assert sharing.shared_start(target, batch, batch.inputs) > 0


def test_early_stop_below_the_head(b, rows, off) -> None:
    """Hidden states of layer 1 alone: no logits, and the same states."""
    model = b.model("target")
    batch = model.collate([model.encode(row) for row in rows], range(len(rows)))
    with torch.no_grad():
        shared = model.forward(batch, logits=False, hidden=(1,))
        off()
        plain = model.forward(batch, logits=False, hidden=(1,))
    assert shared.logits is None
    real = batch.inputs["attention_mask"].bool()
    assert torch.allclose(shared.hidden[1][real], plain.hidden[1][real], atol=1e-5)


def test_attribution_of_vectors_is_the_same(b, rows, off) -> None:
    """What the last block writes at the shared start reaches no answer, and that is no error."""
    from efface.passes.attribution_of_values import attribution

    model = b.model("target")
    shared = attribution(model, rows)
    off()
    assert all(torch.allclose(a, c, atol=1e-4) for a, c in zip(shared, attribution(model, rows), strict=True))


def test_perturbed_states_are_those_of_whole_rows(b, rows, off) -> None:
    """LAT adds Float[B, T, width] to what a block receives: with a shared start it would not fit."""
    from efface.engine.settings import TrainSettings
    from efface.methods.base import METHODS, Context

    def trained() -> list[torch.Tensor]:
        train = TrainSettings(lr=1e-4, optimizer="sgd", steps=1, batch_size=8, warmup=0.0)
        context = Context(b.model("target"), rows, rows, train)
        METHODS.get("lat")(iterations=2).apply(context)
        return list(context.adapter.module.parameters())

    shared = trained()
    off()
    assert all(torch.allclose(a, c, atol=1e-5) for a, c in zip(shared, trained(), strict=True))
