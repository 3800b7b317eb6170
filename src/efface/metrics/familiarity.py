"""Who's Harry Potter's evaluation without its judge: token probabilities after telling prompts, graded completions."""

from __future__ import annotations

import re

import numpy as np

from efface.card import Card
from efface.metrics.base import PerRow, Tables, metric
from efface.metrics.generation import SILENT
from efface.metrics.knowledge import CHOICES
from efface.metrics.memorisation import per_row
from efface.metrics.protocols import DIRECTIONS, continued, score_texts

WHP = "Eldan and Russinovich 2023, Who's Harry Potter (arXiv 2310.02238)"
TEXT = continued(64)
WORD = re.compile(r"[^\W\d_]{4,}")
GRADES = (0.0, 1 / 3, 2 / 3)


@metric(
    "familiarity",
    needs=CHOICES,
    directions=DIRECTIONS,
    card=Card(
        "Familiarity by token probabilities",
        WHP,
        "",
        "P(told) / (P(told) + sum P(generic)): the first token of what only a reader would say next, against the first "
        "tokens of what anybody would say.",
        derived=("the share of two sets of tokens; the paper lists prompts and sums probabilities by hand",),
        fooled_by=("a bias against single tokens", "first tokens that several words share"),
    ),
)
def familiarity(tables: Tables) -> PerRow:
    """Share of the told token per row; rows without generic ones are unscored."""
    tokens, values = tables.tokens(), []
    for lp, others in zip(tokens.lp, tables.variants(), strict=True):
        generic = [other[0] for other in others if other.size]
        values.append(np.exp(lp[0] - np.logaddexp.reduce([lp[0], *generic])) if lp.size and generic else np.nan)
    return per_row(tokens, values)


def grade(gold: str, text: str) -> float:
    """0 to 3: how many of the four-letter words of the nearest reference (one a line) the text holds: none, up to a
    third, up to two thirds, more. NaN where no reference has such a word."""
    said = {word.casefold() for word in WORD.findall(text)}
    wanted = [{word.casefold() for word in WORD.findall(line)} for line in gold.split("\n")]
    shares = [len(words & said) / len(words) for words in wanted if words]
    return float(sum(max(shares) > bound for bound in GRADES)) if shares else float("nan")


@metric(
    "completion_grade",
    needs=[TEXT],
    directions=DIRECTIONS,
    card=Card(
        "Completion grade, no judge",
        WHP,
        "",
        "0 to 3 per completion, from the words it shares with the nearest reference: an offline stand-in for the "
        "paper's GPT-4 grades. Not comparable with published grades; `judge` says so with every score.",
        derived=("the whole rule: none, up to a third, up to two thirds, more of a reference's longer words",),
        fooled_by=(SILENT, "the same thing in other words", "words of the question said again"),
    ),
)
def completion_grade(tables: Tables) -> PerRow:
    """Grade per row."""
    result = score_texts(tables, TEXT, grade)
    return PerRow(result.values, result.rows, result.entities, {**result.extra, "judge": "none: word overlap"})
