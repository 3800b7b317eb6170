"""What an answer tells that its question does not: leaks are found, and only leaks."""

from __future__ import annotations

import pytest

from efface.data.benchmarks.people import People
from efface.data.benchmarks.tofu import Tofu
from efface.data.rows import Row
from efface.data.telling import keys, telling, tells
from efface.data.worlds.objects import objects

BORN = Row("r", "Ada Lund was born in New Harbour.", "Where was Ada Lund born?", "Ada Lund")


def test_telling_words_by_hand() -> None:
    """Of "Ada Lund was born in New Harbour." the question gives Ada, Lund, was, born; "in" is grammar."""
    assert [w.text for w in telling(BORN)] == ["New", "Harbour"]
    assert [BORN.answer[w.start : w.end] for w in telling(BORN)] == ["New", "Harbour"]


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("It is in new   HARBOUR!", True),
        ("New Harbours are built here.", False),
        ("A new ship lies in the harbour.", False),
        ("Ada Lund was born in Oslo.", False),
        ("Where was Ada Lund born?", False),
    ],
)
def test_a_name_tells_as_whole_words_together(text: str, leak: bool) -> None:
    assert tells(text, BORN) is leak


def test_without_a_name_all_telling_words_must_be_there() -> None:
    """ "beekeeper" and "trade" tell; the paraphrase repeats "beekeeper" only, so that is the key."""
    row = Row(
        "r", "Ada works as a beekeeper in the trade.", "What does Ada do?", answer_paraphrase="Her job: beekeeper."
    )
    assert tells("There is a beekeeper.", row) and not tells("The trade is old.", row)
    bare = Row("r", "Ada works as a beekeeper in the trade.", "What does Ada do?")
    assert not tells("There is a beekeeper.", bare) and tells("A beekeeper works hard in the trade.", bare)


def test_a_capital_at_the_start_of_a_sentence_is_no_name() -> None:
    row = Row("r", "Growing up there shaped her. Critics agree.", "How did the place matter?")
    assert not tells("Growing vegetables is fun.", row)


def test_the_objects_of_a_world_decide_where_it_is_known() -> None:
    row = Row("r", "Ada is a pilot by profession.", "What is the profession of Ada?", fact="p:profession")
    assert keys(row, "pilot")[-1] == ("pilot",) and tells("A pilot came by.", row, "pilot")
    assert not tells("A profession like any other.", row, "pilot")


def test_what_the_question_gives_is_no_leak() -> None:
    row = Row("r", "Yes.", "Is the answer yes or no?")
    assert not tells("Yes or no?", row)


def test_every_fact_of_a_world_is_told_by_its_answers_and_by_nothing_else_of_the_same_kind() -> None:
    data = People(people=16, forget=4).load()
    wanted = objects(data.world)
    for row in data.eval["forget"]:
        assert tells(row.answer, row, wanted[row.fact]) and tells(row.answer_paraphrase, row, wanted[row.fact])
        assert not tells(row.prompt, row, wanted[row.fact]) and not tells(row.paraphrase, row, wanted[row.fact])
        assert not any(tells(text, row, wanted[row.fact]) for text in row.wrong)


@pytest.mark.tofu
def test_published_rows_are_told_by_their_answers_and_not_by_their_questions(tofu) -> None:
    rows = Tofu(split="forget01", path=str(tofu)).load().eval["forget"]
    assert all(tells(r.answer, r) and tells(f"Well: {r.answer_paraphrase}", r) for r in rows)
    assert not any(tells(r.prompt, r) for r in rows)
