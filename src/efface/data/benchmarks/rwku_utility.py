"""RWKU's utility sets, each read where its file is there: MMLU, BBH, TruthfulQA, TriviaQA and fluency instructions.

The published code starts every answer with ``Answer:`` or ``A:`` behind the chat template. Generated answers are
started likewise (the metrics say so); options that are only scored (MMLU, TruthfulQA) are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from efface.data.columns import column, text, texts
from efface.data.mmlu import gold_place, header
from efface.data.prompts import LETTERS, choice_text, letter_rows
from efface.data.records import Record
from efface.data.rows import Row
from efface.data.splits import Splits
from efface.errors import DataError

PRIMER = (
    "Q: What is human life expectancy in the United States?\n"
    "A: Human life expectancy in the United States is 78 years.\n\n"
    "Q: Who was president of the United States in 1955?\n"
    "A: Dwight D. Eisenhower was president of the United States in 1955.\n\n"
    "Q: Which party did he belong to?\nA: He belonged to the Republican Party.\n\n"
    "Q: What is the square root of banana?\nA: I have no comment.\n\n"
    "Q: How does a telescope work?\n"
    "A: Telescopes use lenses or mirrors to focus light and make objects appear closer.\n\n"
    "Q: Where were the 1992 Olympics held?\nA: The 1992 Olympics were held in Barcelona, Spain."
)
NEXT = "Please following the previous examples and answer the given question.\n"  # the published wording
CHAIN = "\n\nFollowing previous examples, answer the following questions and end with 'so the answer is'\nQ: "
SHOTS = (
    "\nQ: When did men's figure skating become a summer Olympic sport?\nA: 1908"
    "\nQ: When did the all india workers and peasants party came in to existence?\nA: November 1925"
    "\nQ: Flight that went down in the hudson river?\nA: US Airways Flight 1549"
    "\nQ: Where are most of the world's earthquakes located?\nA: Rim of Fire"
    "\nQ: Csi when do grissom and sara reunite?\nA: series finale"
    "\nPlease briefly answer the following question:\n"
)


def general(record: Record, key: str) -> tuple[Row, ...]:
    """MMLU with the record's own five solved questions in front; the published order of options only."""
    shots = "".join(f"{solved}\n\n" for solved in map(_solved, column(record, "examples")))
    before = header(text(record, "task")) + shots + NEXT + "Question: "
    rows = letter_rows(
        key,
        text(record, "question"),
        texts(record, "choices"),
        gold_place(record),
        header=before,
        rotate=False,
    )
    return rows


def _solved(example: Any) -> str:
    if not isinstance(example, dict) or not {"question", "choices", "answer"} <= set(example):
        raise DataError("data.bad-value", "an MMLU example has no question, choices and answer.", "get the file again.")
    shown = choice_text(str(example["question"]), [str(choice) for choice in example["choices"]])
    return f"Question: {shown} {LETTERS[int(example['answer'])]}"


def reason(record: Record, key: str) -> tuple[Row, ...]:
    """BBH with the task's chain-of-thought examples in front."""
    prompt = text(record, "cot").strip() + CHAIN + text(record, "question")
    return (Row(key, text(record, "answer"), prompt),)


def truthfulness(record: Record, key: str) -> tuple[Row, ...]:
    """TruthfulQA MC1 after its six solved questions: one true answer, the others false."""
    targets = column(record, "mc1_targets")
    if not isinstance(targets, dict) or not {"choices", "labels"} <= set(targets):
        raise DataError(
            "data.bad-value", f"{record.where}: mc1_targets has no choices and labels.", "get the file again."
        )
    pairs = list(zip(targets["choices"], targets["labels"], strict=False))
    true = [str(choice) for choice, label in pairs if label == 1]
    if len(true) != 1:
        raise DataError("data.bad-value", f"{record.where}: {len(true)} of the MC1 answers are true.", "get it again.")
    false = tuple(str(choice) for choice, label in pairs if label != 1)
    return (Row(key, true[0], f"{PRIMER}\n\nQ: {text(record, 'question')}", wrong=false),)


def factuality(record: Record, key: str) -> tuple[Row, ...]:
    """TriviaQA after five solved questions; accepted answers one a line."""
    return (Row(key, "\n".join(texts(record, "answers")), f"{SHOTS}Q: {text(record, 'question')}\n"),)


def fluency(record: Record, key: str) -> tuple[Row, ...]:
    """An instruction; there is no right answer, the gold text is the record's own output where it has one."""
    return (Row(key, str(record.values.get("output") or ""), f"Instruction: {text(record, 'instruction')}\n"),)


KINDS: dict[str, tuple[str, Callable[[Record, str], tuple[Row, ...]]]] = {
    "general": ("retain_mmlu", general),
    "reason": ("retain_bbh", reason),
    "truthfulness": ("truthful", truthfulness),
    "factuality": ("triviaqa", factuality),
    "fluency": ("fluency", fluency),
}


def utility_sets(tables: Splits) -> dict[str, tuple[Row, ...]]:
    """{"utility_<kind>": rows} of the kinds whose table is there. Records of several people repeat: once each."""
    found = {}
    for kind, (file, make) in KINDS.items():
        name = f"utility_{kind}"
        if tables.source == "hub":
            records = tables.records(name, "test")
        else:
            there = [stem for stem in (name, file) if tables.has("", stem)]
            records = tables.records("", there[0]) if there else []
        rows: dict[str, Row] = {}
        for i, record in enumerate(records):
            for row in make(record, f"rwku:{kind}:{i}"):
                rows.setdefault(row.prompt, row)
        found[name] = tuple(rows.values())
    return {name: rows for name, rows in found.items() if rows}
