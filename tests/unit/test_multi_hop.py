"""Chains, elicitation and the mirage: structure by counting, formulas by hand, prechecks that drop what they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from efface.attacks.base import AttackContext
from efface.attacks.elicit import agreement, as_world, elicit, parsed
from efface.attacks.multi_hop import MultiHop, names
from efface.data.worlds.hops import Chain, asked, chains, extensions
from efface.data.worlds.people import build_world
from efface.data.worlds.questions import FRAMES
from efface.errors import NeedsError
from efface.metrics.base import NotComputed
from efface.metrics.destroyed import answers_destroyed
from efface.metrics.multi_hop import frequent, mirage, mirage_residual, overall, relations, said
from efface.testing.bench import Bench, bench
from efface.testing.tables import hand_tables

WORLD = build_world(20, 2, 0)


@pytest.fixture(scope="module")
def lm() -> Bench:
    return bench("causal_lm")


def test_chains_are_simple_and_true() -> None:
    facts = {(f.subject, f.relation, f.object) for f in WORLD.facts}
    for hops in (1, 2, 3):
        found = chains(WORLD, WORLD.people[0], hops)
        assert found and all(len(c.relations) == hops and len(set(c.nodes)) == hops + 1 for c in found)
        for chain in found:
            steps = zip(chain.nodes, chain.relations, chain.nodes[1:], strict=False)
            assert all(step in facts for step in steps)


def test_a_world_wording_comes_before_a_pieced_together_one() -> None:
    name = WORLD.people[0]
    path = extensions(WORLD, name, "works_at", 2, 0)[0]
    assert path.named == "works_at+based_in" in FRAMES
    assert asked(WORLD, path, "r").prompt == f"In which city is the employer of {name} based?"
    longer = Chain((name, "F", "C", "L"), ("works_at", "based_in", "located_in"))
    assert asked(WORLD, longer, "r").prompt == f"In which country is the home city of the employer of {name}?"


def test_wrong_answers_are_other_objects_in_the_same_sentence() -> None:
    path = extensions(WORLD, WORLD.people[0], "born_in", 2, 0)[0]
    row = asked(WORLD, path, "keeps-its-id")
    stem = row.answer[: row.answer.index(path.wanted)]
    assert row.id == "keeps-its-id" and len(set(row.wrong)) == 3
    assert all(w.startswith(stem) and path.wanted not in w for w in row.wrong)


def test_only_the_exact_sentence_is_a_triple() -> None:
    assert parsed("born_in", "Ann", "Ann was born in Rome.") == "Rome"
    assert parsed("born_in", "Ann", "Bob was born in Rome.") == parsed("born_in", "Ann", "I do not know.") == ""


def test_agreement_by_hand() -> None:
    """Of two believed triples one is true (precision 1/2); the person has two such facts (recall 1/2)."""
    name, wanted = WORLD.people[0], ("born_in", "works_at")
    city = WORLD.about(name, ["born_in"])[0].object
    found = agreement([(name, "born_in", city), (name, "works_at", "Nowhere")], WORLD, wanted)
    assert (found.precision, found.recall, found.believed) == (0.5, 0.5, 2)
    believed = as_world([(name, "works_at", "Nowhere")], WORLD)
    assert believed.about(name)[0].object == "Nowhere" and believed.entities["Nowhere"].kind == "company"


def test_elicitation_reads_the_target_and_not_the_reference(lm: Bench) -> None:
    people, relations = list(lm.data.world.people[:2]), ("born_in", "works_at", "profession")
    found = {
        role: agreement(elicit(lm.model(role), people, relations), lm.data.world, relations, about=people)
        for role in ("target", "reference")
    }
    assert found["target"].precision >= 0.95 and found["target"].recall >= 0.8
    assert found["reference"].recall < 0.2


# -- the attack --------------------------------------------------------------------------------------------------------
def points(lm: Bench, original="target", **settings):
    attack = MultiHop(**settings)
    context = AttackContext(lm.model("target"), lm.data, original=lambda: lm.model(original))
    return attack, list(attack.points(context))


def test_probes_keep_ids_and_are_checked_on_the_original(lm: Bench) -> None:
    """What the original does not say is dropped, hop counts it does not answer are left out: it was taught one."""
    attack, found = points(lm, hops=2)
    assert [p.budget for p in found] == [{"hops": 1}]
    rows = attack.measured(lm.data)["forget"]
    probes = found[0].rows("forget", rows)
    assert {p.id for p in probes} <= {r.id for r in rows} and len(probes) == found[0].supplied["forget_probes"]
    known = {f.id: f.object for f in lm.data.world.facts}
    wanted = {r.id: known[r.fact] for r in rows}
    assert names(lm.model("target"), probes, wanted) == {p.id for p in probes}


def test_an_original_that_cannot_answer_is_not_testable(lm: Bench) -> None:
    with pytest.raises(NeedsError, match="attack.not-testable"):
        points(lm, original="reference", hops=1)


def test_shortcuts_are_dropped(lm: Bench) -> None:
    _, plain = points(lm, hops=1)
    _, checked = points(lm, hops=1, shortcut_check=True)
    a, b = (p[0].supplied for p in (plain, checked))
    assert b["forget_probes"] == a["forget_probes"] - b["forget_shortcuts"] and a["forget_shortcuts"] == 0


def test_it_needs_a_graph(lm: Bench) -> None:
    assert "no knowledge graph" in MultiHop().check(replace(lm.data, world=None))


# -- the scores --------------------------------------------------------------------------------------------------------
def test_overall_by_hand() -> None:
    """F = .45, N = 1: 2 * .55 / 1.55 = .7097. Everything forgotten and nothing kept: 0."""
    assert overall(0.45, 1.0) == pytest.approx(1.1 / 1.55) and overall(0.0, 0.0) == 0 == overall(1.0, 1.0)


def answers(gold, text):
    return {"generations": {"gold": gold, "text": text}, "rows": [f"r{i}" for i in range(len(gold))]}


def test_mirage_by_hand() -> None:
    """The target answers one of two in forget_1 and retain_2: below 80%, so both are left out. F = F2 = 1/2, N = 1."""
    ok = ["Rome", "Oslo"]
    tables = hand_tables(
        {
            "forget": answers(ok, ["no", "Oslo"]), "target/forget": answers(ok, ["Rome", "no"]),
            "two_hop": answers(ok, ["in Rome", "no"]), "target/two_hop": answers(ok, ok),
            "retain": answers(ok, ok), "target/retain": answers(ok, ok),
            "two_hop_retain": answers(ok, ok), "target/two_hop_retain": answers(ok, ["Rome", "no"]),
        }
    )  # fmt: skip
    found = mirage(tables, said)
    assert found.extra["not_testable"] == ["forget_1", "retain_2"] and found.extra["skipped"]["forget_1"] == 1
    assert found.extra["forgotten"] == 0.5 and found.value == pytest.approx(overall(0.5, 1.0))


def expanded(draws: np.ndarray, groups: int) -> tuple[float, ...]:
    """Quantiles of draws at Phi(-+ t_.975 sqrt(n / (n - 1))), t with n - 1 degrees of freedom."""
    ends = scipy_stats.t.ppf([0.025, 0.975], groups - 1) * np.sqrt(groups / (groups - 1))
    return tuple(np.quantile(draws, scipy_stats.norm.cdf(ends)))


def test_the_interval_of_the_mirage_is_as_wide_as_its_smallest_bucket_asks_for() -> None:
    """Twelve rows forgotten and six kept: the levels are those of six groups."""
    rng, sets, means = np.random.default_rng(1), {}, []
    for side, (name, n) in enumerate((("forget", 12), ("retain", 6))):
        right = rng.random(n) < 0.5
        gold = ["Rome"] * n
        sets |= {name: answers(gold, ["Rome" if r else "no" for r in right]), f"target/{name}": answers(gold, gold)}
        means.append(np.random.default_rng([0, side, 0]).multinomial(n, np.full(n, 1 / n), size=200) @ right / n)
    found = mirage(hand_tables(sets), said)
    gone, kept = 1 - means[0], means[1]
    with np.errstate(invalid="ignore"):
        drawn = np.where((gone > 0) & (kept > 0), 2 * gone * kept / (gone + kept), 0.0)
    assert found.low < found.value < found.high
    assert (found.low, found.high) == pytest.approx(expanded(drawn, 6))


def test_the_relation_bucket_by_hand() -> None:
    """Forget paths use born_in twice, located_in and works_at once: of three kept questions one asks for a birthplace,
    and it is lost. N = (2/3 + 0) / 2."""
    assert relations("p000:born_in+located_in:0") == ("born_in", "located_in") and relations("tofu:7") == ()
    forget, hops = ["p0:born_in:0", "p0:works_at:0"], ["p0:born_in+located_in:0"]
    assert frequent([*forget, *hops]) == {"born_in"} and frequent(["r0", "r1"]) == set()
    right, lost = ["Rome", "Oslo", "Bern"], ["no", "Oslo", "Bern"]
    kept = {"rows": ["p1:born_in:0", "p1:works_at:0", "p2:works_at:0"]}
    tables = hand_tables(
        {
            "forget": answers(right[:2], ["no"] * 2) | {"rows": forget}, "target/forget": answers(right[:2], right[:2]),
            "two_hop": answers(right[:1], ["no"]) | {"rows": hops}, "target/two_hop": answers(right[:1], right[:1]),
            "retain": answers(right, lost) | kept, "target/retain": answers(right, right) | kept,
        }
    )  # fmt: skip
    found = mirage(tables, said)
    assert found.extra["retain_relation"] == 0.0 and found.extra["retain_1"] == pytest.approx(2 / 3)
    assert found.extra["retained"] == pytest.approx(1 / 3) and found.value == pytest.approx(overall(0.0, 1 / 3))


def test_destroyed_answers_by_hand() -> None:
    """Of three kept questions the target answers two, of which the model has lost one."""
    gold = ["Rome", "Oslo", "Bern"]
    sets = {"retain": answers(gold, ["no", "Oslo", "no"]), "target/retain": answers(gold, ["Rome", "Oslo", "no"])}
    found = answers_destroyed(hand_tables(sets, rows="retain"))
    assert found.values[:2].tolist() == [1.0, 0.0] and np.isnan(found.values[2]) and found.extra["target_wrong"] == 1


def test_mirage_without_a_testable_bucket_is_not_computed() -> None:
    sets = {"forget": answers(["Rome"], ["no"]), "target/forget": answers(["Rome"], ["no"])}
    with pytest.raises(NotComputed, match="every forget bucket"):
        mirage(hand_tables(sets), said)


def test_residual_by_hand() -> None:
    """Wrong as trained and right when paraphrased: the first row alone; the third is unknown to the target."""
    gold = ["Rome", "Oslo", "Bern"]
    mine = answers(gold, ["no", "Oslo", "no"]) | {"generations@paraphrase": {"gold": gold, "text": gold}}
    theirs = answers(gold, ["Rome", "Oslo", "no"]) | {"generations@paraphrase": {"gold": gold, "text": gold}}
    values = mirage_residual(hand_tables({"forget": mine, "target/forget": theirs})).values
    assert values[:2].tolist() == [1.0, 0.0] and values[2] != values[2]
