"""Knowledge given back in the prompt: what each level holds, how it is tagged, and what a filter makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from efface.attacks.base import AttackContext
from efface.attacks.context_providers import PROVIDERS, Knowledge, blocked
from efface.attacks.in_context import InContext
from efface.data.benchmarks.people import People
from efface.data.rows import Bundle, Row
from efface.data.telling import tells
from efface.data.worlds.objects import objects
from efface.guards import Instruction
from efface.passes.cache import fingerprint
from efface.report.doses import by_dose, minimal_dose, relearnability, told
from efface.runs.results import Point
from efface.testing.bench import bench

DOSES = (1, 2, 4)


@pytest.fixture(scope="module")
def data() -> Bundle:
    facts = ("born_in", "works_at", "studied_at", "profession", "birth_year")
    return People(people=16, forget=5, two_hop="stored", passages=True, world_facts=False, facts=facts).load()


@pytest.fixture(scope="module")
def model():
    return bench("causal_lm").model("target")


def points(data: Bundle, model, level: str, **settings):
    """[(point, rows before, rows after)] of the first measured set."""
    attack = InContext(level=level, doses=DOSES, **settings)
    name, rows = next(iter(attack.measured(data).items()))
    return [(p, rows, p.rows(name, rows)) for p in attack.points(AttackContext(model, data, seed=1))]


def context_of(before: Row, after: Row) -> str:
    return after.prompt.removesuffix(before.prompt)


@pytest.mark.parametrize("level", PROVIDERS)
def test_every_level_keeps_ids_grows_with_the_dose_and_says_what_it_supplies(data, model, level: str) -> None:
    found = points(data, model, level)
    tokens = [p.supplied["context_tokens"] for p, _, _ in found]
    assert [p.budget["facts"] for p, _, _ in found] == [1, 2, 4] and tokens == sorted(tokens) and tokens[0] > 3
    provider = PROVIDERS[level]
    for point, before, after in found:
        assert [r.id for r in before] == [r.id for r in after]
        assert point.supplied["level"] == provider.level
        assert point.supplied["contains_answer"] == float(level in ("symbol", "direct"))
        assert point.supplied["entails_answer"] == float(level in ("symbol", "direct"))


@pytest.mark.parametrize("level", ["irrelevant", "related", "passages", "demonstrations"])
def test_what_is_not_tagged_as_containing_the_answer_does_not(data, model, level: str) -> None:
    wanted = objects(data.world)
    for _, before, after in points(data, model, level):
        for old, new in zip(before, after, strict=True):
            assert new.answer == old.answer and not tells(context_of(old, new), old, wanted[old.fact])


def test_direct_gives_the_fact_and_also_asks_about_people_nobody_was_taught(data, model) -> None:
    wanted = objects(data.world)
    for _, before, after in points(data, model, "direct"):
        assert all(tells(context_of(a, c), a, wanted[a.fact]) for a, c in zip(before, after, strict=True))
    sets = InContext(level="direct").measured(data)
    assert list(sets) == ["forget", "holdout"] and {r.entity for r in sets["holdout"]} <= set(data.world.holdout)
    (point, *_) = InContext(level="direct").points(AttackContext(model, data))
    fresh = point.rows("holdout", sets["holdout"])
    assert all(a.answer_paraphrase in c.prompt for a, c in zip(sets["holdout"], fresh, strict=True))


def test_a_new_symbol_hides_every_name(data, model) -> None:
    for _, before, after in points(data, model, "symbol"):
        for old, new in zip(before, after, strict=True):
            assert old.entity not in new.prompt + new.answer + "".join(new.wrong) and new.prompt != old.prompt
            assert (
                new.prompt.endswith("?") and len({w for w in new.answer.split()} & {w for w in new.prompt.split()}) > 1
            )


def test_premises_hold_the_second_step_among_others_and_never_name_the_person(data, model) -> None:
    hops = {h.id: h for name in data.world.people for h in data.world.two_hop(name)}
    for (point, before, after), dose in zip(points(data, model, "premises"), DOSES, strict=True):
        assert point.supplied["answer_among"] == dose + 1
        for old, new in zip(before, after, strict=True):
            text, hop = context_of(old, new), hops[old.fact]
            sentences = [s for s in text.strip().split(". ") if s]
            assert len(sentences) == dose + 1 and sum(hop.via in s and hop.object in s for s in sentences) == 1
            assert sum(hop.object in s for s in sentences) == 1 and old.entity not in text


def test_demonstrations_are_other_facts_about_the_same_entity(data, model) -> None:
    by_text = {f"{r.prompt} {r.answer}": r for r in data.eval["forget"]}
    for (_, before, after), dose in zip(points(data, model, "demonstrations"), DOSES, strict=True):
        for old, new in zip(before, after, strict=True):
            shown = [r for text, r in by_text.items() if text in context_of(old, new)]
            assert len(shown) == min(dose, 4) and all(r.entity == old.entity and r.fact != old.fact for r in shown)


def test_related_text_is_nearer_than_irrelevant_text_of_the_same_length(data, model) -> None:
    knowledge = Knowledge(data, 1)
    longer = []
    for row in data.eval["forget"]:
        near, far = (PROVIDERS[level].give(row, 4, knowledge).sentences for level in ("related", "irrelevant"))
        assert not set(near) & set(far)
        longer.append(sum(len(s.split()) for s in far) - sum(len(s.split()) for s in near))
    assert min(longer) >= 0 and max(longer) < 12


def test_a_filter_on_names_stops_levels_five_and_six_and_not_three_and_four(data, model) -> None:
    """The content-filter gap of sheet 10 (g)."""
    shares = {level: points(data, model, level)[0][0].supplied["filter_blocks"] for level in PROVIDERS}
    assert shares == {
        "irrelevant": 0.0, "related": 0.0, "passages": 0.0, "premises": 0.0, "symbol": 0.0, "direct": 1.0,
        "demonstrations": 1.0,
    }  # fmt: skip
    assert points(data, model, "direct")[0][0].supplied["filter_false_blocks"] == 0.0
    assert blocked("Was it ADA lund?", ["Ada Lund"]) and not blocked("Was it Ada Lundgren?", ["Ada Lund"])


def test_a_guard_sees_the_context(data, model) -> None:
    """Names in a demonstration trip the guard, a symbol does not."""
    names = sorted({r.entity for r in data.eval["forget"]})
    guard = Instruction(fingerprint(model), "t", config={"names": names, "instead": "Hello?"}).attach(model)
    stopped = guard.encode(data.eval["forget"][0]).payload.prompt
    (_, _, shown), *_ = points(data, guard, "demonstrations")
    (_, _, renamed), *_ = points(data, guard, "symbol")
    assert {guard.encode(r).payload.prompt for r in shown} == {stopped}
    assert stopped not in {guard.encode(r).payload.prompt for r in renamed}


def test_what_the_data_lack_is_said_by_name(data) -> None:
    plain = replace(data, world=None)
    numbered = replace(
        data, eval={"forget": [replace(r, entity=f"author-{i}") for i, r in enumerate(data.eval["forget"])]}
    )
    no_hops = replace(data, eval={k: v for k, v in data.eval.items() if k != "two_hop"})
    bare = replace(data, train={"forget": data.train["forget"], "retain": ()})
    reasons = {
        InContext(level="premises").check(plain): "knowledge graph",
        InContext(level="premises").check(no_hops): "two-hop",
        InContext(level="symbol").check(numbered): "names whom",
        InContext(level="demonstrations").check(numbered): "second question",
        InContext(level="passages").check(bare): "no passages",
        InContext(level="related").check(bare): "no questions among",
    }
    assert all(words in reason for reason, words in reasons.items()) and len(reasons) == 6
    assert all(InContext(level=level).check(data) == "" for level in PROVIDERS)
    assert InContext(level="direct").check(plain) == ""


def test_the_same_seed_gives_the_same_context(data, model) -> None:
    first, again = points(data, model, "irrelevant"), points(data, model, "irrelevant")
    other = InContext(level="irrelevant", doses=DOSES).points(AttackContext(model, data, seed=2))
    rows = data.eval["forget"]
    assert [c for _, _, c in first] == [c for _, _, c in again]
    assert next(other).rows("forget", rows) != first[0][2]


def test_doses_end_where_the_facts_do(data, model) -> None:
    """Five facts per person: four others to show, so eight is no dose of its own; kept statements are enough for it."""
    assert InContext().settings.doses == (1, 2, 4, 8)
    for level, doses in (("demonstrations", [1, 2, 4]), ("direct", [1, 2, 4]), ("related", [1, 2, 4, 8])):
        given = InContext(level=level).points(AttackContext(model, data))
        assert [p.budget["facts"] for p in given] == doses
    few = InContext(level="symbol", doses=(8, 6)).points(AttackContext(model, data))
    assert [p.budget["facts"] for p in few] == [6]


def test_what_a_curve_comes_to_by_hand() -> None:
    """From .2 over .4, .6 and .8, where the target is at 1: mean of .2, .4 and .6 over .8, and half of 1 at dose 2."""
    points = [
        {"role": role, "budget": {"facts": dose}, "value": value}
        for role, values in (("unlearned", (0.2, 0.4, 0.6, 0.8)), ("target", (1.0, 0.9, 0.9, None)))
        for dose, value in zip((0, 1, 2, 4), values, strict=True)
    ]
    points = [Point.model_validate(point) for point in points]
    mine, target = by_dose(points), by_dose(points, "target")
    assert mine == {0: 0.2, 1: 0.4, 2: 0.6, 4: 0.8} and list(target) == [0, 1, 2]
    assert relearnability(mine, target[0]) == pytest.approx(0.5) and minimal_dose(mine, target[0]) == 2
    assert relearnability(mine, 0.2) is None and relearnability({0: 0.2}, 1.0) is None
    assert minimal_dose(mine, 2.0) is None and minimal_dose(mine, 0.4) == 0
    assert "gave back 50% of what unlearning had taken; 2 facts were enough" in told(points)
    assert told([p for p in points if p.role == "unlearned"]) == ""
