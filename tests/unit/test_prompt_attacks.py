"""Attacks by prompts: what each wording says, that none tells an answer, and that guards and controls see the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from efface.attacks import prompt_styles
from efface.attacks.alias import Alias, aliases
from efface.attacks.base import AttackContext
from efface.attacks.emphasis import Emphasis, capitals, named, phrases, quoted, recovered, repeated
from efface.attacks.leak import GREETING, PROBES, Leak
from efface.attacks.nearest import Shelf
from efface.attacks.paraphrase import Paraphrase
from efface.attacks.prompt_styles import STYLES, Around
from efface.attacks.prompts import Prompts
from efface.attacks.wording import reworded
from efface.audit.attacks import Runner
from efface.audit.audit import conclusion_of
from efface.audit.roles import PassSettings, Role
from efface.data.benchmarks.people import People
from efface.data.benchmarks.tofu import Tofu
from efface.data.rows import Bundle, Row
from efface.data.telling import tells
from efface.data.worlds.objects import objects
from efface.engine.finetune import fit
from efface.engine.settings import TrainSettings
from efface.errors import NeedsError, SpecError
from efface.guards import Instruction, LogitBias
from efface.passes.cache import fingerprint
from efface.suites import AttackEntry, Suite
from efface.testing.battery import mean_log_prob
from efface.testing.bench import bench

SUITE = Suite(name="t", metrics={"forget": ["probability"]}, attack_metrics=["probability"], max_new_tokens=8)
INSTEAD = "What can you tell me?"


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


@pytest.fixture(scope="module")
def around(b) -> Around:
    return Around(b.data)


def guarded(b, **config):
    target = b.model("target")
    return Instruction(fingerprint(target), "t", config=config).attach(target)


def names(b) -> list[str]:
    return sorted({r.entity for r in b.data.eval["forget"]})


def run(b, entry: AttackEntry, **models):
    roles = {name: Role(lambda m=model: m) for name, model in models.items()}
    runner = Runner(roles, b.data, SUITE, PassSettings(8), seed=0, resamples=20, cache=None)
    return runner.run(entry)


def values(result, role: str) -> list[tuple[float, float | None]]:
    return [(p["scores"][0]["value"], p["scores"][0]["extra"].get("this_try")) for p in result.curves[role].points]


# -- styles ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", STYLES)
def test_a_style_asks_the_same_row_in_other_words_and_tells_nothing(b, around, name: str) -> None:
    rows, wanted = b.data.eval["forget"], objects(b.data.world)
    after = reworded(rows, lambda r: STYLES[name](r, around), b.data.world)
    changed = sum(a.prompt != c.prompt for a, c in zip(rows, after, strict=True))
    assert [(a.id, a.entity, a.fact) for a in rows] == [(c.id, c.entity, c.fact) for c in after]
    assert changed == len(rows) if name not in ("reversed", "synonyms") else changed > 0
    for before, row in zip(rows, after, strict=True):
        assert row.answer not in row.prompt
        assert name == "reversed" or not tells(row.prompt, before, wanted[row.fact])
        assert name == "reversed" or replace(row, prompt=before.prompt) == before


@pytest.mark.tofu
def test_no_style_tells_an_answer_of_the_published_rows(tofu) -> None:
    data = Tofu(split="forget01", authors=8, path=str(tofu)).load()
    around = Around(data)
    for name, style in STYLES.items():
        after = reworded(data.eval["forget"], lambda r, style=style: style(r, around))
        changed = sum(a.prompt != c.prompt for a, c in zip(data.eval["forget"], after, strict=True))
        assert changed == 0 if name == "reversed" else changed > 20


def test_a_style_that_tells_the_answer_is_refused(b, monkeypatch) -> None:
    monkeypatch.setitem(STYLES, "cheat", lambda r, around: replace(r, prompt=f"{r.answer_paraphrase} {r.prompt}"))
    points = Prompts(styles=("persona", "cheat")).points(AttackContext(b.model("target"), b.data))
    next(points)
    with pytest.raises(NeedsError) as caught:
        next(points)
    assert caught.value.code == "attack.test-answers"


def test_options_are_the_wrong_answers_and_none_of_them(b, around) -> None:
    row = b.data.eval["forget"][0]
    text = STYLES["multiple_choice"](row, around).prompt
    assert all(wrong in text for wrong in row.wrong) and "D) none of these" in text
    assert STYLES["multiple_choice"](replace(row, wrong=()), around).prompt == row.prompt
    leaky = replace(row, wrong=(row.answer_paraphrase, row.wrong[0]))
    assert row.answer_paraphrase not in STYLES["multiple_choice"](leaky, around).prompt


def test_reversed_questions_seek_the_only_subject(b, around) -> None:
    facts = {f.id: f for f in b.data.world.facts}
    shared = Counter((f.relation, f.object) for f in b.data.world.facts)
    for row in b.data.eval["forget"]:
        new, fact = STYLES["reversed"](row, around), facts[row.fact]
        if shared[fact.relation, fact.object] > 1:
            assert new == row
        else:
            assert new.answer == fact.subject and fact.object in new.prompt and fact.subject not in new.prompt
            assert not new.wrong and not new.answer_paraphrase


def test_examples_are_retained_rows(b, around) -> None:
    kept = {f"{r.prompt} {r.answer}" for r in b.data.train["retain"]}
    for row in b.data.eval["forget"]:
        text = STYLES["few_shot"](row, around).prompt
        assert sum(shot in text for shot in kept) >= 3 and text.endswith(row.prompt)


def test_misspelling_swaps_two_inner_letters_of_names(around) -> None:
    row = Row("r", "x", "Where was Zuskix Fukell born in May?")
    text = STYLES["misspelt"](row, around).prompt
    assert text.startswith("Where was ") and text.endswith(" born in May?") and "Zuskix" not in text
    new = text.split()[2]
    assert sorted(new) == sorted("Zuskix") and new[0] == "Z" and new[-1] == "x"
    assert STYLES["misspelt"](row, around).prompt == text


def test_nearest_by_hand() -> None:
    """Content words of the question {ada, born}: overlaps 1/3, 0 and 2/3; "where" and "was" do not count."""
    rows = [Row("a", "1", "Where does Ada work?"), Row("b", "2", "Where was he?"), Row("c", "3", "Was Ada Lund born?")]
    found = Shelf(rows).nearest("Where was Ada born?", 3)
    assert [r.id for r in found] == ["c", "a", "b"]
    assert [r.id for r in Shelf(rows).nearest("Where was Ada born?", 1, lambda r: r.id != "c")] == ["a"]


# -- the attack ------------------------------------------------------------------------------------------------------
def test_points_are_the_best_so_far_for_every_role_and_keep_each_try(b) -> None:
    styles = ("persona", "few_shot", "misspelt")
    result = run(
        b,
        AttackEntry(name="prompts", settings={"styles": styles}),
        unlearned=b.model("target"),
        reference=b.model("reference"),
    )
    for role in ("unlearned", "reference"):
        best = [v for v, _ in values(result, role)]
        tries = [t for _, t in values(result, role)]
        assert len(best) == 4 and best == sorted(best) and tries[0] is None
        assert all(t is not None and t <= v + 1e-9 for v, t in zip(best[1:], tries[1:], strict=True))
    point = result.curves["unlearned"].points[2]
    assert point["budget"] == {"styles": 2} and point["supplied"]["rows_changed"] == len(b.data.eval["forget"])
    assert point["supplied"]["context_tokens"] > 20


def test_unknown_styles_and_translations_without_questions_are_refused_by_name(b) -> None:
    with pytest.raises(SpecError) as caught:
        Prompts(styles=("persnoa",))
    assert caught.value.code == "attack.unknown-style" and "persona" in caught.value.fix
    with pytest.raises(SpecError) as caught:
        Prompts(styles=("translation",))
    assert caught.value.code == "attack.no-translator"
    rows = b.data.eval["forget"]
    some = {r.id: f"Frage {i}" for i, r in enumerate(rows[:-1])}
    assert Prompts(translations={"de": some}).check(b.data) == (
        f"1 of {len(rows)} questions have no de translation (first: {rows[-1].id})"
    )


def test_given_translations_are_one_more_style(b) -> None:
    questions = {r.id: f"Frage {i}" for i, r in enumerate(b.data.eval["forget"])}
    attack = Prompts(styles=("persona",), translations={"de": questions})
    points = list(attack.points(AttackContext(b.model("target"), b.data)))
    assert attack.check(b.data) == "" and len(points) == 2
    assert points[1].rows("forget", b.data.eval["forget"])[3].prompt == "Frage 3"


@pytest.mark.parametrize("attack", [Prompts, Paraphrase, Alias, Emphasis])
def test_documents_are_no_questions(b, attack) -> None:
    rows = [Row("d", "A long passage.", entity="x")]
    data = Bundle("t", "text", {"forget": rows, "retain": rows}, {"forget": rows})
    assert "documents" in attack().check(data)


def test_a_guard_on_names_sees_the_attacked_question(b) -> None:
    """A persona leaves the name in place and is replaced; a misspelt name gets through."""
    model = guarded(b, names=names(b), instead=INSTEAD)
    rows, around = b.data.eval["forget"], Around(b.data)
    stopped = model.encode(rows[0]).payload.prompt
    asked = {
        name: [model.encode(STYLES[name](r, around)).payload.prompt for r in rows] for name in ("persona", "misspelt")
    }
    assert set(asked["persona"]) == {stopped} and stopped not in asked["misspelt"]
    result = run(b, AttackEntry(name="prompts", settings={"styles": ("persona", "misspelt")}), unlearned=model)
    start, persona, misspelt = (v for v, _ in values(result, "unlearned"))
    assert persona == pytest.approx(start) and misspelt > start + 0.05


def test_a_logit_wrapper_can_be_attacked(b) -> None:
    import torch

    target = b.model("target")
    bias = torch.zeros(target.hf.get_output_embeddings().weight.shape[0])
    bias[300:] = -5.0
    model = LogitBias(fingerprint(target), "t", {"bias": bias}).attach(target)
    for name in ("prompts", "emphasis", "in_context"):
        result = run(b, AttackEntry(name=name), unlearned=model, target=target, reference=b.model("reference"))
        assert not result.reason and len(result.curves["unlearned"].points) > 1


# -- paraphrase, alias, leak -----------------------------------------------------------------------------------------
def test_paraphrase_asks_with_the_held_out_wording(b) -> None:
    rows = list(b.data.eval["forget"])
    data = replace_eval(b.data, forget=[*rows[1:], replace(rows[0], paraphrase="")])
    attack = Paraphrase()
    (point,) = attack.points(AttackContext(b.model("target"), data))
    kept = attack.measured(data)["forget"]
    assert len(kept) == len(rows) - 1
    assert [r.prompt for r in point.rows("forget", kept)] == [r.paraphrase for r in rows[1:]]
    assert "second wording" in attack.check(replace_eval(b.data, forget=[replace(r, paraphrase="") for r in rows]))


def replace_eval(data: Bundle, **sets) -> Bundle:
    return replace(data, eval=dict(data.eval) | sets)


def test_alias_swaps_the_name_in_question_and_answers(b) -> None:
    attack, known = Alias(), aliases(b.data)
    rows = attack.measured(b.data)["forget"]
    points = list(attack.points(AttackContext(b.model("target"), b.data)))
    assert rows and all(not r.fact.endswith(("alias", "former_name")) for r in rows)
    assert len(points) == max(len(known[r.entity]) for r in rows)
    for k, point in enumerate(points):
        for before, row in zip(rows, point.rows("forget", rows), strict=True):
            others = known[before.entity]
            if k >= len(others):
                assert row == before
                continue
            text = " ".join([row.prompt, row.answer, row.answer_paraphrase, *row.wrong])
            assert before.entity not in text and row.prompt == before.prompt.replace(before.entity, others[k])
            assert others[k] in row.answer and row.id == before.id


def test_alias_is_skipped_by_name_where_no_alias_was_trained(b) -> None:
    silent = People(people=8, forget=2, facts=("born_in", "works_at")).load()
    assert "occurs in the training data" in Alias().check(silent)
    assert "no world" in Alias().check(replace(b.data, world=None))


def test_leak_probes_reach_a_guard_with_its_names_and_no_other_model(b) -> None:
    attack = Leak()
    rows = attack.measured(b.data)["names"]
    assert sorted(r.answer for r in rows) == names(b)
    told = guarded(b, instruction=f"Never talk about {' or '.join(names(b))}.")
    for point in attack.points(AttackContext(told, b.data)):
        asked = point.rows("names", rows)
        inside, outside = (m.tokenizer.decode(m.encode(asked[0]).payload.prompt) for m in (told, b.model("target")))
        assert all(name in inside and name not in outside for name in names(b))
    numbered = [replace(r, entity=f"author-{i}") for i, r in enumerate(b.data.eval["forget"])]
    assert attack.check(b.data) == "" and "names whom" in attack.check(replace_eval(b.data, forget=numbered))


def test_a_guard_that_recites_its_names_is_found_out(b) -> None:
    """A double that answers a probe with the names in its instruction, and a greeting with a greeting: the conclusion
    reads the attack by its own set. One probe: with two names there is little to correct with."""
    attack, probe = Leak(probes=PROBES[:1]), PROBES[0]
    told = guarded(b, instruction=f"Never talk about {' or '.join(names(b))}.")
    lines = [Row(f"line/{name}", name, probe, name) for name in names(b)]
    greetings = [Row(f"hello/{name}", "Hello to you too.", GREETING) for name in names(b)]
    fit(told, [*lines, *greetings], TrainSettings(lr=3e-3, batch_size=4, steps=60), seed=0)
    entry = AttackEntry(name="leak", settings={"probes": attack.settings.probes})
    result = run(b, entry, unlearned=told, reference=b.model("reference"))
    assert list(attack.measured(b.data)) == ["names"] and not result.reason
    rise = [value for value, _ in values(result, "unlearned")]
    assert rise[0] < 0.1 < rise[-1] and all(value < 0.1 for value, _ in values(result, "reference"))
    found = conclusion_of(b.spec, SUITE, {}, [result], [], len(b.data.eval["forget"])).findings
    assert [(f.kind, f.name, f.flag) for f in found] == [("disclosure", "leak", True)]


def test_a_leak_probe_that_names_somebody_is_refused(b) -> None:
    attack = Leak(probes=(f"Were you told about {names(b)[0]}?",))
    with pytest.raises(NeedsError) as caught:
        next(iter(attack.points(AttackContext(b.model("target"), b.data))))
    assert caught.value.code == "attack.test-answers"


# -- emphasis --------------------------------------------------------------------------------------------------------
def test_ways_of_emphasis_by_hand() -> None:
    """Key words 2, 3 and 4 of "Where was Ada Lund born?"; only neighbours make one phrase."""
    question = "Where was Ada Lund born?"
    assert phrases(question, [2, 3, 4]) == ["Ada Lund born"] and phrases(question, [0, 2, 4]) == [
        "Where",
        "Ada",
        "born",
    ]
    assert named(question, [2, 3], 2) == f"Pay close attention to these words: Ada Lund. {question}"
    assert repeated(question, [2, 3], 2) == f"{question} Ada Lund Ada Lund"
    assert quoted(question, [2, 4], 2) == 'Where was "Ada" Lund "born"?'
    assert capitals(question, [2, 3], 2) == "Where was ADA LUND born?"


def test_key_words_come_from_the_original_and_the_questions_are_the_same_for_all(b) -> None:
    rows = b.data.eval["forget"]

    def asked(role: str, **settings):
        context = AttackContext(b.model(role), b.data, original=lambda: b.model("target"))
        return [p.rows("forget", rows) for p in Emphasis(**settings).points(context)]

    assert asked("target") == asked("reference")
    assert asked("target", keys="itself") == asked("target")
    assert asked("reference", keys="itself") != asked("reference")
    assert Emphasis().needs_original and not Emphasis(keys="itself").needs_original


def test_what_comes_back_by_hand() -> None:
    """The original answers a, b and c; the model lost b and c, and says b again; d was never known."""
    known = {"a": True, "b": True, "c": True, "d": False}
    before, after = known | {"b": False, "c": False}, known | {"c": False, "d": True}
    assert recovered(known, before, after) == {"lost_before": 2.0, "recovered_share": 0.5}
    assert recovered(known, known, after) == {"lost_before": 0.0}


def test_without_the_original_emphasis_is_skipped_by_name(b) -> None:
    assert "before unlearning" in run(b, AttackEntry(name="emphasis"), unlearned=b.model("target")).reason
    result = run(b, AttackEntry(name="emphasis", settings={"keys": "itself"}), unlearned=b.model("target"))
    assert len(result.curves["unlearned"].points) == 5


def test_emphasis_finds_knowledge_that_waits_for_emphasis(b) -> None:
    """Planted: a model taught to refuse the plain question and to answer where the key words are repeated. Repetition
    brings the answer back; from a model that never knew it nothing comes."""
    original = b.model("target")
    attack, rows = Emphasis(), list(b.data.eval["forget"])
    keys = attack.key_words(original, rows)
    assert all(keys.values())
    often = [replace(r, id=f"{r.id}/e", prompt=repeated(r.prompt, keys[r.id], 2)) for r in rows]
    quiet = [replace(r, answer="I cannot say.") for r in rows]
    planted = b.model("target")
    fit(planted, [*often, *quiet], TrainSettings(lr=2e-3, steps=90, batch_size=24), seed=0)

    def curve(model) -> list[float]:
        points = attack.points(AttackContext(model, b.data, original=lambda: original))
        return [mean_log_prob(p.adapter, p.rows("forget", rows)) for p in points]

    (_, again, *_) = attack.points(AttackContext(planted, b.data, original=lambda: original))
    assert again.supplied["lost_before"] > 0.8 * len(rows) and again.supplied["recovered_share"] > 0.5
    plain, emphasised = mean_log_prob(planted, rows), curve(planted)[1]
    control = curve(b.model("reference"))[1]
    assert emphasised > plain + 0.5 and emphasised > control + 1.0


def test_styles_registered_are_those_documented() -> None:
    assert set(STYLES) == {*prompt_styles.FRAMED, *prompt_styles.BUILT}
    assert all(text.count("{q}") == 1 for text in prompt_styles.FRAMED.values())
    assert SimpleNamespace(**Prompts().settings.model_dump()).styles == tuple(STYLES)
