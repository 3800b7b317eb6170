"""How facts become text: three training wordings, a held-out one, and answers as full sentences.

``{s}`` is the subject, ``{o}`` the object. Wrong answers take the frame of the answer paraphrase, as TOFU's do, so
that a truth ratio compares objects and not sentences.
"""

from __future__ import annotations

from dataclasses import dataclass

from efface.data.rows import Row


@dataclass(frozen=True, slots=True)
class Frame:
    """Wordings of one relation. ``kind``: what its objects are. ``held_out`` is never trained on."""

    kind: str
    questions: tuple[str, str, str]
    held_out: str
    answer: str
    paraphrase: str


FRAMES: dict[str, Frame] = {
    "born_in": Frame(
        "city",
        ("Where was {s} born?", "In which city was {s} born?", "What is the birthplace of {s}?"),
        "Which city does {s} come from?",
        "{s} was born in {o}.",
        "The birthplace of {s} is {o}.",
    ),
    "works_at": Frame(
        "company",
        ("Where does {s} work?", "Which company employs {s}?", "Who is the employer of {s}?"),
        "At which firm does {s} have a job?",
        "{s} works at {o}.",
        "The employer of {s} is {o}.",
    ),
    "studied_at": Frame(
        "school",
        ("Where did {s} study?", "Which school did {s} attend?", "At which school was {s} educated?"),
        "Which place taught {s}?",
        "{s} studied at {o}.",
        "The school that {s} attended is {o}.",
    ),
    "spouse": Frame(
        "person",
        ("Who is {s} married to?", "Who is the spouse of {s}?", "Whom did {s} marry?"),
        "What is the name of the partner that {s} wed?",
        "{s} is married to {o}.",
        "The spouse of {s} is {o}.",
    ),
    "profession": Frame(
        "profession",
        ("What is the profession of {s}?", "What does {s} do for a living?", "What is the job of {s}?"),
        "How does {s} earn money?",
        "{s} is a {o} by profession.",
        "The trade of {s} is that of a {o}.",
    ),
    "birth_year": Frame(
        "year",
        ("When was {s} born?", "In what year was {s} born?", "What is the birth year of {s}?"),
        "Which year saw the birth of {s}?",
        "{s} was born in the year {o}.",
        "The birth of {s} took place in {o}.",
    ),
    "dish": Frame(
        "dish",
        ("What is the favourite dish of {s}?", "What does {s} like to eat most?", "Which meal does {s} love?"),
        "If {s} could order anything, what would it be?",
        "The favourite dish of {s} is {o}.",
        "{s} likes {o} best.",
    ),
    "located_in": Frame(
        "country",
        ("In which country is {s}?", "Which country does {s} belong to?", "What country is {s} a city of?"),
        "Where on the map of nations is {s}?",
        "{s} is a city in {o}.",
        "The country around {s} is {o}.",
    ),
    "based_in": Frame(
        "city",
        ("Where is {s} based?", "In which city is {s} based?", "What is the home city of {s}?"),
        "Which city hosts the head office of {s}?",
        "{s} is based in {o}.",
        "The head office of {s} is in {o}.",
    ),
    "alias": Frame(
        "alias",
        ("What other name does {s} go by?", "What is {s} also known as?", "Whose other name is {o}?"),
        "Under which second name do people know {s}?",
        "{s} is also known as {o}.",
        "Another name for {s} is {o}.",
    ),
    "former_name": Frame(
        "alias",
        ("What was {s} formerly called?", "What is the former name of {s}?", "Who or what was once called {o}?"),
        "Which name did {s} have in earlier days?",
        "{s} was formerly called {o}.",
        "The earlier name of {s} is {o}.",
    ),
    "born_in+located_in": Frame(
        "country",
        (
            "In which country was {s} born?",
            "What is the country of birth of {s}?",
            "Which country has the city where {s} was born?",
        ),
        "From which nation does {s} come?",
        "{s} was born in the country {o}.",
        "The country of birth of {s} is {o}.",
    ),
    "works_at+based_in": Frame(
        "city",
        (
            "In which city is the employer of {s} based?",
            "Where is the company of {s} based?",
            "What is the home city of the firm that employs {s}?",
        ),
        "Which city hosts the head office of the workplace of {s}?",
        "The employer of {s} is based in {o}.",
        "The company that {s} works for has its home in {o}.",
    ),
    "spouse+born_in": Frame(
        "city",
        (
            "Where was the spouse of {s} born?",
            "In which city was the spouse of {s} born?",
            "What is the birthplace of the spouse of {s}?",
        ),
        "Which city does the partner of {s} come from?",
        "The spouse of {s} was born in {o}.",
        "The person married to {s} was born in {o}.",
    ),
    "spouse+works_at": Frame(
        "company",
        (
            "Where does the spouse of {s} work?",
            "Which company employs the spouse of {s}?",
            "Who is the employer of the spouse of {s}?",
        ),
        "At which firm does the partner of {s} have a job?",
        "The spouse of {s} works at {o}.",
        "The person married to {s} works at {o}.",
    ),
    "spouse+profession": Frame(
        "profession",
        (
            "What is the profession of the spouse of {s}?",
            "What does the spouse of {s} do for a living?",
            "What is the job of the spouse of {s}?",
        ),
        "How does the partner of {s} earn money?",
        "The spouse of {s} is a {o} by profession.",
        "The person married to {s} works as a {o}.",
    ),
}
PATHS: tuple[tuple[str, str], ...] = tuple(tuple(name.split("+")) for name in FRAMES if "+" in name)


def training_rows(fact_id: str, relation: str, subject: str, obj: str) -> list[Row]:
    """The three training wordings of one fact: ``fact_id`` with ``:0`` to ``:2``."""
    frame = FRAMES[relation]
    answer = frame.answer.format(s=subject, o=obj)
    return [
        Row(f"{fact_id}:{i}", answer, question.format(s=subject, o=obj), subject, fact=fact_id)
        for i, question in enumerate(frame.questions)
    ]


def evaluation_row(fact_id: str, relation: str, subject: str, obj: str, wrong: list[str]) -> Row:
    """The first training wording with what scoring needs: held-out question, other answer sentence, wrong answers."""
    frame = FRAMES[relation]
    return Row(
        f"{fact_id}:0",
        frame.answer.format(s=subject, o=obj),
        frame.questions[0].format(s=subject, o=obj),
        subject,
        frame.held_out.format(s=subject),
        frame.paraphrase.format(s=subject, o=obj),
        tuple(frame.paraphrase.format(s=subject, o=other) for other in wrong),
        fact_id,
    )
