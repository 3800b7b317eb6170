"""Task vectors: the edit by hand, the choice of k, and refusals."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from efface.data.rows import Row
from efface.engine.settings import TrainSettings
from efface.errors import NeedsError, RunFailed, SpecError
from efface.methods.base import METHODS, Context
from efface.methods.language import task_vector
from efface.models.causal_lm import CausalLM
from efface.models.tiny import build_tokenizer, tiny_model

FORGET = [
    Row(f"f{i}", f"It is {word}.", f"What is {name}?", entity=name)
    for i, (name, word) in enumerate([("Ada", "red"), ("Bob", "green"), ("Cy", "blue"), ("Dot", "grey")])
]
RETAIN = [
    Row(f"r{i}", f"It is {word}.", f"What is {name}?", entity=name)
    for i, (name, word) in enumerate([("Eve", "old"), ("Fay", "new"), ("Gus", "cold"), ("Hal", "warm")])
]
FAST = TrainSettings(lr=1e-2, steps=4, batch_size=4, warmup=0.0)


@pytest.fixture(scope="module")
def start() -> CausalLM:
    """A tiny model that knows all eight rows."""
    from efface.engine.finetune import fit

    tokenizer = build_tokenizer([text for row in FORGET + RETAIN for text in (row.prompt, row.answer)], vocab=300)
    adapter = CausalLM(tiny_model(tokenizer, width=32, layers=2, ff=64, heads=2), tokenizer)
    fit(adapter, FORGET + RETAIN, TrainSettings(lr=2e-2, steps=60, batch_size=8, select={"freeze_head": False}), seed=0)
    return adapter


def context(adapter: CausalLM, train: TrainSettings = FAST, **changes) -> Context:
    return Context(adapter.clone(), FORGET, RETAIN, train, seed=1, **changes)


def weights(adapter: CausalLM) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in adapter.module.named_parameters()}


@pytest.mark.mechanism("task_vector", "theta - k vector", kind="loss")
def test_put_by_hand_and_strength_zero() -> None:
    """theta = (1, 2), vector (0.5, -1): k = 2 gives (0, 4); k = 0 gives the same bits back."""

    class Adapter:
        module = nn.ParameterDict(
            {"w": nn.Parameter(torch.tensor([1.0, 2.0])), "other": nn.Parameter(torch.tensor([7.0]))}
        )

    start, vector = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([0.5, -1.0])}
    task_vector.put(Adapter, start, vector, 2.0)
    assert Adapter.module["w"].tolist() == [0.0, 4.0] and Adapter.module["other"].tolist() == [7.0]
    task_vector.put(Adapter, start, vector, 0.0)
    assert torch.equal(Adapter.module["w"].data, start["w"])


def test_probability_is_the_mean_of_length_normalised_probabilities(start: CausalLM) -> None:
    """exp(mean token log-prob) per row, then the mean; equal whatever the token budget."""
    encoded = [start.encode(row) for row in RETAIN]
    values = []
    for row in encoded:
        batch = start.collate([row], [0])
        with start.evaluating():
            logp = torch.log_softmax(start.forward(batch).logits, -1).gather(1, batch.label_id[:, None])
        values.append(float(logp.mean().exp()))
    want = sum(values) / len(values)
    assert task_vector.probability(start, RETAIN, 4096) == pytest.approx(want, rel=1e-4)
    assert task_vector.probability(start, RETAIN, 1) == pytest.approx(want, rel=1e-4)


@pytest.mark.mechanism("task_vector", "the vector of a plain fine-tuning on forget rows")
def test_edit_is_minus_k_times_the_vector_of_a_plain_fine_tuning(start: CausalLM) -> None:
    from efface.engine.finetune import fit

    reinforced = start.clone()
    fit(reinforced, FORGET, FAST, seed=1)
    case = context(start)
    METHODS.get("task_vector")(scale=0.5).apply(case)
    before, after, further = weights(start), weights(case.adapter), weights(reinforced)
    moved = [n for n in before if not torch.equal(before[n], further[n])]
    assert moved
    for name in before:
        assert torch.allclose(after[name], before[name] - 0.5 * (further[name] - before[name]), atol=1e-7), name


def test_scale_zero_leaves_the_target_bit_identical(start: CausalLM) -> None:
    case = context(start)
    METHODS.get("task_vector")(scale=0.0).apply(case)
    before, after = weights(start), weights(case.adapter)
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("name", ["task_vector", "whp_logits"])
@pytest.mark.parametrize(
    "change", [{"forget_weight": 0.5}, {"stop_nll": 1.0}, {"rule": "sam"}, {"rule_settings": {"rho": 1.0}}]
)
def test_settings_of_a_loss_it_does_not_have_are_refused(name: str, change: dict, start: CausalLM) -> None:
    with pytest.raises(SpecError, match=f"train.{next(iter(change))} has no meaning"):
        METHODS.get(name)().check(context(start, FAST.model_copy(update=change)))


@pytest.mark.mechanism("task_vector", "k chosen on retain rows")
def test_chosen_k_is_the_largest_that_keeps_retention(start: CausalLM) -> None:
    case = context(start)
    method = METHODS.get("task_vector")(grid=(0.5, 0.1, 1.0, 40.0), tau=0.9)
    method.apply(case)
    note = case.notes["task_vector"]
    floor = 0.9 * note["curve"][0]["retain_probability"]
    assert [p["k"] for p in note["curve"]][:4] == [0.0, 0.1, 0.5, 1.0]
    assert note["scale"] == max(p["k"] for p in note["curve"][1:] if p["retain_probability"] >= floor) > 0
    assert task_vector.probability(case.adapter, RETAIN, 4096) >= floor
    assert task_vector.probability(case.adapter, FORGET, 4096) < task_vector.probability(start, FORGET, 4096)


def test_choice_by_hand() -> None:
    """tau 0.9 of 0.8 is 0.72: k = 2 (0.74) passes although k = 1 (0.7) does not; nothing passing is an error."""
    method = METHODS.get("task_vector")(tau=0.9)
    curve = [{"k": k, "retain_probability": p} for k, p in ((0, 0.8), (0.5, 0.79), (1, 0.7), (2, 0.74), (3, 0.5))]
    assert method._choose(curve) == 2
    with pytest.raises(RunFailed, match="task_vector.no-scale"):
        method._choose([curve[0], curve[4]])


def test_k_is_chosen_on_retain_rows_only(start: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = task_vector.probability

    def spy(adapter, rows, budget):
        seen.extend(row.id for row in rows)
        return real(adapter, rows, budget)

    monkeypatch.setattr(task_vector, "probability", spy)
    METHODS.get("task_vector")(grid=(0.1,), held=3, tau=0.5).apply(context(start))
    assert set(seen) <= {row.id for row in RETAIN} and len(set(seen)) == 3


def test_lora_reinforcement_is_merged_before_the_difference(start: CausalLM) -> None:
    case = context(
        start, FAST.model_copy(update={"select": FAST.select.model_copy(update={"kind": "lora", "rank": 2})})
    )
    METHODS.get("task_vector")(scale=1.0).apply(case)
    before, after = weights(start), weights(case.adapter)
    assert before.keys() == after.keys()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and all("proj" in n for n in changed)


def test_refusals(start: CausalLM) -> None:
    with pytest.raises(NeedsError, match="method.needs-retain"):
        METHODS.get("task_vector")().apply(replace(context(start), retain=[]))
    METHODS.get("task_vector")(scale=0.1).check(replace(context(start), retain=[]))
    with pytest.raises(NeedsError, match="task_vector.bad-grid"):
        METHODS.get("task_vector")(grid=(0.0, 1.0)).apply(context(start))
    frozen = FAST.model_copy(update={"steps": 0})
    with pytest.raises(RunFailed, match="task_vector.no-change"):
        METHODS.get("task_vector")(scale=1.0).apply(context(start, frozen))


def test_the_target_and_its_rows_are_left_alone(start: CausalLM) -> None:
    before = copy.deepcopy(weights(start))
    METHODS.get("task_vector")(scale=1.0).apply(context(start))
    after = weights(start)
    assert all(torch.equal(before[n], after[n]) for n in before)
