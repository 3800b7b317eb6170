"""Surrogates: filters and ratios by hand; surrogates are told from unrelated rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from efface.attacks.proximal import Filter, Judged, SurrogateSettings, acceptance, as_texts, draw
from efface.audit.consistency import consistency, stress
from efface.audit.roles import Role
from efface.data.benchmarks.people import People
from efface.data.worlds.surrogates import Surrogate, hand_made
from efface.errors import NeedsError
from efface.metrics.stats import auc
from efface.passes.mixed_sampling import Mixing, mixed_samples
from efface.passes.mixed_sampling import draw as draw_token
from efface.testing.bench import Bench, bench


@pytest.fixture(scope="module")
def lm() -> Bench:
    return bench("causal_lm")


# -- sampling ----------------------------------------------------------------------------------------------------------
def test_nucleus_by_hand() -> None:
    """p = .6, .3, .1: at top_p .5 only the first is left, at .8 the first two."""
    scores = torch.log(torch.tensor([0.1, 0.6, 0.3]))
    stream = torch.Generator().manual_seed(0)
    for share, allowed in ((0.5, {1}), (0.8, {1, 2})):
        mixing = Mixing(temperature=1.0, top_k=3, top_p=share)
        assert {draw_token(scores, mixing, stream) for _ in range(60)} == allowed


def test_weight_one_is_the_first_model_alone(lm: Bench) -> None:
    """All weight on the target, next to no temperature: its greedy answer; and the seed decides, not the company."""
    model, other, row = lm.model("target"), lm.model("reference"), lm.data.eval["forget"][0]
    prompt = model.encode(row).payload.prompt
    greedy = Mixing(weight=1.0, temperature=1e-4, max_new_tokens=30)
    assert mixed_samples(model, other, [prompt], greedy, 0) == [row.answer]
    hot = Mixing(max_new_tokens=12)
    assert mixed_samples(model, other, [prompt] * 3, hot, 1)[0] == mixed_samples(model, other, [prompt], hot, 1)[0]


# -- filters -----------------------------------------------------------------------------------------------------------
def test_hand_made_surrogates_keep_their_source() -> None:
    data = People(people=12, forget=2, two_hop="stored", world_facts=False, everyday=False).load()
    found = hand_made(list(data.eval["forget"]), data.world)
    assert {s.kind for s in found} == {"paraphrase", "reversed", "two_hop", "alias"}
    rows = {r.id: r for r in data.eval["forget"]}
    assert all(s.source in rows and s.row.id == f"{s.source}~{s.kind}" for s in found)
    for s in found:
        assert s.row.prompt != rows[s.source].prompt
        if s.kind == "reversed":  # only where one person fits
            fact = next(f for f in data.world.facts if f.id == rows[s.source].fact)
            assert sum((f.relation, f.object) == (fact.relation, fact.object) for f in data.world.facts) == 1


def test_derivation_gap_tells_surrogates_from_unrelated_rows(lm: Bench) -> None:
    """Sheet 6 (g): AUC of the G1 gap at least .8: held-out wordings of forgotten facts against kept people's rows."""
    rows, world = list(lm.data.eval["forget"]), lm.data.world
    judge = Filter(lm.model("target"), lm.model("reference"), rows, SurrogateSettings(), world)
    mine = judge.judge(hand_made(rows, world, ("paraphrase",)))
    other = judge.judge([Surrogate(r, rows[0].id, "unrelated") for r in lm.data.eval["retain"]])
    assert auc(np.array([j.gap for j in mine]), np.array([j.gap for j in other])) >= 0.8
    assert all(j.checks["relevant"] for j in mine) and not all(j.checks["relevant"] for j in other)


def test_acceptance_by_hand() -> None:
    row = Surrogate(None, "a", "drawn")  # type: ignore[arg-type]
    judged = [
        Judged(row, 1.0, 2.0, -1.0, {"derived": True, "far": far, "fluent": True, "relevant": True})
        for far in (True, False)
    ]
    assert acceptance(judged)["far"] == 0.5 == acceptance(judged)["all"] and acceptance(judged)["candidates"] == 2
    assert acceptance([])["all"] == 0.0


def test_what_is_drawn_passes_every_check_and_repeats(lm: Bench) -> None:
    """Whatever is returned passes every check and names its source; the same seed gives the same texts."""
    settings = SurrogateSettings(candidates=6, rounds=1, max_new_tokens=16, distance=1e-6, frame="{text}")
    rows = as_texts(list(lm.data.eval["forget"]))
    judge = Filter(lm.model("target"), lm.model("reference"), rows, settings, lm.data.world)
    sources = [r.id for r in rows[:3]]
    found, rates = draw(judge, 0, sources)
    assert rates["candidates"] > 0 and all(j.passes() and j.surrogate.source in sources for j in found)
    assert [j.surrogate.row.answer for j in draw(judge, 0, sources)[0]] == [j.surrogate.row.answer for j in found]


# -- consistency -------------------------------------------------------------------------------------------------------
def both(unlearned_again: float, reference: float | None = None):
    """Six entities, one pair each: target 1, unlearned 0 on the rows and ``unlearned_again`` on the surrogates."""
    names = [f"r{i}" for i in range(6)]
    rows = {"target": dict.fromkeys(names, 1.0), "unlearned": dict.fromkeys(names, 0.0)}
    again = {r: {f"{n}~": v for n in names} for r, v in (("target", 1.0), ("unlearned", unlearned_again))}
    if reference is not None:
        rows["reference"] = dict.fromkeys(names, 0.0)
        again["reference"] = {f"{n}~": reference for n in names}
    return consistency("m", rows, again, {f"{n}~": n for n in names}, {n: n for n in names}, resamples=100)


def test_ratio_by_hand() -> None:
    """Fell by 1 on the rows and by .2 on the surrogates: rho .2, flagged; by .9: rho .9, not flagged."""
    low, high = both(0.8), both(0.1)
    assert low.rho == pytest.approx(0.2) and low.flag and high.rho == pytest.approx(0.9) and not high.flag
    assert low.gap is None and low.pairs == 6


def test_what_the_target_hardly_knew_cannot_fall_far() -> None:
    """The target has .3 on surrogates, a model that never knew .0 there and on the rows: all there was is gone, rho 1.
    Four pairs of four entities flag nothing, whatever they say."""
    names = [f"r{i}" for i in range(6)]
    none = {n: 0.0 for n in names}
    rows = {"target": dict.fromkeys(names, 1.0), "unlearned": none, "reference": none}
    again = {role: {f"{n}~": v for n in names} for role, v in (("target", 0.3), ("unlearned", 0.0), ("reference", 0.0))}
    same = {f"{n}~": n for n in names}
    found = consistency("m", rows, again, same, {n: n for n in names}, resamples=100)
    assert found.surrogates == pytest.approx(0.3) and found.rho == pytest.approx(1.0) and not found.flag
    kept = again | {"unlearned": {f"{n}~": 0.3 for n in names}}
    assert consistency("m", rows, kept, same, {n: n for n in names}, resamples=100).flag
    few = {name: source for name, source in same.items() if source < "r4"}
    assert not consistency("m", rows, kept, few, {n: n for n in names}, resamples=100).flag


def test_intervals_are_those_of_so_few_entities() -> None:
    """Seven entities, one pair each: ratio and gap of resampled means, read at Phi(-+ t_.975(6) sqrt(7/6))."""
    rng = np.random.default_rng(0)
    names = [f"r{i}" for i in range(7)]
    values = {
        (role, side): rng.uniform(*ends, 7)
        for role, ends in (("target", (0.8, 1.0)), ("unlearned", (0.1, 0.5)), ("reference", (0.0, 0.2)))
        for side in ("", "~")
    }
    rows, again = (
        {
            role: dict(zip([n + side for n in names], v.tolist(), strict=True))
            for (role, s), v in values.items()
            if s == side
        }
        for side in ("", "~")
    )
    sources, own = {f"{n}~": n for n in names}, {n: n for n in names}
    found = consistency("m", rows, again, sources, own, seed=3, resamples=500)
    times = np.random.default_rng(3).multinomial(7, [1 / 7] * 7, size=500)
    drawn = {key: times @ v / 7 for key, v in values.items()}
    fall = {side: drawn["target", side] - drawn["unlearned", side] for side in ("", "~")}
    gap = {side: np.abs(drawn["unlearned", side] - drawn["reference", side]) for side in ("", "~")}
    tail = scipy_stats.norm.cdf(scipy_stats.t.ppf([0.025, 0.975], 6) * np.sqrt(7 / 6))
    share = {side: fall[side] / (drawn["target", side] - drawn["reference", side]) for side in ("", "~")}
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(share["~"] / share[""], tail)))
    assert (found.gap_low, found.gap_high) == pytest.approx(tuple(np.quantile(gap["~"] - gap[""], tail)))


def test_gap_to_the_reference_by_hand() -> None:
    """|.45 - 0| on surrogates minus |0 - 0| on rows is .45, over a tenth of the range: flagged, although rho is .55.
    A gap of .05 is under it and is not."""
    assert both(0.45, 0.0).gap == pytest.approx(0.45) and both(0.45, 0.0).flag
    small = both(0.05, 0.0)
    assert small.gap == pytest.approx(0.05) and not small.flag


def test_surrogates_that_nobody_knows_are_dropped() -> None:
    with pytest.raises(NeedsError, match="consistency.no-pairs"):
        both(0.0, 1.0)


def test_stress_runs_a_metric_on_both_sets(lm: Bench) -> None:
    """The reference in the place of the unlearned model: probability falls on the rows and on their other wordings."""
    rows = list(lm.data.eval["forget"])
    made = hand_made(rows, lm.data.world, ("paraphrase",))
    roles = {"target": Role(lambda: lm.model("target")), "unlearned": Role(lambda: lm.model("reference"))}
    (found,) = stress(["probability"], roles, rows, made, world=lm.data.world, resamples=100)
    assert found.forgotten > 0.8 and found.pairs == len(made)
    with pytest.raises(NeedsError, match="consistency.no-rows"):
        stress(["pinpoint_auc"], roles, rows, made, world=lm.data.world)


def test_stress_refuses_metrics_without_a_side_before_it_runs_anything() -> None:
    """A distance falls when a model comes closer, whatever it knows: refused with no model loaded."""
    roles = {name: Role(lambda: pytest.fail("a model was loaded")) for name in ("target", "unlearned")}
    with pytest.raises(NeedsError, match="consistency.no-side") as error:
        stress(["probability", "truth_ratio_tofu_compat"], roles, [], [])
    assert "truth_ratio_tofu_compat" in str(error.value) and error.value.fix
