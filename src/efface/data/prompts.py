"""Prompt texts that several published protocols share: few-shot blocks, and multiple choice by letter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from efface.data.rows import Row
from efface.errors import DataError

LETTERS = "ABCDEFGHIJ"


def few_shot(shots: Iterable[tuple[str, str]]) -> str:
    """Solved examples in front of a question, as MUSE writes them: a question, its answer, an empty line."""
    return "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in shots)


def choice_text(question: str, choices: Sequence[str]) -> str:
    """A question, its options by letter, and the call for an answer."""
    options = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question.strip()}{options}\nAnswer:"


def letter_rows(
    key: str, question: str, choices: Sequence[str], answer: int, *, header: str = "", rotate: bool = True
) -> tuple[Row, ...]:
    """One row per rotation of the options (``<key>:r0`` is the published order); the answer is the letter, the wrong
    answers the other letters. All share the entity ``key``. Raises ``DataError`` data.bad-value."""
    if not (2 <= len(choices) <= len(LETTERS) and 0 <= answer < len(choices)):
        raise DataError(
            "data.bad-value",
            f"{key}: answer {answer} is none of its {len(choices)} options.",
            f"give 2 to {len(LETTERS)} options and the number of the right one, from 0.",
        )
    rows = []
    for turn in range(len(choices) if rotate else 1):
        shown = [*choices[turn:], *choices[:turn]]
        gold = LETTERS[(answer - turn) % len(choices)]
        others = tuple(letter for letter in LETTERS[: len(choices)] if letter != gold)
        rows.append(Row(f"{key}:r{turn}", gold, header + choice_text(question, shown), key, wrong=others, fact=key))
    return tuple(rows)


def open_row(key: str, question: str, choices: Sequence[str], answer: int) -> Row:
    """The same question without options: the answer is the right option's text, the wrong answers the others'."""
    wrong = tuple(choice for i, choice in enumerate(choices) if i != answer)
    return Row(f"{key}:open", choices[answer], question.strip(), key, wrong=wrong, fact=key)


def pieces(text: str, words: int) -> list[str]:
    """``text`` cut into pieces of at most ``words`` words, blanks inside a piece as they were; 0: one piece."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    if not words or len(spans) <= words:
        return [text]
    parts = [spans[i : i + words] for i in range(0, len(spans), words)]
    return [text[part[0][0] : part[-1][1]] for part in parts]
