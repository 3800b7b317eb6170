"""Attacks on activations: each does what it says, where it says, and nothing elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from efface.attacks.anonymise import anonymised, placeholders, renamed, split_entities, subject
from efface.attacks.base import ATTACKS, AttackContext
from efface.attacks.early_exit import EarlyExit
from efface.attacks.lead_in import LeadIn, with_edits
from efface.attacks.orthogonalise import Orthogonalise, directions, typical
from efface.attacks.own_prompts import distinct
from efface.attacks.patch import Patch
from efface.attacks.steer import Steer, steer
from efface.data.rows import Row
from efface.data.worlds.objects import lead_in
from efface.engine.settings import Select
from efface.errors import NeedsError
from efface.metrics.stats import bootstrap_difference
from efface.models.tampering import StateEdit, Tampering
from efface.passes.prompt_states import prompt_states, span
from efface.passes.score import score
from efface.testing.battery import mean_log_prob, outputs, prepared
from efface.testing.bench import Bench, bench


@pytest.fixture(scope="module")
def lm() -> Bench:
    return bench("causal_lm")


@pytest.fixture(scope="module")
def refusing(lm: Bench):
    """A target whose last block alone was taught to refuse: the knowledge is there, the outputs do not show it."""
    last = len(lm.model("target").blocks) - 1
    method, context = prepared(
        "idk",
        lm,
        steps=60,
        forget=[r for r in lm.data.train["forget"] if r.prompt],
        lr=3e-3,
        select=Select(kind="layers", first=last),
        retain_weight=2.0,
    )
    method.apply(context)
    return context.adapter


def plant(adapter, layer: int, vector: Tensor) -> None:
    """Add ``vector`` to the output of one block, at every position, as steering at that layer would."""
    adapter.blocks[layer - 1].mlp.register_forward_hook(lambda module, args, out: out + vector)


def by_row(adapter, rows) -> np.ndarray:
    return np.array([np.exp(np.mean(lp)) for lp in score(adapter, rows).tokens["lp"].to_pylist()])


def likelihood(adapter, rows) -> float:
    return float(by_row(adapter, rows).mean())


def curve(attack, adapter, lm: Bench, original: str = "target") -> list[tuple[dict, float]]:
    """(budget, mean probability of the measured forget answers) of every point."""
    context = AttackContext(adapter.clone(), lm.data, 5, original=lambda: lm.model(original))
    rows = attack.measured(lm.data)["forget"]
    return [
        (dict(p.budget), likelihood(p.adapter, p.rows("forget", rows) if p.rows else rows))
        for p in attack.points(context)
    ]


# -- vectors of single prompts -----------------------------------------------------------------------------------------
def test_own_vectors_reach_their_prompt_and_place_only(lm: Bench) -> None:
    """Adding 3 at place 2 of one prompt changes that row's states there and later, and no other row."""
    model, rows = lm.model("target"), list(lm.data.eval["forget"])[:3]
    before = prompt_states(model, rows, [1])
    own = {state.ids: ([2], torch.zeros(1, 64)) for state in before}
    own[before[1].ids] = ([2], torch.full((1, 64), 3.0))
    after = prompt_states(with_edits(model, [StateEdit(1, "add", own=own)]), rows, [1])
    moved = [(b.layers[1] - a.layers[1]).abs().amax(1) for a, b in zip(before, after, strict=True)]
    assert moved[0].max() == 0 and moved[2].max() == 0
    assert torch.allclose(moved[1][2], torch.tensor(3.0), atol=1e-5) and moved[1][[0, 1, 3]].max() == 0


def test_a_prompt_without_its_vector_is_refused(lm: Bench) -> None:
    model, rows = lm.model("target"), list(lm.data.eval["forget"])[:2]
    own = {prompt_states(model, rows[:1], [1])[0].ids: ([0], torch.zeros(1, 64))}
    with pytest.raises(NeedsError, match="tampering.unknown-prompt"):
        score(with_edits(model, [StateEdit(1, "add", own=own)]), rows)


def test_digest_tells_own_vectors_apart() -> None:
    a, b = ({(1, 2): ([0], torch.full((1, 2), v))} for v in (1.0, 2.0))
    edits = [StateEdit(1, "add", own=own) for own in (a, b, {(1, 2): ([1], a[1, 2][1])})]
    assert len({edit.digest() for edit in edits}) == 3


def test_forced_starts_are_each_rows_own(lm: Bench) -> None:
    """Scoring the rest of the answer after a forced start gives the log-probs that the whole answer has there."""
    model, row = lm.model("target"), lm.data.eval["forget"][0]
    lead = LeadIn({row.id: lead_in(row.answer, row.answer.split()[-1])})
    whole = outputs(model, [row])[0]
    rest = outputs(lead.put_on(model), lead.cut("forget", [row]))[0]
    assert len(rest) < len(whole) and rest == pytest.approx(whole[-len(rest) :], abs=1e-4)


def test_skipping_needs_a_block(lm: Bench) -> None:
    with pytest.raises(NeedsError, match="tampering.cannot-skip"):
        mean_log_prob(
            lm.model("target").tampered(Tampering(edits=[StateEdit(0, "skip")])), list(lm.data.eval["forget"])[:1]
        )


# -- anonymised questions ----------------------------------------------------------------------------------------------
def test_subject_is_the_entity_or_the_longest_name() -> None:
    assert subject(Row("a", "x", "Where does Ann Lee live?", "Ann Lee")) == "Ann Lee"
    assert subject(Row("b", "x", "What did Jo Ann Poe write in New York?", "author-3")) == "Jo Ann Poe"
    assert subject(Row("c", "x", "what is this?", "Ann Lee")) == ""


def test_renaming_replaces_whole_words_only() -> None:
    row = renamed(Row("a", "Ann is Ann's.", "Is Ann in Annam?"), "Ann", "Bo")
    assert (row.prompt, row.answer) == ("Is Bo in Annam?", "Bo is Bo's.")


def test_placeholders_are_kept_people_and_one_unknown_name(lm: Bench) -> None:
    row, world = lm.data.eval["forget"][0], lm.data.world
    others = placeholders(row, lm.data, 4)
    forgotten = {r.entity for r in lm.data.eval["forget"]}
    assert len(others) == 4 and not set(others) & (forgotten | set(world.holdout))
    assert sum(name in world.people for name in others) == 3
    variants = anonymised(row, lm.data, 4)
    assert all(row.entity not in v.prompt + v.answer for v in variants) and len({v.id for v in variants}) == 4


def test_selection_and_test_entities_are_disjoint() -> None:
    rows = [Row(f"{e}{i}", "a", "q", e) for e in "abcd" for i in range(3)]
    choosing, tested = split_entities(rows, 0.25, "x")
    assert len({r.entity for r in choosing}) == 1 and not {r.entity for r in choosing} & {r.entity for r in tested}
    assert len(choosing) + len(tested) == 12


def test_span_finds_a_name_among_tokens(lm: Bench) -> None:
    model, row = lm.model("target"), lm.data.eval["forget"][0]
    ids = model.encode(row).payload.prompt
    places = span(model, ids, row.entity)
    assert model.tokenizer.decode([ids[i] for i in places]).strip() == row.entity and span(model, ids, "Nobody X") == []


# -- steering ----------------------------------------------------------------------------------------------------------
def test_steering_vector_by_hand(lm: Bench) -> None:
    """S = A(Q) - mean A(Q*), at the last prompt place; the random control has its norm and another direction."""
    model, attack = lm.model("target"), Steer(layer=1, placeholders=3)
    row = attack.measured(lm.data)["forget"][0]
    variants = {row.id: anonymised(row, lm.data, 3)}
    ids, found = next(iter(attack._vectors(model, [row], variants, [1], 0)[1].items()))
    own = prompt_states(model, [row], [1])[0]
    others = [state.layers[1][-1] for state in prompt_states(model, variants[row.id], [1])]
    assert ids == own.ids and torch.allclose(found, own.layers[1][-1] - sum(others) / 3, atol=1e-5)
    drawn = Steer(layer=1, placeholders=3, direction="random")._vectors(model, [row], variants, [1], 0)[1][ids]
    assert float(drawn.norm()) == pytest.approx(float(found.norm()), rel=1e-5)
    assert abs(float(torch.cosine_similarity(drawn, found, dim=0))) < 0.7


def test_only_the_first_answer_token_is_steered(lm: Bench) -> None:
    """Steered at the last layer, the log-prob of the first token changes and that of every later token does not."""
    model, row = lm.model("target"), lm.data.eval["forget"][0]
    ids = prompt_states(model, [row], [1])[0].ids
    steered = steer(model, {ids: torch.randn(64, generator=torch.Generator().manual_seed(0)) * 20}, 2, 1.0)
    plain, moved = outputs(model, [row])[0], outputs(steered, [row])[0]
    assert abs(plain[0] - moved[0]) > 0.1 and plain[1:] == pytest.approx(moved[1:], abs=1e-5)


def test_steering_beats_a_random_vector_where_a_last_block_hides(lm: Bench, refusing) -> None:
    """Sheet 9 (g), paired by row at c = 4 and the layer before the changed block: the answers of a model whose last
    block
    refuses come back, by more than a random vector of equal norm gives; a model that never knew them gains no more from
    the anonymised vector than from the random one. (A random vector does give something: it disturbs the refusal.)"""
    rows = Steer(layer=1).measured(lm.data)["forget"]
    entities = [r.entity for r in rows]
    gains = {}
    for name, model in (("refusing", refusing), ("reference", lm.model("reference"))):
        for direction in ("anonymised", "random"):
            attack = Steer(coefficients=(4.0,), layer=1, direction=direction)
            point = next(attack.points(AttackContext(model.clone(), lm.data, 5)))
            gains[name, direction] = by_row(point.adapter, rows) - by_row(model, rows)
    none = np.zeros(len(rows))
    steered, drawn = gains["refusing", "anonymised"], gains["refusing", "random"]
    assert bootstrap_difference(steered, none, entities).low > 0
    assert bootstrap_difference(steered, drawn, entities).low > 0
    assert bootstrap_difference(steered, gains["reference", "anonymised"], entities).low > 0
    assert bootstrap_difference(gains["reference", "anonymised"], gains["reference", "random"], entities).low <= 0


def test_steering_refuses_questions_that_a_guard_makes_the_same(lm: Bench) -> None:
    model = lm.model("target")
    model.guarded_names, model.instead = tuple({r.entity for r in lm.data.eval["forget"]}), "What can you tell me?"
    with pytest.raises(NeedsError, match="attack.same-prompt"):
        list(Steer(layer=1).points(AttackContext(model, lm.data)))
    distinct([Row("a", "x", "q"), Row("b", "x", "r")], [(1, 2), (1, 3)])


def test_steering_says_why_it_cannot_run(lm: Bench) -> None:
    one = [r for r in lm.data.eval["forget"] if r.entity == lm.data.eval["forget"][0].entity]
    single = replace(lm.data, eval={**lm.data.eval, "forget": one})
    nameless = replace(lm.data, eval={**lm.data.eval, "forget": [Row("a", "x", "where?", "Ann Lee")]})
    assert "one entity" in Steer().check(single) and "names" in Steer().check(nameless)
    assert Steer(layer=1).check(single) == "" and len(Steer(layer=1).measured(single)["forget"]) == len(one)


def test_steering_refuses_a_layer_there_is_not(lm: Bench) -> None:
    with pytest.raises(NeedsError, match="attack.no-layer"):
        next(Steer(layer=3).points(AttackContext(lm.model("target"), lm.data)))


def test_lead_in_comes_first_and_alone(lm: Bench) -> None:
    budgets = [b for b, _ in curve(Steer(coefficients=(1.0,), layer=1, lead_in=True), lm.model("target"), lm)]
    assert budgets == [{"coefficient": 0.0, "lead_in": 1.0}, {"coefficient": 1.0, "lead_in": 1.0}]


# -- orthogonalisation -------------------------------------------------------------------------------------------------
def test_projecting_out_a_planted_steering_restores_the_knowledge(lm: Bench) -> None:
    """Steering planted at one layer: at least 80% of the lost probability is back when its direction is projected out,
    and a random direction of the same size restores nothing."""
    planted, rows = lm.model("target"), list(lm.data.eval["forget"])
    known = likelihood(planted, rows)
    drawn = torch.randn(64, generator=torch.Generator().manual_seed(1))
    plant(planted, 1, 40 * drawn / drawn.norm())
    broken = likelihood(planted, rows)
    assert broken < 0.5 * known
    best = max(value for _, value in curve(Orthogonalise(), planted, lm))
    assert (best - broken) / (known - broken) > 0.8
    other = torch.randn(64, generator=torch.Generator().manual_seed(2))
    elsewhere = planted.tampered(Tampering(edits=[StateEdit(1, "project_out", other)]))
    assert (likelihood(elsewhere, rows) - broken) / (known - broken) < 0.3


def test_planted_direction_is_found(lm: Bench) -> None:
    planted, rows = lm.model("target"), list(lm.data.eval["forget"])
    vector = torch.randn(64, generator=torch.Generator().manual_seed(1)) * 4
    plant(planted, 1, vector)
    found = directions(planted, lm.model("target"), rows, [1], 3.0)[1]
    assert float(torch.cosine_similarity(found[0], vector, dim=0)) > 0.99 and found[1] > 0


def test_outlier_tokens_are_left_out() -> None:
    """Norms 1 x 20 and one 100: mean 5.71, spread 21.1, z of the last is 4.5."""
    kept = typical(torch.tensor([1.0] * 20 + [100.0]), 3.0)
    assert kept.tolist() == [True] * 20 + [False] and typical(torch.ones(4), 3.0).all()


def test_largest_shift_goes_first_and_layers_are_checked(lm: Bench) -> None:
    planted = lm.model("target")
    plant(planted, 2, torch.full((64,), 3.0))
    context = AttackContext(planted, lm.data, original=lambda: lm.model("target"))
    points = list(Orthogonalise().points(context))
    assert [p.budget["layers"] for p in points] == [1, 2] and points[0].supplied["first_layer"] == 2
    with pytest.raises(NeedsError, match="attack.no-layer"):
        list(Orthogonalise(layers=(9,)).points(context))


# -- early exit --------------------------------------------------------------------------------------------------------
def test_early_exit_passes_by_a_broken_last_block(lm: Bench) -> None:
    """Exactly what the layer before says: breaking the last block changes nothing about it."""
    whole, broken, rows = lm.model("target"), lm.model("target"), list(lm.data.eval["forget"])
    plant(broken, 2, 30 * torch.randn(64, generator=torch.Generator().manual_seed(0)))
    skipped = [next(EarlyExit().points(AttackContext(m, lm.data))).adapter for m in (whole, broken)]
    assert outputs(skipped[0], rows) == outputs(skipped[1], rows)
    assert likelihood(broken, rows) < 0.1 < 0.5 < likelihood(skipped[1], rows)


def test_early_exit_counts_half_of_the_blocks(lm: Bench) -> None:
    assert EarlyExit()._skipped(3) == [1] and EarlyExit()._skipped(6) == [1, 2, 3] and EarlyExit()._skipped(1) == []
    assert EarlyExit()._skipped(30)[-1] == 15 and len(EarlyExit()._skipped(30)) == 6
    with pytest.raises(NeedsError, match="attack.no-layer"):
        list(EarlyExit(skipped=(2,)).points(AttackContext(lm.model("target"), lm.data)))


# -- patching ----------------------------------------------------------------------------------------------------------
def test_patching_the_last_layer_by_hand(lm: Bench) -> None:
    """The first answer token gets the log-prob that the patched model's own norm and head read off the original's last
    state; later tokens stay as they were."""
    model, rows = lm.model("reference"), list(lm.data.eval["forget"])
    attack = Patch(where="last", lead_in=False, layers=(2,))
    point = next(attack.points(AttackContext(model, lm.data, original=lambda: lm.model("target"))))
    patched, before = outputs(point.adapter, rows), outputs(model, rows)
    states = prompt_states(lm.model("target"), rows, [2])
    for row, state, p, b in zip(rows, states, patched, before, strict=True):
        gold = model.encode(row).payload.branches[0][0]
        with torch.no_grad():
            logits = model.hf.lm_head(model.hf.model.norm(state.layers[2][-1]))
        assert p[0] == pytest.approx(float(torch.log_softmax(logits, -1)[gold]), abs=1e-4)
        assert p[1:] == pytest.approx(b[1:], abs=1e-4)


def test_patching_a_model_with_its_own_states_changes_nothing(lm: Bench) -> None:
    target, rows = lm.model("target"), list(lm.data.eval["forget"])
    attack = Patch(lead_in=False)
    context = AttackContext(target, lm.data, original=lambda: lm.model("target"))
    points = list(attack.points(context))
    assert [p.budget["layer"] for p in points] == [1, 2]
    for point in points:
        for a, b in zip(outputs(point.adapter, rows), outputs(target, rows), strict=True):
            assert a == pytest.approx(b, abs=1e-4)


def test_patching_undoes_a_planted_break(lm: Bench) -> None:
    """Broken at block 1: the original's states at the last token bring back some of what was lost."""
    broken, rows = lm.model("target"), list(lm.data.eval["forget"])
    plant(broken, 1, 30 * torch.randn(64, generator=torch.Generator().manual_seed(0)))
    values = dict((b["layer"], v) for b, v in curve(Patch(lead_in=False, where="last"), broken, lm))
    assert values[2] > likelihood(broken, rows)


def test_patching_refuses_another_prompt(lm: Bench) -> None:
    model = lm.model("target")
    model.guarded_names, model.instead = tuple({r.entity for r in lm.data.eval["forget"]}), "What can you tell me?"
    with pytest.raises(NeedsError, match="attack.other-prompt"):
        list(Patch(lead_in=False).points(AttackContext(model, lm.data, original=lambda: lm.model("target"))))


@pytest.mark.parametrize("name", ["steer", "orthogonalise", "early_exit", "patch", "multi_hop"])
def test_prices_rise_with_the_rows(name: str, lm: Bench) -> None:
    half = replace(lm.data, eval={**lm.data.eval, "forget": [r for i, r in enumerate(lm.data.eval["forget"]) if i % 2]})
    assert 0 < ATTACKS.get(name)().forwards(half) < ATTACKS.get(name)().forwards(lm.data)


KEEPING = [Steer(layer=1, lead_in=True), Orthogonalise(), EarlyExit(), Patch()]


@pytest.mark.parametrize("attack", KEEPING, ids=lambda a: a.name)
def test_what_lies_around_a_model_stays_there(lm: Bench, attack) -> None:
    """A push at block 1 and ids behind the question, put there before the attack, are there at every point."""
    push = StateEdit(1, "add", torch.randn(64, generator=torch.Generator().manual_seed(0)))
    model = lm.model("target").tampered(Tampering(suffix={"": (5, 6)}, edits=(push,)))
    original = lm.model("target").tampered(Tampering(suffix={"": (5, 6)}))
    points = list(attack.points(AttackContext(model, lm.data, original=lambda: original)))
    assert points and all(p.adapter.tampering.edits[0] is push for p in points)
    assert all(p.adapter.tampering.suffix == {"": (5, 6)} for p in points)
