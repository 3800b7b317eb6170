"""Sampled-word pass: how often each word comes up in many hot samples of an answer, and which of them give it away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from efface.data.rows import Row
from efface.data.telling import is_function, plain, telling, words
from efface.data.worlds.objects import objects
from efface.engine.seeds import derive
from efface.passes.generate import GenerateSettings, generate
from efface.passes.registry import PassInput, table_pass

TEMPERATURE, TOP_K = 2.0, 40
LEAST, MOST = 10, 50  # tokens per sample, as in the paper for short answers and for sentences
SAMPLED_WORDS = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("drawn", pa.int32()),  # samples
        ("told", pa.int32()),  # samples that hold a word of the answer
        (
            "count",
            pa.list_(pa.int32()),
        ),  # per candidate word: samples that hold it; words of the answer are always there
        ("gold", pa.list_(pa.bool_())),  # per candidate word: whether it is one of the answer's
        ("problem", pa.string()),
    ]
)


@table_pass("sampled_words")
def sampled_words(given: PassInput) -> pa.Table:
    """``need.variants[0]`` samples per row at temperature 2 among the 40 likeliest tokens, each as long as the longest
    answer of the set (10 to 50 tokens). One line per row; the table holds counts and no text."""
    rows: Sequence[Row] = given.rows  # type: ignore[assignment]
    wanted = {} if given.world is None else objects(given.world)
    settings = GenerateSettings(
        max_new_tokens=_length(given.adapter, rows),
        samples=int(given.need.variants[0]),
        temperature=TEMPERATURE,
        top_k=TOP_K,
        seed=derive(given.seed, "sampled words"),
    )
    table = generate(given.adapter, rows, prompt=given.need.prompt, settings=settings, token_budget=given.token_budget)
    texts: dict[str, list[str]] = {row.id: [] for row in rows}
    problems: dict[str, str] = {}
    for row, text, problem in zip(*(table[c].to_pylist() for c in ("row", "text", "problem")), strict=True):
        texts[row].append(text)
        problems[row] = problem
    lines = [_line(row, getattr(row, given.need.prompt), texts[row.id], wanted.get(row.fact, "")) for row in rows]
    for line in lines:
        line["problem"] = problems[line["row"]] or line["problem"]
    return pa.Table.from_pylist(lines, schema=SAMPLED_WORDS)


def keywords(row: Row, wanted: str = "") -> set[str]:
    """Words that give the answer away: of ``wanted`` (the fact's object), where the answer holds it, else the telling
    words that its paraphrase repeats. Words of the question and of the wrong answers are none."""
    if wanted and wanted in row.answer:
        found = _content(wanted)
    else:
        told = {w for word in telling(row) for w in plain(word.text).split()}
        found = (told & _content(row.answer_paraphrase)) if row.answer_paraphrase else told
    return found - _content(row.prompt) - _content(" ".join(row.wrong))


def candidates(samples: Iterable[str], known: set[str]) -> Counter[str]:
    """{word: samples that hold it}, case folded, without function words and the words ``known``."""
    return Counter(word for text in samples for word in _content(text) - known)


def _line(row: Row, question: str, samples: Sequence[str], wanted: str) -> dict[str, Any]:
    asked = set(plain(question).split())
    gold = keywords(row, wanted) - asked
    frame = _content(row.answer) | _content(row.answer_paraphrase)
    counts = candidates(samples, asked | (frame - gold))
    found = sorted({*counts, *gold})
    return {
        "row": row.id,
        "entity": row.entity,
        "drawn": len(samples),
        "told": sum(not gold.isdisjoint(_content(text)) for text in samples),
        "count": [counts[word] for word in found],
        "gold": [word in gold for word in found],
        "problem": "" if gold else "no word of the answer tells it apart from the question and the wrong answers",
    }


def _content(text: str) -> set[str]:
    return {part for word in words(text) if not is_function(word.text) for part in plain(word.text).split()}


def _length(adapter: Any, rows: Sequence[Row]) -> int:
    longest = max((len(adapter.template.answer_ids(adapter.tokenizer, row.answer)) for row in rows), default=0)
    return min(MOST, max(LEAST, longest))
