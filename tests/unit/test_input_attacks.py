"""Attacks in the input space: gradients and losses against direct computation, splits, controls, and what is kept of a
guard."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from efface.attacks import greedy_coordinate
from efface.attacks.base import AttackContext
from efface.attacks.embedding import AFFIRMATIVE, Embedding, beginning
from efface.attacks.free_inputs import (
    Slope,
    around,
    descend,
    first_token,
    free_ids,
    random_targets,
    slope,
    start_vectors,
    steps_to_say,
)
from efface.attacks.gcg import GCG
from efface.attacks.greedy_coordinate import (
    losses,
    one_hot_gradient,
    opened,
    search,
    swapped,
    usable_tokens,
)
from efface.attacks.held_out import overlap
from efface.attacks.soft_prompt import SoftPrompt
from efface.attacks.some_rows import evenly
from efface.attacks.splits import tested_rows as left_to_test
from efface.attacks.splits import trained_rows
from efface.audit.attacks import Runner
from efface.audit.roles import PassSettings, Role
from efface.data.rows import Row
from efface.engine.finetune import fit
from efface.engine.settings import TrainSettings
from efface.guards import Instruction
from efface.models.causal_lm import CausalLM
from efface.models.tampering import StateEdit, Tampering
from efface.passes.cache import fingerprint
from efface.passes.score import score
from efface.suites import AttackEntry, Suite
from efface.testing.battery import mean_log_prob
from efface.testing.bench import bench

SUITE = Suite(name="t", metrics={"forget": ["probability"]}, attack_metrics=["probability"], max_new_tokens=8)


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


@pytest.fixture(scope="module")
def model(b) -> CausalLM:
    return b.model("target")


@pytest.fixture(scope="module")
def rows(b) -> list[Row]:
    return list(b.data.eval["forget"][:5])


def row_losses(model: CausalLM, rows: list[Row]) -> list[float]:
    """Mean NLL per row, from the score pass."""
    return [-sum(lp) / len(lp) for lp in score(model, rows).tokens["lp"].to_pylist()]


def pushed(model: CausalLM) -> CausalLM:
    """The model with a fixed push at the position that predicts the answer's first token."""
    push = torch.randn(model.hf.config.hidden_size, generator=torch.Generator().manual_seed(0))
    return model.tampered(Tampering(edits=[StateEdit(1, "add", 2.5 * push, where="last_prompt")]))


@pytest.fixture(scope="module")
def refusing(b) -> CausalLM:
    """Planted: the target taught to refuse the forgotten people's questions."""
    model = b.model("target")
    rows = [replace(r, answer="I cannot say.") for r in b.data.train["forget"] if r.prompt]
    fit(model, rows, TrainSettings(lr=1e-3, steps=30, batch_size=24), seed=0)
    return model


# -- splits ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["fact", "entity"])
def test_trained_and_tested_questions_share_no_fact_and_tell_nothing(b, by: str) -> None:
    trained, tested = (f(b.data, by, 0.5) for f in (trained_rows, left_to_test))
    assert trained and tested and not {r.fact for r in trained} & {r.fact for r in tested}
    assert not overlap(trained, tested)
    people = {r.entity for r in trained}, {r.entity for r in tested}
    assert people[0] == people[1] if by == "fact" else not people[0] & people[1]
    for attack in (SoftPrompt, GCG):
        assert list(attack(split=by).measured(b.data)["forget"]) == tested and attack(split=by).check(b.data) == ""


def test_one_fact_or_one_entity_cannot_be_split(b) -> None:
    one = replace(b.data, eval={"forget": [r for r in b.data.eval["forget"] if r.entity == b.data.world.people[0]]})
    assert "split by entity" in SoftPrompt(split="entity").check(one) and SoftPrompt().check(one) == ""
    documents = replace(b.data, eval={"forget": [Row("d", "A passage.")]})
    assert all("documents" in attack().check(documents) for attack in (SoftPrompt, GCG, Embedding))


def test_evenly_spread_by_hand() -> None:
    assert evenly(list(range(10)), 4) == [0, 2, 5, 7] and evenly([1, 2], 4) == [1, 2]


# -- free vectors ----------------------------------------------------------------------------------------------------
def test_losses_are_those_of_the_score_pass_and_gradients_those_of_finite_differences(model, rows) -> None:
    vectors = start_vectors(model, 2)
    free = around(model, {"": free_ids(model, 2)}, vectors)
    encoded = [free.encode(r) for r in rows]
    found, small = slope(free, encoded, vectors), slope(free, encoded, vectors, token_budget=1)
    assert found.loss.tolist() == pytest.approx(row_losses(free, rows), abs=1e-4)
    assert torch.allclose(found.gradient, small.gradient, atol=1e-4) and torch.allclose(
        found.loss, small.loss, atol=1e-4
    )
    for place in ((0, 3), (1, 10)):
        step = 1e-2
        around_it = []
        for sign in (1, -1):
            moved = vectors.detach().clone()
            moved[place] += sign * step
            around_it.append(sum(row_losses(around(model, {"": free_ids(model, 2)}, moved), rows)))
        numeric = (around_it[0] - around_it[1]) / (2 * step)
        assert float(found.gradient[place]) == pytest.approx(numeric, rel=0.05, abs=2e-3)


def test_a_target_counts_as_said_when_greedy_decoding_gives_all_of_it(model, b) -> None:
    known, unknown = b.data.eval["retain"][0], b.data.eval["holdout"][0]
    vectors = start_vectors(model, 1)
    plain = around(model, {known.id: (), unknown.id: ()}, vectors)
    own = around(model, {"none": ()}, vectors)
    assert own.encode(known).payload == model.encode(known).payload
    encoded = [plain.encode(r) for r in (known, unknown)]
    with_one = around(model, {unknown.id: free_ids(model, 1)}, vectors)
    found = slope(with_one, [encoded[0], with_one.encode(unknown)], vectors)
    assert found.said.tolist() == [True, False]


def test_vectors_start_as_exclamation_marks_and_descend(model, rows) -> None:
    vectors = start_vectors(model, 3)
    typed = around(model, {"": [first_token(model)] * 3})
    free = around(model, {"": free_ids(model, 3)}, vectors)
    assert row_losses(free, rows) == row_losses(typed, rows)
    for rule, rate in (("sign", 0.1), ("adam", 0.2)):
        moving = start_vectors(model, 3)
        free = around(model, {"": free_ids(model, 3)}, moving)
        found = [
            float(s.loss.mean())
            for s in descend(free, [free.encode(r) for r in rows], moving, steps=12, rate=rate, rule=rule)
        ]
        assert len(found) == 13 and found[-1] < 0.7 * found[0]


def test_random_targets_keep_the_frame_and_differ_by_row_and_seed(model, b, rows) -> None:
    """Only the tokens of the object are drawn; without anything that tells, all but the end token are."""
    encoded = [model.encode(r) for r in rows]
    drawn, again, other = (random_targets(model, rows, encoded, seed) for seed in (0, 0, 1))
    branches = [[e.payload.branches[0] for e in one] for one in (encoded, drawn, again, other)]
    objects = {f.id: f.object for f in b.data.world.facts}
    assert branches[1] == branches[2] != branches[3]
    for row, true, random in zip(rows, branches[0], branches[1], strict=True):
        moved = [i for i, (x, y) in enumerate(zip(true, random, strict=True)) if x != y]
        told = model.tokenizer.decode([true[i] for i in moved])
        assert moved and len(true) == len(random) and true[-1] == random[-1] and not set(random[:-1]) & model.stops
        assert all(word in f"{row.answer.split()} {objects[row.fact]}" for word in told.split())
        kept = model.tokenizer.decode([t for i, t in enumerate(random) if i not in moved])
        assert row.entity in kept and objects[row.fact] not in model.tokenizer.decode(random)
    silent = Row("s", "Ada was born.", "Where was Ada born?")
    one = model.encode(silent)
    (all_drawn,) = random_targets(model, [silent], [one], 0)
    assert (
        sum(x == y for x, y in zip(one.payload.branches[0][:-1], all_drawn.payload.branches[0][:-1], strict=True)) <= 1
    )


def test_steps_to_say_by_hand() -> None:
    """Row 0 at step 1, row 1 never, row 2 from the start; what comes later changes nothing."""
    said = [[False, False, True], [True, False, False], [True, False, True], [False, False, True]]
    slopes = [Slope(torch.zeros(3), torch.tensor(s), torch.zeros(1)) for s in said]
    assert steps_to_say(iter(slopes)).tolist() == [1.0, math.inf, 0.0]


class Hidden(CausalLM):
    """A model that gives logits without a gradient."""

    def forward(self, batch, **options):
        with torch.no_grad():
            return super().forward(batch, **options)


@pytest.mark.parametrize("name", ["soft_prompt", "embedding", "gcg"])
def test_a_model_that_hides_its_gradients_is_skipped_by_name(b, model, name: str) -> None:
    hiding = Hidden(model.module, model.tokenizer)
    runner = Runner(
        {"unlearned": Role(lambda: hiding)}, b.data, SUITE, PassSettings(8), seed=0, resamples=20, cache=None
    )
    result = runner.run(AttackEntry(name=name))
    assert "attack.no-gradients" in result.reason and not result.curves


# -- soft prompt -----------------------------------------------------------------------------------------------------
def test_a_soft_prompt_brings_back_what_was_not_trained_and_less_from_the_reference(b, refusing) -> None:
    """Tested facts only, on a planted concealment."""
    attack = SoftPrompt(steps=(5, 40), vectors=4, control=False)
    tested = attack.measured(b.data)["forget"]

    def curve(adapter) -> list[float]:
        return [mean_log_prob(p.adapter, tested) for p in attack.points(AttackContext(adapter, b.data))]

    before, after, control = mean_log_prob(refusing, tested), curve(refusing), curve(b.model("reference"))
    assert after[-1] > before + 0.5 and after[-1] > control[-1] + 0.5 and len(after) == 2


@pytest.mark.parametrize("attack", [SoftPrompt, Embedding, GCG])
def test_what_is_around_the_model_stays_there(b, attack) -> None:
    model = pushed(b.model("target"))
    point = next(attack(steps=(1,)).points(AttackContext(model, b.data)))
    assert point.adapter.tampering.edits == model.tampering.edits and point.adapter.tampering.suffix


def test_a_soft_prompt_reports_its_price_and_its_random_twin(b) -> None:
    model = b.model("reference")
    points = list(SoftPrompt(steps=(1, 15), vectors=3).points(AttackContext(model, b.data)))
    width = model.hf.config.hidden_size
    for point in points:
        assert point.supplied["trained_parameters"] == 3 * width and point.supplied["bits"] == 96 * width
        assert point.supplied["rows"] == len(evenly(trained_rows(b.data, "fact", 0.5), 32))
    first, last = (p.supplied for p in points)
    assert last["gold_loss"] < first["gold_loss"] < first["random_loss"]
    assert last["random_loss"] < first["random_loss"]
    assert (
        "random_loss" not in next(SoftPrompt(steps=(1,), control=False).points(AttackContext(model, b.data))).supplied
    )


@pytest.mark.parametrize("attack", [SoftPrompt, GCG])
def test_answers_that_are_trained_on_are_counted(b, attack) -> None:
    """Tokens of the training answers, each with its end."""
    made, model = attack(steps=(1,), rows=3), b.model("target")
    point = next(made.points(AttackContext(model, b.data)))
    answers = [model.template.answer_ids(model.tokenizer, r.answer) for r in made.training(b.data)]
    assert point.supplied["label_tokens"] == sum(map(len, answers)) > 3 == len(answers)


def test_a_point_keeps_its_vectors_while_the_search_goes_on(b, rows) -> None:
    points = SoftPrompt(steps=(1, 4), control=False).points(AttackContext(b.model("target"), b.data))
    first = next(points)
    before = row_losses(first.adapter, rows)
    second = next(points)
    assert row_losses(first.adapter, rows) == before != row_losses(second.adapter, rows)


# -- embedding -------------------------------------------------------------------------------------------------------
def test_beginnings_hold_nothing_that_the_question_does_not_give() -> None:
    row = Row("r", "Ada Lund was born in New Harbour.", "Where was Ada Lund born?")
    assert beginning(row) == "Ada Lund was born in" == beginning(row, "New Harbour")
    assert beginning(replace(row, answer="New Harbour is where.")) == AFFIRMATIVE
    assert beginning(replace(row, answer="Ada Lund was born.")) == AFFIRMATIVE
    assert beginning(replace(row, answer="Ada is a pilot by trade."), "pilot") == "Ada is a"


def test_embedding_moves_each_question_for_itself_and_counts_steps(b) -> None:
    """The vectors of one question are the same whether others are attacked beside it or not."""
    model = b.model("reference")
    few = replace(b.data, eval={"forget": b.data.eval["forget"][:1]})
    some = replace(b.data, eval={"forget": b.data.eval["forget"][:3]})
    attack = Embedding(steps=(3, 8), vectors=2)
    (_, alone), (_, beside) = (list(attack.points(AttackContext(model, data))) for data in (few, some))
    per_row = alone.adapter.tampering.virtual.shape[0]
    assert per_row == 2 and beside.adapter.tampering.virtual.shape[0] == 6
    assert torch.allclose(alone.adapter.tampering.virtual, beside.adapter.tampering.virtual[:2], atol=1e-5)
    assert alone.best and alone.supplied["trained_parameters"] == 2 * model.hf.config.hidden_size
    for name in ("gold_steps", "random_steps"):
        assert 0 <= beside.supplied[name] <= 8
    assert beside.supplied["margin_steps"] == beside.supplied["random_steps"] - beside.supplied["gold_steps"]
    assert "margin_steps" not in next(Embedding(margin=False, steps=(1,)).points(AttackContext(model, few))).supplied


def test_the_margin_is_that_of_a_model_that_knows(b) -> None:
    """The target says its answers at once and the random ones late or never; the reference needs all steps for both."""
    few = replace(b.data, eval={"forget": b.data.eval["forget"][:4]})
    known, unknown = (
        next(Embedding(steps=(30,), vectors=4).points(AttackContext(b.model(role), few))).supplied
        for role in ("target", "reference")
    )
    assert known["gold_said"] == 1 and known["gold_steps"] < 5 and known["margin_steps"] > 10
    assert unknown["margin_steps"] < known["margin_steps"] - 10


# -- greedy coordinate gradient --------------------------------------------------------------------------------------
def suffixes(model, count: int, length: int = 4) -> list[tuple[int, ...]]:
    draw = torch.Generator().manual_seed(1)
    return [tuple(torch.randint(4, len(model.tokenizer), (length,), generator=draw).tolist()) for _ in range(count)]


@pytest.mark.parametrize("budget", [4096, 40])
@pytest.mark.parametrize("edited", [False, True])
def test_candidate_suffixes_are_evaluated_exactly(model, rows, budget: int, edited: bool) -> None:
    """Mean row loss of the score pass, one suffix at a time, whatever is around the model and in a batch."""
    given = pushed(model) if edited else model
    tried = suffixes(model, 5)
    for suffix, loss in zip(tried, losses(given, opened(given, rows), tried, budget).tolist(), strict=True):
        alone = row_losses(around(given, {"": suffix}), rows)
        assert loss == pytest.approx(sum(alone) / len(alone), abs=1e-4)


def test_a_question_is_run_once_for_all_suffixes_behind_it(model, rows) -> None:
    """Ten suffixes of a question of 8 tokens or more: its ids enter the model once, the rest ten times."""
    (row,) = opened(model, [replace(rows[0], prompt=f"{rows[0].prompt} {rows[1].prompt}")])
    seen, inner = [], model.module.forward
    model.module.forward = lambda *a, **k: seen.append(k["input_ids"].numel()) or inner(*a, **k)
    try:
        losses(model, [row], suffixes(model, 10))
    finally:
        model.module.forward = inner
    whole = 10 * (len(row.before) + 4 + len(row.after) + len(row.answer) - 1)
    assert sum(seen) <= whole - 9 * len(row.before)


def test_one_hot_gradient_equals_autograd_on_one_hot_inputs(model, rows) -> None:
    """Suffix tokens as one-hot rows times the embedding matrix, everything else as it is."""
    suffix = suffixes(model, 1)[0]
    table = model.hf.get_input_embeddings().weight
    one_hot = torch.nn.functional.one_hot(torch.tensor(suffix), len(table)).float().requires_grad_(True)
    total = torch.zeros(())
    for row in opened(model, rows):
        ids = torch.tensor([[*row.before, *suffix, *row.after, *row.answer]])
        inputs = table[ids[0]].detach().clone()
        start = len(row.before)
        inputs = torch.cat([inputs[:start], one_hot @ table.detach(), inputs[start + len(suffix) :]])
        logits = model.module(inputs_embeds=inputs[None]).logits[0]
        scored = logits[-len(row.answer) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(scored, torch.tensor(row.answer)) / len(rows)
    (expected,) = torch.autograd.grad(total, one_hot)
    assert torch.allclose(one_hot_gradient(model, rows, suffix), expected, atol=1e-4)


def run(model, rows, how: str, seed: int = 0, steps: int = 12) -> list:
    return list(search(model, rows, tokens=6, steps=steps, candidates=16, top=32, seed=seed, how=how))


def test_the_loss_never_rises_and_is_that_of_the_suffix(model, rows) -> None:
    found = run(pushed(model), rows, "gradient")
    values = [f.loss for f in found]
    assert values == sorted(values, reverse=True) and values[-1] < values[0] - 0.1
    assert [f.tried for f in found] == [1 + 16 * i for i in range(13)]
    last = pushed(model).tampered(replace(pushed(model).tampering, suffix={"": found[-1].suffix}))
    assert found[-1].loss == pytest.approx(sum(row_losses(last, rows)) / len(rows), abs=1e-4)
    usable = usable_tokens(model)
    assert all(bool(usable[t]) for t in found[-1].suffix) and not bool(usable[list(model.stops)].any())


def test_gradients_beat_random_search_and_the_wrong_sign_with_as_many_tries(refusing, rows, monkeypatch) -> None:
    """On the planted refusal, seed by seed; candidates from the ascending side do as badly as random ones."""

    def ends(how: str) -> list:
        return [run(refusing, rows, how, seed)[-1] for seed in range(3)]

    guided, blind = ends("gradient"), ends("random")
    monkeypatch.setattr(greedy_coordinate, "one_hot_gradient", lambda *given: -one_hot_gradient(*given))
    uphill = ends("gradient")
    assert [f.tried for f in guided] == [f.tried for f in blind] == [f.tried for f in uphill]
    for best, *others in zip(guided, blind, uphill, strict=True):
        assert all(best.loss < other.loss for other in others)
    assert sum(f.loss for f in guided) < 0.9 * sum(f.loss for f in blind)


def test_the_same_seed_finds_the_same_suffix(model, rows) -> None:
    first, again, other = (run(model, rows, "gradient", seed, 3)[-1].suffix for seed in (0, 0, 1))
    assert first == again != other and swapped((1, 2, 3), 1, 9) == (1, 9, 3)


def test_gcg_tests_other_facts_with_the_suffix_it_found(b) -> None:
    attack = GCG(steps=(1, 3), tokens=4, candidates=8, rows=4)
    points = list(attack.points(AttackContext(b.model("target"), b.data)))
    for point in points:
        (suffix,) = point.adapter.tampering.suffix.values()
        assert len(suffix) == 4 == point.supplied["context_tokens"]
        assert point.supplied["bits"] == round(4 * math.log2(int(usable_tokens(point.adapter).sum())), 1)
    assert [p.supplied["tried"] for p in points] == [9, 25]
    assert points[1].supplied["training_loss"] <= points[0].supplied["training_loss"]


def test_a_guard_in_front_stays_in_front(b, rows) -> None:
    """The suffix is put behind what the guard lets through."""
    target = b.model("target")
    config = {"names": sorted({r.entity for r in rows}), "instead": "What is up?"}
    guard = Instruction(fingerprint(target), "t", config=config).attach(target)
    places = opened(guard, rows)
    assert len({p.before for p in places}) == 1 and "What is up?" in guard.tokenizer.decode(places[0].before)
    alone = row_losses(guard.tampered(Tampering(suffix={"": (300, 301)})), rows)
    assert losses(guard, places, [(300, 301)]).tolist() == pytest.approx([sum(alone) / len(alone)], abs=1e-4)
