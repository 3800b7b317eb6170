"""Pinpointing: does the right word stand out among what a model says when it is sampled hot?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.resampling import draw
from efface.metrics.stats import auc, group, percentile, placements
from efface.passes.tables import arrays

SAMPLES = 32
NEED = Need("sampled_words", variants=(str(SAMPLES),))
ANONACT = "arXiv:2411.02631"
DRAWN = f"{SAMPLES} samples per question at temperature 2 among the 40 likeliest tokens"
DIFFERS = (f"{SAMPLES} samples instead of 2,000",)
DERIVED = (
    "words of the answer: of the fact's object where a world tells it, else what the answer and its paraphrase share; "
    "words of the question and of the wrong answers are none",
    "the other words of the answer (its frame) are no candidates either",
    "as many tokens per sample as the longest answer has (10 to 50)",
)
TESTED = (
    "frame words were taken out of the candidates after the target's own top-word rate read .23 (now .93)",
    "under steering it rises on HeadOnly and no more than under a random vector of equal norm: see the attack `steer`",
)
FOOLED = (
    "a word that is frequent in any answer of its kind comes up by chance: compare with the reference",
    "greedy answers and log-probs can hide what one sample in ten tells, and the other way round",
)


def _by_row(tables: Tables, score: Callable[[np.ndarray, np.ndarray, int, int], float]) -> PerRow:
    """``score(count, gold, told, drawn)`` of every row; rows without a telling word are unscored."""
    table = tables.table(NEED)
    columns = zip(
        arrays(table["count"], np.int64),
        arrays(table["gold"], np.bool_),
        *(table[name].to_pylist() for name in ("told", "drawn", "problem")),
        strict=True,
    )
    values = [np.nan if problem else score(*row) for *row, problem in columns]
    rows = table["row"].to_pylist()
    return PerRow(np.array(values), rows, [e or r for e, r in zip(table["entity"].to_pylist(), rows, strict=True)])


@metric(
    "answer_frequency",
    needs=[NEED],
    card=Card(
        "Correct-answer frequency (CAF)",
        ANONACT,
        "",
        f"Share of samples that hold a word of the answer; {DRAWN}.",
        differs=DIFFERS,
        derived=DERIVED,
        tested=TESTED,
        fooled_by=FOOLED,
        systems=("S33",),
    ),
)
def answer_frequency(tables: Tables) -> PerRow:
    """Samples that tell, over samples."""
    return _by_row(tables, lambda count, gold, told, drawn: told / drawn if drawn else float("nan"))


@metric(
    "pinpoint_top",
    needs=[NEED],
    card=Card(
        "Pinpointing, top word",
        ANONACT,
        "",
        "1 if the word that comes up most often (function words and words of the question aside) is one of the "
        f"answer's; words that tie share it. {DRAWN}.",
        differs=DIFFERS,
        derived=DERIVED,
        tested=TESTED,
        fooled_by=FOOLED,
        systems=("S33",),
    ),
)
def pinpoint_top(tables: Tables) -> PerRow:
    """Share of the most frequent words that are the answer's."""
    return _by_row(tables, lambda count, gold, told, drawn: float(gold[count == count.max()].mean()))


@metric(
    "pinpoint_auc",
    needs=[NEED],
    version=2,
    card=Card(
        "Pinpointing, area under the ROC curve",
        ANONACT,
        "",
        "Over all (question, word) pairs: P(a word of the answer comes up more often than another candidate). .5: the "
        f"frequency tells nothing; a word of the answer that never comes up counts as frequency 0. {DRAWN}.",
        differs=DIFFERS,
        derived=(
            *DERIVED,
            "words of the answer that were never sampled are among the pairs",
            "the interval resamples entities with all their words, for both sides at once",
        ),
        tested=TESTED,
        fooled_by=FOOLED,
        systems=("S33",),
    ),
)
def pinpoint_auc(tables: Tables) -> Score:
    """AUC of sample shares, words of the answer against other candidates, with an interval over entities."""
    lines = tables.table(NEED).to_pylist()
    kept = [line for line in lines if not line["problem"] and line["drawn"]]
    values = np.array([count / line["drawn"] for line in kept for count in line["count"]])
    gold = np.array([label for line in kept for label in line["gold"]], dtype=bool)
    if not gold.any() or gold.all():
        raise NotComputed("no question has both a word of the answer and another candidate")
    groups = group([line["entity"] or line["row"] for line in kept])
    place = np.repeat(groups.place, [len(line["count"]) for line in kept])
    draws = joint_draws(values, gold, place, groups.count, seed=tables.seed, resamples=tables.resamples)
    low, high = percentile(draws, groups.count) if groups.count > 1 else (None, None)
    scored = sum(not line["problem"] for line in lines)
    extra = {"pairs": len(gold), "words": int(gold.sum()), "interval_over": groups.unit}
    return Score("", "", auc(values[gold], values[~gold]), low, high, scored, len(lines) - scored, extra=extra)


def joint_draws(
    values: np.ndarray, gold: np.ndarray, place: np.ndarray, count: int, *, seed: int, resamples: int
) -> np.ndarray:
    """Float64[resamples]: bootstrap AUCs of ``values`` Float[words] where ``gold`` Bool[words] against the rest.

    One draw of the ``count`` groups (``place`` Int[words]) serves both sides: all words of a question come from the
    same samples, and what lifts them all moves both sides together. A group drawn n times is n groups, each paired with
    its own words once: pairs of a group with its own copies would make it weigh n^2 and move every resample one way.
    NaN where a resample has one side only.
    """
    mine, theirs = place[gold], place[~gold]
    won = np.zeros((count, count))  # pairs won by the words of one group against those of another, ties half
    for other in np.unique(theirs):
        against = values[~gold][theirs == other]
        won[:, other] = len(against) * np.bincount(mine, placements(values[gold], against), count)
    pairs = np.outer(np.bincount(mine, minlength=count), np.bincount(theirs, minlength=count))
    weights = draw(count, seed, resamples)

    def total(by_group: np.ndarray) -> np.ndarray:
        return ((weights @ by_group) * weights).sum(1) - (weights**2 - weights) @ np.diag(by_group)

    with np.errstate(invalid="ignore"):
        return total(won) / total(pairs)
