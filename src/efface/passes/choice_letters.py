"""Letter questions: each question with its answer and up to three wrong ones as options A to D, in every rotation.

Models have a taste for a letter. The right option therefore stands once in each place, and a metric averages.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from efface.data.rows import Row
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import score
from efface.passes.tables import Tokens

LETTERS = "ABCD"
FORM = "{question}\n{options}\nAnswer with the letter of the right option."
CHOICE_LETTERS = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("rotation", pa.int32()),  # place of the right option, 0 = A
        ("own", pa.float32()),  # log-prob of the right letter, end token not counted
        ("others", pa.list_(pa.float32())),  # of the other letters, in their order
        ("problem", pa.string()),
    ]
)


@table_pass("choice_letters")
def choice_letters(given: PassInput) -> pa.Table:
    """One line per row and rotation, in order of the rows; a row without wrong answers has one line that says so."""
    asked = [(row, derived) for row in given.rows for derived in letter_rows(row)]
    table = score(
        given.adapter, [d for _, d in asked], answers=("answer", "wrong"), token_budget=given.token_budget
    ).tokens
    found: dict[str, list[float]] = {}
    for name, lp in zip(table["row"].to_pylist(), Tokens(table).body(Tokens(table).lp), strict=True):
        found.setdefault(name, []).append(float(lp.sum()) if lp.size else np.nan)
    problems = dict(zip(table["row"].to_pylist(), table["problem"].to_pylist(), strict=True))
    lines = [
        _line(row, k, found[derived.id], problems[derived.id])
        for row in given.rows
        for k, derived in enumerate(letter_rows(row))
    ]
    lines += [_line(row, 0, [], "no wrong") for row in given.rows if not row.wrong]
    order = {row.id: place for place, row in enumerate(given.rows)}
    return pa.Table.from_pylist(
        sorted(lines, key=lambda line: (order[line["row"]], line["rotation"])), schema=CHOICE_LETTERS
    )


def letter_rows(row: Row) -> list[Row]:
    """The letter questions of one row, one for each place of the right option. The right option is the paraphrased
    answer where there is one (wrong answers are worded like it), its wrong ones come in an order of the row's own."""
    wrong = list(row.wrong[: len(LETTERS) - 1])
    random.Random(f"letters/{row.id}").shuffle(wrong)
    right = row.answer_paraphrase or row.answer
    return [
        Row(
            f"{row.id}#{place}",
            LETTERS[place],
            FORM.format(question=row.prompt, options=_options([*wrong[:place], right, *wrong[place:]])),
            row.entity,
            wrong=tuple(letter for letter in LETTERS[: len(wrong) + 1] if letter != LETTERS[place]),
        )
        for place in range(len(wrong) + 1 if wrong else 0)
    ]


def _options(texts: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))


def _line(row: Row, place: int, values: Sequence[float], problem: str) -> dict[str, object]:
    whole = not problem and len(values) > 1
    return {
        "row": row.id,
        "entity": row.entity,
        "rotation": place,
        "own": values[0] if whole else float("nan"),
        "others": list(values[1:]) if whole else [],
        "problem": problem,
    }
