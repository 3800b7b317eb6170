"""FADE as a metric: samples of the model and of the reference, each scored under both (pass ``cross_samples``)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from efface.card import Card
from efface.metrics.base import SECOND_REFERENCE, Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.distribution import Fade, by_prompt, normalised, of_gaps
from efface.passes.tables import arrays

SAMPLES = 4  # answers per prompt and model
TESTED = (
    "two bigram models over 5 symbols, at most 6 long: both estimators within two standard errors of the enumeration "
    "of all answers, the exact one with less than half the error",
    "tiny ladder, seed 0, 25 forget rows: floor 5.0 (R2), anchor 29.9 (O); HeadOnly 44.1 with a reverse term of 73.8, "
    "Guard 16.8 (reverse 20.9), Bias 15.0; a collapsed model on the smaller bench 141 against an anchor of 29",
)
Side = tuple[list[np.ndarray], list[str]]


def cross_need(role: str = "subject", rows: str = "*", samples: int = SAMPLES) -> Need:
    """``samples`` answers per prompt of ``role`` and of the reference, scored under both."""
    return Need("cross_samples", rows, role, (str(samples), "reference"), others=("reference",))


NEEDS = (cross_need(),)
LIMITS = (
    "few samples: a rare answer is seldom drawn; read `error`, and `power` before the value",
    "seed noise: two references differ as well, so read `normalised` where a second reference is at hand",
    "answers beyond 64 tokens are not compared",
    "a surrogate reference (base with retain tuning) measures the distance to that surrogate",
)


def _sides(table: pa.Table, *, exact: bool) -> tuple[Side, Side]:
    """(samples of the reference, samples of the model): what each of their tokens contributes, and their prompts.
    Samples that could not be scored are left out."""
    sides: dict[bool, Side] = {False: ([], []), True: ([], [])}
    own, cross, divergence = (arrays(table[name], np.float64) for name in ("own", "cross", "kl"))
    values = divergence if exact else [a - b for a, b in zip(own, cross, strict=True)]
    labels = (table[name].to_pylist() for name in ("mine", "row", "problem"))
    for value, mine, row, problem in zip(values, *labels, strict=True):
        if not problem:
            sides[mine][0].append(value), sides[mine][1].append(row)
    if not sides[False][0] or not sides[True][0]:
        raise NotComputed("none of the sampled answers could be scored under both models")
    return sides[False], sides[True]


def _fade(theirs: Side, mine: Side) -> Fade:
    return of_gaps(theirs[0], mine[0], theirs[1], mine[1])


def report(tables: Tables, *, exact: bool) -> PerRow | Score:
    """FADE per prompt; ``extra``: its directions and steadier forms, floor, anchor and the value normalised by them."""
    if tables.subject == "reference":
        return Score("", "", 0.0, low=0.0, high=0.0, extra={"note": "the reference held against itself"})
    table = tables.table(NEEDS[0])
    theirs, mine = _sides(table, exact=exact)
    found, values = _fade(theirs, mine), by_prompt(theirs[0], mine[0], theirs[1], mine[1])
    if not values:
        raise NotComputed("no prompt has a scored answer of both models")
    entity = dict(zip(table["row"].to_pylist(), table["entity"].to_pylist(), strict=True))
    extra = {k: v for k, v in asdict(found).items() if k not in ("value", "n")}
    extra |= {"samples_reference": found.n[0], "samples": found.n[1], "unscored_samples": _unscored(table)}
    per_row = np.array([values.get(row, np.nan) for row in entity])
    scale = _scale(tables, float(np.nanmean(per_row)), exact=exact)
    return PerRow(per_row, list(entity), [name or row for row, name in entity.items()], extra | scale)


def _unscored(table: pa.Table) -> int:
    return sum(bool(problem) for problem in table["problem"].to_pylist())


def _scale(tables: Tables, value: float, *, exact: bool) -> dict[str, Any]:
    """Where ``value`` lies between seed noise and the target: ``floor`` FADE(R1, R2), ``anchor`` FADE(O, R),
    ``normalised``, and ``power``: whether the samples tell the target from seed noise at all."""
    ends: dict[str, float] = {}
    missing: list[str] = []
    for name, role in (("floor", SECOND_REFERENCE), ("anchor", "target")):
        try:
            ends[name] = _fade(*_sides(tables.table(cross_need(role)), exact=exact)).value
        except NotComputed as why:
            missing.append(str(why))
    if missing:
        return ends | {"normalised": None, "why_not_normalised": "; ".join(missing)}
    scaled = normalised(value, ends["floor"], ends["anchor"])
    if np.isnan(scaled):
        why = "no power: the target is no farther from the reference than another reference is"
        return ends | {"normalised": None, "why_not_normalised": why, "power": False}
    return ends | {"normalised": scaled, "power": True}


CARD = Card(
    "FADE",
    "Reference-Specific Unlearning Metrics Can Hide the Truth (arXiv 2510.12981)",
    "",
    "(f + r) / 2 with f = E_{y~R}[log p_R(y|x) - log p_U(y|x)] (what the reference says and the model does not) and r "
    "the same the other way round (what the model says and the reference would not): half the Jeffreys divergence of "
    "the answers, in nats per answer, mean over prompts. 0: nobody who samples could tell. Four answers a prompt and "
    "model at temperature 1, nothing truncated, the end of the answer counted. `forward`, `reverse`; `per_token`; "
    "`median` over samples; `clipped` per token at 20 nats; `error` over samples. `floor` = FADE(R1, R2), `anchor` = "
    "FADE(O, R), `normalised` = (value - floor) / (anchor - floor).",
    confirmed=("half the Jeffreys divergence of the answer distributions",),
    derived=(
        "normalisation by floor and anchor",
        "answers cut at 64 tokens: the divergence of what is said up to there",
    ),
    differs=("all end tokens count as one: which of them is said makes no difference to the answer",),
    tested=TESTED,
    fooled_by=(*LIMITS, "one all but impossible sample dominates the mean: read `median` and `clipped` beside it"),
)
EXACT = Card(
    "FADE, exact at every step",
    CARD.source,
    "",
    "FADE with the divergence of the next token over the whole vocabulary, summed along every sampled answer, in place "
    "of the log-ratio of the token that happened to be drawn: the same expectation (chain rule) and far less noise.",
    derived=("the estimator", *CARD.derived),
    differs=CARD.differs,
    tested=TESTED,
    fooled_by=LIMITS,
)


@metric("fade", needs=NEEDS, directions={"*": "lower"}, orientation="none", card=CARD)
def fade_sampled(tables: Tables) -> PerRow | Score:
    """FADE from log-ratios of sampled answers, per prompt."""
    return report(tables, exact=False)


@metric("fade_exact", needs=NEEDS, directions={"*": "lower"}, orientation="none", card=EXACT)
def fade_exact(tables: Tables) -> PerRow | Score:
    """FADE from exact next-token divergences along sampled answers, per prompt."""
    return report(tables, exact=True)
