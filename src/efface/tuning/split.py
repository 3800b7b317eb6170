"""The rows a method is tuned on: a request of the same size, made of retain rows that the final audit never scores.

Tuning on the real request would choose settings by the very rows that later judge them. So other facts, which the
target knows as well, play the part of the forget set; some of the rest play the part of the scored retain rows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from efface.data.checks import check_disjoint
from efface.data.rows import Bundle, Row
from efface.errors import NeedsError

LEAST = 4  # units left over: one to forget, two to control retention, one to report it
MOST_SHARE = 1 / 3  # of what is left over, that is forgotten at most


@dataclass(frozen=True)
class TuningData:
    """``forget``: what is forgotten while tuning, all wordings; ``retain``: what the method may see beside it.
    ``scored_forget`` and ``scored_retain``: one row a fact, none of which the audit scores. ``unit``: "entity" if whole
    entities were held apart, "fact" if only facts could be."""

    forget: Sequence[Row]
    retain: Sequence[Row]
    scored_forget: Sequence[Row]
    scored_retain: Sequence[Row]
    unit: str


def tuning_data(data: Bundle, seed: int) -> TuningData:
    """Held apart by entity where enough entities are in no evaluation set, otherwise by fact; ``seed`` chooses.

    Raises ``NeedsError`` "tune.no-rows" where too little is left, "tune.overlap" if a row to be scored is scored by the
    audit after all.
    """
    scored = [row for rows in data.eval.values() for row in rows]
    forget, retain = list(data.train["forget"]), list(data.train["retain"])
    named = all(row.entity for row in forget)
    free = [r for r in _untouched(retain, scored) if r.prompt and (r.entity or not named)]
    for unit, key in (("entity", _entity), ("fact", _fact)):
        taken = {key(row) for row in scored}
        left = list(dict.fromkeys(key(row) for row in free if key(row) not in taken))
        if len(left) >= LEAST:
            return _made(data, free, left, len({key(r) for r in forget}), unit, key, seed)
    raise NeedsError(
        "tune.no-rows",
        f"The audit scores nearly all that is trained of {data.name}: fewer than {LEAST} facts of the retain set are "
        "in no evaluation set, and tuning on scored rows would spoil the audit.",
        "keep more for tuning: fewer evaluation rows (people: data.eval_rows), or a larger retain set (tofu: leave "
        "data.authors out).",
    )


def _made(
    data: Bundle, free: Sequence[Row], left: list[str], count: int, unit: str, key: Callable[[Row], str], seed: int
) -> TuningData:
    count = max(1, min(count, int(MOST_SHARE * len(left))))
    order = random.Random(f"tune/{seed}").sample(left, len(left))
    gone, kept = set(order[:count]), set(order[count:])
    made = TuningData(
        [r for r in data.train["retain"] if key(r) in gone],
        [r for r in data.train["retain"] if key(r) not in gone],
        _first_wordings(r for r in free if key(r) in gone),
        _first_wordings(r for r in free if key(r) in kept),
        unit,
    )
    for name, rows in data.eval.items():
        for mine in (made.scored_forget, made.scored_retain):
            check_disjoint(mine, rows, "the tuning rows", f"the {name} set", "tune.overlap")
    return made


def _untouched(rows: Iterable[Row], scored: Iterable[Row]) -> list[Row]:
    """Rows whose question and answer are in no evaluation row, as texts, whatever their ids say."""
    said = {_plain(t) for r in scored for t in (r.prompt, r.paraphrase, r.answer, r.answer_paraphrase)} - {""}
    return [r for r in rows if _plain(r.prompt) not in said and _plain(r.answer) not in said]


def _first_wordings(rows: Iterable[Row]) -> list[Row]:
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(_fact(row), row)
    return list(found.values())


def _entity(row: Row) -> str:
    return row.entity or row.id


def _fact(row: Row) -> str:
    return row.fact or row.id


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
