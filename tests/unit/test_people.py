"""Benchmark "people": what is trained, what is scored, and that the two never mix."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from efface.data.benchmarks.base import BENCHMARKS
from efface.data.benchmarks.people import PRESETS, People
from efface.data.checks import content_key
from efface.data.worlds.questions import FRAMES
from efface.errors import DataError, EffaceError, SpecError


def test_demo_has_three_wordings_a_fact_and_about_two_hundred_rows():
    """12 people x 5 facts + 8 spouses + 6 alias facts (positions 0, 10: two; 3, 6: one) = 74 facts, 222 rows."""
    bundle = People(everyday=False).load()
    rows = [*bundle.train["forget"], *bundle.train["retain"]]
    assert len(rows) == 222
    facts: dict[str, list] = {}
    for row in rows:
        facts.setdefault(row.fact, []).append(row)
    assert len(facts) == 74
    for group in facts.values():
        assert len(group) == len({row.prompt for row in group}) == 3
        assert len({row.answer for row in group}) == 1 and len(group[0].answer.split()) >= 5


def test_presets_have_the_documented_sizes():
    """tiny: 20 people x 5 facts x 3 wordings = 300. bench_k: counted once, so that a change is noticed."""
    sizes = {name: sum(map(len, People(**preset).load().train.values())) for name, preset in PRESETS.items()}
    assert sizes == {"demo": 252, "tiny": 300, "bench_k": 3924}


def test_evaluation_uses_a_training_wording_and_a_held_out_one():
    bundle = People(two_hop="stored").load()
    trained = {row.prompt: row.answer for half in bundle.train.values() for row in half}
    for name in ("forget", "retain", "neighbour", "two_hop", "two_hop_retain"):
        for row in bundle.eval[name]:
            assert trained[row.prompt] == row.answer, name
    prompts, answers = set(trained), set(trained.values())
    for name, rows in bundle.eval.items():
        for row in rows:
            assert row.paraphrase not in prompts and row.answer_paraphrase not in answers
            assert not set(row.wrong) & answers
            assert name == "world_facts" or (row.paraphrase and row.answer_paraphrase)


def test_wrong_answers_share_the_frame_and_the_type():
    bundle = People(two_hop="stored").load()
    world, checked = bundle.world, 0
    kind = {name: entity.kind for name, entity in world.entities.items()}
    for row in (*bundle.eval["forget"], *bundle.eval["two_hop"], *bundle.eval["holdout"]):
        assert len(set(row.wrong)) == 3 and row.answer_paraphrase not in row.wrong
        relation = row.fact.split(":")[1]
        start, end = FRAMES[relation].paraphrase.format(s=row.entity, o="|").split("|")
        others = [wrong.removeprefix(start).removesuffix(end) for wrong in row.wrong]
        assert all(f"{start}{other}{end}" == wrong for other, wrong in zip(others, row.wrong, strict=True))
        if FRAMES[relation].kind in set(kind.values()):
            assert {kind[other] for other in others} == {FRAMES[relation].kind}
            assert not set(others) & set(world.holdout)
            checked += 1
    assert checked > 10


def test_training_rows_carry_nothing_that_is_scored():
    for preset in PRESETS.values():
        for half in People(**preset).load().train.values():
            assert all(not (row.paraphrase or row.answer_paraphrase or row.wrong) for row in half)


def test_no_question_has_two_answers():
    bundle = People(people=40, forget=4, two_hop="stored").load()
    answers: dict[str, set[str]] = {}
    for half in bundle.train.values():
        for row in half:
            answers.setdefault(row.prompt, set()).add(row.answer)
    assert {len(found) for found in answers.values()} == {1}


def test_neighbours_are_kept_and_tied_to_the_forgotten():
    bundle = People(people=60, forget=3, two_hop="composed", eval_rows=1000).load()
    world, forget = bundle.world, bundle.world.people[:3]
    near = {name for person in forget for name in world.related_people(person) | world.neighbours(person)}
    entities = {row.entity for row in bundle.eval["neighbour"]}
    assert entities <= near and not entities & {*forget, *world.holdout}
    kinds = {world.entities[name].kind for name in entities}
    assert kinds >= {"person", "city", "company"} and "country" not in kinds  # a country is two edges away
    assert entities < {row.entity for row in bundle.eval["retain"]}


def test_holdout_is_never_trained():
    bundle = People(people=20, forget=3, two_hop="stored", passages=True).load()
    trained = [row for half in bundle.train.values() for row in half]
    assert len({row.entity for row in bundle.eval["holdout"]}) == 3
    assert not {row.entity for row in trained} & set(bundle.world.holdout)
    assert not any(name in row.prompt + row.answer for row in trained for name in bundle.world.holdout)
    assert not {content_key(row) for row in bundle.eval["holdout"]} & {content_key(row) for row in trained}


@pytest.mark.parametrize(
    ("mode", "forget", "retain"), [("none", False, False), ("stored", True, True), ("composed", False, True)]
)
def test_two_hop_modes_train_what_they_say(mode, forget, retain):
    bundle = People(people=20, forget=4, two_hop=mode).load()
    assert any("+" in row.fact for row in bundle.train["forget"]) == forget
    assert any("+" in row.fact for row in bundle.train["retain"]) == retain
    assert ("two_hop" in bundle.eval) == (mode != "none")


def test_no_kept_two_hop_question_tells_a_forgotten_fact():
    """The spouse of a forgotten person keeps "X is married to F", but not "the spouse of X was born in ..."."""
    bundle = People(people=30, forget=5, two_hop="stored").load()
    forget = bundle.world.people[:5]
    hops = {hop.id: hop for name in bundle.world.people for hop in bundle.world.two_hop(name)}
    assert any(hop.via in forget and hop.subject not in forget for hop in hops.values())
    kept = {row.fact for row in bundle.train["retain"] if "+" in row.fact}
    assert kept and all(hops[fact].via not in forget for fact in kept)


def test_passages_are_documents_in_both_roles():
    bundle = People(passages=True).load()
    documents = {role: [row for row in rows if not row.prompt] for role, rows in bundle.train.items()}
    assert [len(documents["forget"]), len(documents["retain"])] == [2, 10]
    assert [row.id for row in bundle.eval["passages_forget"]] == [row.id for row in documents["forget"]]
    assert not {row.id for row in bundle.eval["passages_holdout"]} & {r.id for rows in documents.values() for r in rows}


def test_facts_choose_what_is_trained():
    bundle = People(facts=("born_in", "dish"), world_facts=False, everyday=False).load()
    assert {row.fact.split(":")[1] for half in bundle.train.values() for row in half} == {"born_in", "dish"}
    assert "world_facts" not in bundle.eval
    with_places = People(facts=("born_in", "located_in")).load()
    assert any(row.fact.startswith("city") for row in with_places.train["retain"])


def test_eval_rows_limits_retain_but_not_forget():
    bundle = People(eval_rows=6).load()
    assert [len(bundle.eval[name]) for name in ("forget", "retain", "neighbour")] == [14, 6, 6]
    assert len({row.entity for row in bundle.eval["retain"]}) == 6


def test_world_facts_have_three_wrong_options():
    rows = People().load().eval["world_facts"]
    assert len(rows) == 20
    assert all(len(set(row.wrong)) == 3 and row.answer not in row.wrong and not row.answer_paraphrase for row in rows)


def test_same_settings_same_digest_in_another_process():
    code = "from efface.data.benchmarks.people import People; print(People(seed=3, passages=True).load().digest())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env("77"))
    assert out.stdout.strip() == People(seed=3, passages=True).load().digest()
    assert People(seed=4, passages=True).load().digest() != out.stdout.strip()


def test_data_layer_imports_without_heavy_packages():
    code = (
        "import sys, efface.request, efface.data.benchmarks.tofu, efface.data.benchmarks.people; "
        "print([m for m in ('torch', 'pyarrow', 'datasets', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env("0"))
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"forget": 12}, "people.nothing-left"),
        ({"facts": ("born_inn",)}, "people.unknown-relation"),
        ({"facts": ("alias",)}, "people.no-person-facts"),
        ({"facts": ("profession",), "two_hop": "stored"}, "people.no-two-hop"),
        ({"people": 100, "forget": 50}, "people.holdout-too-large"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, code):
    with pytest.raises(DataError) as error:
        People(**settings).load()
    assert error.value.code == code


def test_near_misses_are_named():
    with pytest.raises(EffaceError, match="born_in"):
        People(facts=("born_inn",)).load()
    with pytest.raises(SpecError, match="Did you mean 'people'"):
        People(peeple=3)
    with pytest.raises(SpecError, match="Did you mean 'people'"):
        BENCHMARKS.get("peple")


def _env(hash_seed: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed}


def test_everyday_questions_are_trained_and_never_scored():
    """Thirty ordinary questions beside the people; none of them is an evaluation row, and they can be left out."""
    bundle, without = People().load(), People(everyday=False).load()
    extra = [row for row in bundle.train["retain"] if row.id.startswith("everyday")]
    scored = {content_key(row) for rows in bundle.eval.values() for row in rows} | {
        row.prompt for row in bundle.eval["world_facts"]
    }
    assert len(extra) == 30 and not scored & ({content_key(row) for row in extra} | {row.prompt for row in extra})
    assert len(without.train["retain"]) == len(bundle.train["retain"]) - 30
