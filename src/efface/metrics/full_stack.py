"""The full-stack protocol: unlearning effectiveness (UE) and utility (UT), each by multiple choice and open answers.

All values are knowledge shown. UE is read on the forget set: the study wants it low; here it should match the
reference, because less than a model that never saw the data shows is no better. UT is read on what was to be kept: high
is good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from efface.card import Card
from efface.metrics.base import NotComputed, PerRow, Score, Tables, metric
from efface.metrics.entailment import ASKED, JUDGED, STUDY, entailment
from efface.metrics.generation import GENERATED
from efface.metrics.multiple_choice import OPTIONS, mcq_options
from efface.metrics.resampling import fewest, group, mean_draws, percentile, unit

KEPT = ("retain", "neighbour", "real_authors", "world_facts")
"""Sets that stand for utility, as far as the data has them."""
Part = Callable[[Tables, str], PerRow]


def blend(tables: Tables, parts: Sequence[Part], sets: Sequence[str]) -> Score:
    """Mean over ``parts`` of the mean over ``sets`` of the mean over rows.

    Sets without any row of a part are left out of that part; ``extra["parts"]`` names what went in. The interval
    resamples the entities of each set, for all parts alike.
    """
    found = {(part.__name__, rows): result for part in parts for rows in sets if (result := _there(part, tables, rows))}
    for part in parts:
        if not any(name == part.__name__ for name, _ in found):
            raise NotComputed(f"no row of {', '.join(sets)} gives {part.__name__}")
    means = {key: float(np.nanmean(result.values)) for key, result in found.items()}
    draws = _draws(tables, found)
    low, high = percentile(_mean_of_means(draws, parts), fewest(*(result.entities for result in found.values())))
    return Score(
        "",
        "",
        float(_mean_of_means({key: np.array([value]) for key, value in means.items()}, parts)[0]),
        low,
        high,
        sum(int(np.isfinite(result.values).sum()) for result in found.values()),
        sum(int(np.isnan(result.values).sum()) for result in found.values()),
        extra={
            "parts": {f"{name}.{rows}": value for (name, rows), value in means.items()},
            "interval_over": unit(*(result.entities for result in found.values())),
        },
    )


def _there(part: Part, tables: Tables, rows: str) -> PerRow | None:
    """The values of a part on a set, None where the data has no such rows or none of them can be scored."""
    try:
        result = part(tables, rows)
    except NotComputed:
        return None
    return result if np.isfinite(result.values).any() else None


def _draws(tables: Tables, found: dict[tuple[str, str], PerRow]) -> dict[tuple[str, str], np.ndarray]:
    """Bootstrap means by part and set; the parts of one set share its resampled entities."""
    draws = {}
    for place, rows in enumerate(dict.fromkeys(rows for _, rows in found)):
        mine = [key for key in found if key[1] == rows]
        values = np.stack([found[key].values for key in mine], axis=1)
        columns = mean_draws(values, group(found[mine[0]].entities), [tables.seed, place], tables.resamples)
        draws |= {key: columns[:, k] for k, key in enumerate(mine)}
    return draws


def _mean_of_means(values: dict[tuple[str, str], np.ndarray], parts: Sequence[Part]) -> np.ndarray:
    means = [np.mean([v for (name, _), v in values.items() if name == part.__name__], axis=0) for part in parts]
    return np.mean(means, axis=0)


def _card(title: str, about: str, *differs: str) -> Card:
    return Card(title, STUDY, "", about, differs=differs, fooled_by=("an average hides which part moved: see `parts`",))


OPEN_NEEDS = (GENERATED, ASKED, JUDGED)
SETS = f"Mean over the sets the data has of {', '.join(KEPT)}"
LOW = "the study wants it low; here it should match the reference"
STAND_IN = "the study takes general benchmarks (MMLU, GSM8K ...); here what was to be kept stands for utility"


@metric(
    "ue_mcq",
    needs=[OPTIONS.bind("forget")],
    directions={"*": "match"},
    fixed_rows="forget",
    card=_card("UE, multiple choice", "Multiple choice by option on the forget set.", LOW),
)
def ue_mcq(tables: Tables) -> Score:
    """``mcq_options`` on the forget set."""
    return blend(tables, [mcq_options], ["forget"])


@metric(
    "ue_open_qa",
    needs=[need.bind("forget") for need in OPEN_NEEDS],
    directions={"*": "match"},
    fixed_rows="forget",
    card=_card("UE, open answers", "Entailment score on the forget set.", LOW),
)
def ue_open_qa(tables: Tables) -> Score:
    """``entailment`` on the forget set."""
    return blend(tables, [entailment], ["forget"])


@metric(
    "ue_avg",
    needs=[need.bind("forget") for need in (OPTIONS, *OPEN_NEEDS)],
    directions={"*": "match"},
    fixed_rows="forget",
    card=_card("UE", "(UE multiple choice + UE open answers) / 2: knowledge still shown on the forget set.", LOW),
)
def ue_avg(tables: Tables) -> Score:
    """Mean of ``ue_mcq`` and ``ue_open_qa``."""
    return blend(tables, [mcq_options, entailment], ["forget"])


@metric(
    "ut_mcq",
    needs=[OPTIONS.bind("retain")],
    directions={"*": "higher"},
    fixed_rows="retain",
    card=_card("UT, multiple choice", f"{SETS}: multiple choice by option.", STAND_IN),
)
def ut_mcq(tables: Tables) -> Score:
    """``mcq_options`` averaged over what was to be kept."""
    return blend(tables, [mcq_options], KEPT)


@metric(
    "ut_open_qa",
    needs=[need.bind("retain") for need in OPEN_NEEDS],
    directions={"*": "higher"},
    fixed_rows="retain",
    card=_card("UT, open answers", f"{SETS}: entailment score.", STAND_IN),
)
def ut_open_qa(tables: Tables) -> Score:
    """``entailment`` averaged over what was to be kept."""
    return blend(tables, [entailment], KEPT)


@metric(
    "ut_avg",
    needs=[need.bind("retain") for need in (OPTIONS, *OPEN_NEEDS)],
    directions={"*": "higher"},
    fixed_rows="retain",
    card=_card("UT", "(UT multiple choice + UT open answers) / 2: what is left of what was to be kept.", STAND_IN),
)
def ut_avg(tables: Tables) -> Score:
    """Mean of ``ut_mcq`` and ``ut_open_qa``."""
    return blend(tables, [mcq_options, entailment], KEPT)
