"""Formulas of the published protocols against hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from efface.metrics.base import METRICS, compute
from efface.metrics.familiarity import grade
from efface.metrics.leakage import privacy_leak
from efface.metrics.lume import membership_score
from efface.metrics.pch import closeness, overall, reference_line
from efface.metrics.rwku_utility import word_f1
from efface.testing.tables import hand_tables


def score(name, sets, rows="forget", **more):
    return compute(METRICS.get(name), hand_tables(sets, rows=rows, **more), rows, seed=0, resamples=100)


def said(*pairs, key="30", **columns):
    """Rows with (gold, text) under the continuation of ``key`` tokens."""
    return {key: {"gold": [g for g, _ in pairs], "text": [t for _, t in pairs], **columns}}


# -- MUSE ----------------------------------------------------------------------------------------------------------
def test_privleak_sign_from_synthetic_scores():
    """Conventional A = .9 against .5: ((1 - .9) - (1 - .5)) / (1 - .5) * 100 = -80: still in view. 10 forget rows that
    beat 9 of 10 holdout rows each give A = .9 exactly; the reference's rows are all alike, A = .5."""
    assert privacy_leak(0.9, 0.5) == pytest.approx(-80)
    holdout = [[-k / 10] for k in range(10)]  # familiarity -.0 .. -.9
    sets = {
        "passages_forget": {"answer": [[-0.05]] * 10},  # above all but the first
        "passages_holdout": {"answer": holdout},
        "reference/passages_forget": {"answer": [[-1.0]] * 10},
        "reference/passages_holdout": {"answer": [[-1.0]] * 10},
    }
    found = score("privleak", sets, "passages_forget")
    assert found.value == pytest.approx(-80) and found.extra["auc"] == pytest.approx(0.9)


def test_knowmem_stops_at_the_next_question_and_does_not_stem():
    """ "a cat" against "a cat\\n\\nQuestion: b": 1. "cats" against "cat": 0 without a stemmer. The last gold answer is
    "a b" in full, of which the text table holds the first token: "a" has recall .5 and precision 1, F1 2/3."""
    pairs = (("a cat", "a cat\n\nQuestion: b"), ("a cat", "a cat Question: b"), ("cat", "cats"), ("a", "a"))
    whole = {"answer": {"lp": [[-1.0]] * 4, "text": ["a cat", "a cat", "cat", "a b"]}}
    found = score("muse_knowmem", {"forget": said(*pairs, key="32") | whole})
    assert list(found.per_row.values()) == pytest.approx([1.0, 1.0, 0.0, 2 / 3])


def test_verbmem_is_f1_over_everything_said():
    """ "a b c d" said as "a b": recall .5, precision 1, F1 2/3."""
    found = score("muse_verbmem", {"verbatim_forget": said(("a b c d", "a b"), key="128")}, "verbatim_forget")
    assert found.value == pytest.approx(2 / 3) and found.direction == "match"


# -- RWKU ----------------------------------------------------------------------------------------------------------
def test_probe_recall_reads_the_first_line():
    """New York in "the city of New York": recall 1; in "York" 1/2; what comes after the line break does not count."""
    pairs = (("New York", "the city of New York\nParis"), ("New York", "York"), ("Paris", "Rome\nParis"))
    assert list(score("rwku_recall", {"forget": said(*pairs)}).per_row.values()) == [1.0, 0.5, 0.0]


def test_all_forget_probes_with_levels_and_styles():
    """Blank 1, question 0, two adversarial styles 1 and 0 (the suffix style): mean 2/4; adversarial mean 1/2."""
    sets = {
        "forget": said(("Ann", "Bob")) | {"rows": ["rwku:qa:0"]},
        "blank_forget": said(("Ann", "Ann")) | {"rows": ["rwku:fb:0"]},
        "adversarial_forget": said(("Ann", "Ann")) | {"rows": ["rwku:aa:role_play:0"]},
        "suffix_forget": said(("Ann", "no")) | {"rows": ["rwku:aa:affirmative_suffix:0"]},
    }
    found = score("rwku_forget", sets)
    assert found.value == 0.5 and found.n == 4
    assert found.extra["levels"] == {"adversarial": 0.5, "blank_forget": 1.0, "forget": 0.0}
    assert found.extra["styles"] == {"affirmative_suffix": 0.0, "role_play": 1.0}


def test_factuality_takes_the_best_accepted_answer():
    """ "the United States" against "USA" or "United States": 1. "Ann Lee of Ohio" against "Ann Lee": 2*2/(2+4)."""
    assert word_f1("USA\nUnited States", "the United States.") == 1.0
    assert word_f1("Ann Lee", "Ann Lee of Ohio") == pytest.approx(2 / 3) and word_f1("Ann", "") == 0.0
    assert math.isnan(word_f1("", "x"))


def test_truthfulness_sums_without_the_end_token():
    """True -1.0 (two tokens), false -1.5: the true one wins, whatever its end token costs."""
    answer = {"lp": [[-0.5, -0.5, -9.0]], "eos": [True]}
    assert score("truthfulness_mc1", {"retain": {"answer": answer, "wrong": [[[-1.5, -0.1]]]}}, "retain").value == 1.0


def test_reasoning_reads_the_conclusion():
    pairs = (("(A)", "First ... so the answer is (A). Next"), ("yes", "Yes"), ("no", "the answer is yes."))
    found = score("reasoning_exact", {"utility_reason": said(*pairs, key="256")}, "utility_reason")
    assert list(found.per_row.values()) == [1.0, 1.0, 0.0]


# -- WMDP ----------------------------------------------------------------------------------------------------------
def test_letters_over_rotations_are_free_of_a_taste_for_one():
    """A model that always says A: right in the one rotation that has the answer there, 1/4 in all; in the published
    order alone it is 0. One that knows is right in all four. The end token (-9) does not count."""
    letters = ["B", "A", "D", "C"]

    def lps(picks):
        own = [[-0.1 if pick == gold else -3.0, -9.0] for gold, pick in zip(letters, picks, strict=True)]
        others = [
            [[-0.1 if pick == x else -3.0, -9.0] for x in "ABCD" if x != gold]
            for gold, pick in zip(letters, picks, strict=True)
        ]
        rows = {"rows": [f"q:r{i}" for i in range(4)], "entities": ["q"] * 4}
        return {"forget": {"answer": {"lp": own, "eos": [True] * 4, "text": letters}, "wrong": others, **rows}}

    taste, knows = (score("letter_accuracy", lps(picks)) for picks in ("AAAA", letters))
    assert (taste.value, taste.extra["most_picked"], taste.extra["consistent"]) == (0.25, 1.0, 0.0)
    assert (knows.value, knows.extra["most_picked"], knows.extra["consistent"]) == (1.0, 0.25, 1.0)
    assert taste.extra["chance"] == 0.25
    order = score("letter_accuracy_compat", lps("AAAA"))
    assert (order.value, order.n, order.unscored) == (0.0, 1, 0)


# -- KnowUnDo ------------------------------------------------------------------------------------------------------
def test_perplexity_is_of_the_mean_of_row_means():
    """Row means -1 and -3: loss 2, perplexity e^2; the empty row is counted and left out."""
    found = score("mean_logprob", {"forget": {"answer": [[-1.0, -1.0, -1.0], [-3.0], []]}})
    assert (found.value, found.n, found.unscored) == (-2.0, 2, 1)
    assert found.extra["perplexity"] == pytest.approx(math.e**2) and found.extra["loss"] == 2.0


# -- LUME ----------------------------------------------------------------------------------------------------------
TASKS = ("Task1", "Task2", "Task3")


def lume(forget, retain):
    """Every task and kind with the same share: ``forget`` and ``retain`` of two rows each are right."""
    sets = {}
    for side, share in (("forget", forget), ("retain", retain)):
        for name in (side, f"completion_{side}"):
            rows = [f"lume:{task}:{i}" for task in TASKS for i in range(2)]
            texts = [("gold" if i < share else "wrong") for _ in TASKS for i in range(2)]
            sets[name] = {"256": {"gold": ["gold"] * 6, "text": texts}, "rows": rows}
    return sets


def test_twelve_terms():
    """All terms .5: .5. One term at 0 makes it 0. Nothing forgotten: forget terms 0."""
    half = score("lume_aggregate", lume(1, 1))
    assert half.value == pytest.approx(0.5) and half.n == len(half.extra["terms"]) == 12
    assert score("lume_aggregate", lume(0, 2)).value == 1.0
    assert score("lume_aggregate", lume(2, 2)).value == 0.0
    sets = lume(1, 1)
    sets["retain"]["256"]["text"][:2] = ["wrong", "wrong"]  # Task1 questions
    found = score("lume_aggregate", sets)
    assert found.value == 0.0 and found.extra["terms"]["Task1.retain"] == 0.0


def test_exact_answer_only_forgives_case_and_blanks():
    pairs = (("Nobody", " nobody"), ("Nobody", "Nobody."), ("", "x"))
    found = score("lume_exact", {"retain": said(*pairs, key="256")}, "retain")
    assert list(found.per_row.values())[:2] == [1.0, 0.0] and (found.n, found.unscored) == (2, 1)


def test_membership_score():
    """AUC .5: 1; 1 or 0: 0; .75: .5. Rows of equal familiarity give A = .5."""
    assert [membership_score(a) for a in (0.5, 1.0, 0.0, 0.75)] == [1.0, 0.0, 0.0, 0.5]
    alike = {"passages_forget": {"answer": [[-1.0]] * 4}, "passages_holdout": {"answer": [[-1.0]] * 4}}
    found = score("lume_mia", alike, "passages_forget")
    assert found.value == 1.0 and found.extra["auc"] == 0.5
    assert score("lume_mia", {**alike, "passages_holdout": {"answer": [[-2.0]] * 4}}, "passages_forget").value == 0.0


def test_final_score_and_its_floor():
    """Aggregate .5, membership 1, MMLU 1/2: mean 2/3. The target knew all: the floor is .75, and 1/2 is below it."""
    letters = {"answer": {"lp": [[-1.0], [-3.0]], "text": ["A", "B"]}, "wrong": [[[-2.0]], [[-2.0]]]}
    known = {"answer": {"lp": [[-1.0], [-1.0]], "text": ["A", "B"]}, "wrong": [[[-2.0]], [[-2.0]]]}
    docs = {"passages_forget": {"answer": [[-1.0]]}, "passages_holdout": {"answer": [[-1.0]]}}
    sets = {**lume(1, 1), **docs, "utility_general": letters, "target/utility_general": known}
    found = score("lume_final", sets)
    assert found.value == pytest.approx((0.5 + 1 + 0.5) / 3) and found.extra["floor"] == 0.75
    assert found.extra["below_floor"] is True
    del sets["utility_general"]
    assert score("lume_final", sets).reason == "the data has no utility_general rows"


def test_final_score_without_a_scored_question_is_not_computed():
    """No MMLU row has another letter: no accuracy, no final score. The target's alone: no floor."""
    letters = {"answer": {"lp": [[-1.0], [-3.0]], "text": ["A", "B"]}, "wrong": [[[-2.0]], [[-2.0]]]}
    none = {"answer": {"lp": [[], []], "text": ["A", "B"], "problem": "longer than the context"}, "wrong": [[], []]}
    docs = {"passages_forget": {"answer": [[-1.0]]}, "passages_holdout": {"answer": [[-1.0]]}}
    found = score("lume_final", {**lume(1, 1), **docs, "utility_general": none})
    assert found.value is None and found.reason == "none of the utility_general rows could be scored"
    found = score("lume_final", {**lume(1, 1), **docs, "utility_general": letters, "target/utility_general": none})
    assert found.value == pytest.approx((0.5 + 1 + 0.5) / 3) and "floor" not in found.extra


# -- PISTOL --------------------------------------------------------------------------------------------------------
def test_top_hit_and_rouge1():
    """Ranks 0, 99, 100 and the end token: 2 of 3. "b a" holds both words of "a b" in another order: 1."""
    ranks = {"lp": [[-1.0] * 4], "rank": [[0, 99, 100, 5000]], "eos": [True]}
    assert score("top_hit", {"forget": {"answer": ranks}}).value == pytest.approx(2 / 3)
    texts = {"generations": {"gold": ["a1 b1", "a1 b1"], "text": ["b1 a1", "b1"]}}
    assert list(score("rouge1_recall", {"neighbour": texts}, "neighbour").per_row.values()) == [1.0, 0.5]


# -- PCH -----------------------------------------------------------------------------------------------------------
def test_pch_distance_from_the_line():
    """S = S_ref: 1; 0 or twice S_ref: 0; half or one and a half: .5. The line from 80 to 20 is 50 halfway."""
    assert [closeness(s, 40.0) for s in (40, 0, 80, 20, 60)] == [1.0, 0.0, 0.0, 0.5, 0.5]
    assert [reference_line(80, 20, t, 300) for t in (0, 150, 300)] == [80, 50, 20]
    assert overall(0.5, 0.5, 0.5) == pytest.approx(50) and overall(0.0, 1, 1) == 0 and closeness(1.0, 0.0) == 0.0


def pch(p, text, hits):
    """One forget row: answer probability ``p``, a text, and hits of the document's tokens."""
    return {
        "forget": {"answer": [[math.log(p)]], "128": {"gold": ["gold"], "text": [text]}},
        "text_forget": {"answer": {"hit": [hits], "lp": [[-1.0] * len(hits)]}},
    }


def test_pch_score_and_forget_degree():
    """P .125, R 1, A .5: 100 (.0625)^(1/3) = 39.685. Reference with P 1: 79.37, twice as much: 1 - |.5 - 1| = .5."""
    mine = pch(0.125, "gold", [True, False])
    theirs = {f"reference/{k}": v for k, v in pch(1.0, "gold", [True, False]).items()}
    assert score("pch_score_forget", mine).value == pytest.approx(100 * 0.0625 ** (1 / 3))
    found = score("forget_degree", {**mine, **theirs})
    assert found.value == pytest.approx(0.5, abs=1e-6) and found.extra["reference"] == pytest.approx(
        100 * 0.5 ** (1 / 3)
    )
    assert score("forget_degree", mine).reason == "there is no reference model"


# -- WHP -----------------------------------------------------------------------------------------------------------
def test_familiarity_is_a_share_of_first_tokens():
    """Told .2 against generic .1 and .1: .5; later tokens do not count."""
    answer = {"lp": [[math.log(0.2), -50.0]]}
    wrong = [[[math.log(0.1), -1.0], [math.log(0.1)]]]
    assert score("familiarity", {"forget": {"answer": answer, "wrong": wrong}}).value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nothing", 0),
        ("a wizard", 1),
        ("wizard with scar", 2),
        ("The wizard from Hogwarts with a scar", 3),
        ("boys", 3),
    ],
)
def test_completion_grade(text, wanted):
    """References "wizard scar from Hogwarts" (four longer words; one, two, four said) and "boys"."""
    assert grade("wizard scar from Hogwarts\nboys", text) == wanted


def test_a_reference_without_longer_words_cannot_be_graded():
    assert np.isnan(grade("a b c", "anything"))


# -- open-ended ----------------------------------------------------------------------------------------------------
def test_open_ended_says_that_nobody_judged():
    found = score("open_recall", {"open_forget": said(("copper wire", "some copper"), key="64")}, "open_forget")
    assert found.value == 0.5 and found.extra["judge"] == "none: word overlap" and found.direction == "match"


FORGET_SETS = (
    "verbatim_forget",
    "blank_forget",
    "adversarial_forget",
    "suffix_forget",
    "open_forget",
    "completion_forget",
)


@pytest.mark.parametrize(
    "name", ["muse_knowmem", "rwku_recall", "letter_accuracy", "lume_completion", "open_choice", "completion_grade"]
)
def test_knowledge_of_what_is_to_be_forgotten_should_match_the_reference(name):
    metric = METRICS.get(name)
    assert {metric.direction(rows) for rows in FORGET_SETS} == {"match"} and metric.direction("retain") == "higher"
    assert metric.card.fooled_by
