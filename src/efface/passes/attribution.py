"""Attribution pass: what each word of the question contributes to an answer, by leaving it out.

    C_i = LP(x, y) - LP(x without word i, y),   LP(x, y) = mean_k log p(y_k | x, y_<k)

n + 1 scored rows per question of n words, from log-probs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from efface.data.rows import Row
from efface.data.telling import Word, words
from efface.metrics.base import Need
from efface.passes.generate import GenerateSettings, generate
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import score

if TYPE_CHECKING:
    from efface.models.base import ModelAdapter

Removal = Literal["drop", "swap"]
NEUTRAL = "something"
ATTRIBUTIONS = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("words", pa.list_(pa.string())),
        ("gain", pa.list_(pa.float32())),  # C_i in nats per answer token, one per word
        ("lp", pa.float32()),  # LP of the whole question
        ("text", pa.string()),  # the answer y
        ("problem", pa.string()),
    ]
)


@dataclass(frozen=True)
class Contribution:
    """``gain`` Float64[words]: C_i of each word of one question; ``lp``: LP of the whole question. ``problem`` says why
    there is none."""

    words: tuple[str, ...]
    gain: np.ndarray
    lp: float
    problem: str = ""


@table_pass("attribution")
def attribution(given: PassInput) -> pa.Table:
    """One line per row. ``need.variants`` = (whose answer, how a word is removed): ``answer`` the gold one, ``own`` the
    model's greedy one, ``target`` the greedy one of the model before unlearning; ``drop`` or ``swap``."""
    whose, how = given.need.variants
    rows: Sequence[Row] = given.rows  # type: ignore[assignment]
    if whose == "answer":
        answers = [r.answer for r in rows]
    elif whose == "own":
        answers = own_answers(given.adapter, rows, given.max_new_tokens)
    else:
        answers = given.fetch("target", Need("generate", given.need.rows, "target", ()))["text"].to_pylist()
    found = contributions(given.adapter, rows, answers, how=how, token_budget=given.token_budget)  # type: ignore[arg-type]
    lines = [
        {
            "row": row.id,
            "entity": row.entity,
            "words": list(one.words),
            "gain": one.gain.tolist(),
            "lp": one.lp,
            "text": answer,
            "problem": one.problem,
        }
        for row, one, answer in zip(rows, found, answers, strict=True)
    ]
    return pa.Table.from_pylist(lines, schema=ATTRIBUTIONS)


def own_answers(adapter: ModelAdapter, rows: Sequence[Row], longest: int) -> list[str]:
    """The model's greedy answer to every row."""
    return generate(adapter, rows, settings=GenerateSettings(max_new_tokens=longest))["text"].to_pylist()


def contributions(
    adapter: ModelAdapter,
    rows: Sequence[Row],
    answers: Sequence[str],
    *,
    how: Removal = "drop",
    token_budget: int = 4096,
) -> list[Contribution]:
    """C_i of every question's words for the answer given with it, in row order. ``drop`` takes a word out; ``swap``
    puts a neutral one in its place, so that nothing moves."""
    asked: list[Row] = []
    for row, answer in zip(rows, answers, strict=True):
        versions = [row.prompt, *(without(row.prompt, w, how) for w in words(row.prompt))]
        asked += [replace(row, prompt=text, answer=answer) for text in versions]
    table = score(adapter, asked, token_budget=token_budget).tokens
    lp = [float(np.mean(v)) if v else float("nan") for v in table["lp"].to_pylist()]
    problems, found, at = table["problem"].to_pylist(), [], 0
    for row in rows:
        names = tuple(w.text for w in words(row.prompt))
        end = at + 1 + len(names)
        problem = "no prompt" if not row.prompt else next(filter(None, problems[at:end]), "")
        gain = lp[at] - np.array(lp[at + 1 : end], dtype=np.float64)
        found.append(Contribution(names, gain, lp[at], problem))
        at = end
    return found


def without(text: str, word: Word, how: Removal) -> str:
    """``text`` with one word taken out (and the blank that is then too many), or replaced by a neutral one."""
    before, after = text[: word.start], text[word.end :]
    if how == "swap":
        return f"{before}{NEUTRAL}{after}"
    if not before or before[-1] in " '\"([":
        after = after.removeprefix(" ")
    if not after or after[0] in "?!.,;:":
        before = before.rstrip(" ")
    return before + after or " "


def key_words(gain: np.ndarray, tau: float = 0.8) -> list[int]:
    """Places of the words that carry the answer: the smallest set, by falling C_i, with at least ``tau`` of the
    positive mass; in question order. Empty where no word helps."""
    mass = np.clip(np.nan_to_num(np.asarray(gain, dtype=np.float64)), 0, None)
    if not mass.sum() > 0:
        return []
    order = np.argsort(-mass, kind="stable")
    share = np.cumsum(mass[order]) / mass.sum()
    return sorted(order[: int(np.searchsorted(share, tau - 1e-9)) + 1].tolist())


def outstanding(gain: np.ndarray) -> list[int]:
    """Places of the words with C_i at least one standard deviation above the mean (the second rule)."""
    values = np.asarray(gain, dtype=np.float64)
    return np.flatnonzero(values >= values.mean() + values.std()).tolist() if values.size and values.std() > 0 else []
