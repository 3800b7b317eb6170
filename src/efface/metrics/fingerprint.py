"""Fingerprint: can the forget set be told from the unlearned model alone? An attacker with a list of candidate rows
ranks them by how the model treats them; unlearning that pushes too far marks its own rows.

Every signal is a familiarity, larger for text that the model seems to know. The value is A = P(forget row looks more
familiar than a row of the other set): .5 tells nothing, below .5 the forget rows stand out as a hole, above .5 as a
memory. What it should be is the value of the reference, which was never taught the forget rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.membership import against_reference, gradient_norm, loss
from efface.metrics.privacy import Familiarity
from efface.metrics.stats import auc, auc_interval, placements, unit

FORGET = "forget"
SOURCE = "ranking by loss gap and gradient norm: derived; unlearning leaves traces: arXiv 2506.14003"
TESTED = {
    "loss": (
        "tiny ladder, seed 0, against retain / holdout: references .00 / .71 and .00 / .76, InsideBuckets .00 / .36",
    ),
    "gap": ("tiny ladder, seed 0, against retain / holdout: another reference .12 / .54, InsideBuckets .08 / .18",),
    "gradient": (
        "tiny ladder, seed 0, against retain / holdout: references .00 / .54 and .00 / .50, SmallLR .07 / .94, "
        "InsideBuckets .04 / .96: what was forgotten by ascent has flatter gradients than text that was never seen",
    ),
}
SIGNALS: dict[str, tuple[Familiarity, str, str]] = {
    "loss": (loss, "score", "the mean log-prob of the answer"),
    "gap": (against_reference, "score", "the mean log-prob of the answer minus that under the reference model"),
    "gradient": (gradient_norm, "gradient", "minus the gradient norm of the answer's mean negative log-prob"),
}
OTHERS = {
    "retain": "rows that were kept: also the reference tells them apart, because it was taught them",
    "holdout": "rows that no model was taught",
}


def told_apart(tables: Tables, signal: Familiarity, other: str) -> Score:
    """A with its interval, forget rows against the rows of ``other``.

    ``extra``: ``separation`` = max(A, 1 - A); ``found``, the share of the forget rows that lie among the strangest
    candidates, as many as there are forget rows (``found_by_chance``: their share of all candidates); ``n_other``.
    ``per_row``: the share of ``other`` rows each forget row looks more familiar than.
    """
    forget, rest = _scored(signal(tables, FORGET, "subject"), FORGET), _scored(signal(tables, other, "subject"), other)
    draws = {"seed": tables.seed, "resamples": tables.resamples}
    low, high = auc_interval(forget.values, rest.values, list(forget.entities), list(rest.entities), **draws)
    value, n = auc(forget.values, rest.values), len(forget.values)
    extra: dict[str, Any] = {
        "separation": max(value, 1 - value),
        "found": _found(forget.values, rest.values),
        "found_by_chance": n / (n + len(rest.values)),
        "n_other": len(rest.values),
        "interval_over": unit(list(forget.entities), list(rest.entities)),
    }
    return Score(
        "",
        "",
        value,
        low,
        high,
        n,
        forget.extra["unscored"],
        extra=extra,
        per_row=dict(zip(forget.rows, placements(forget.values, rest.values).tolist(), strict=True)),
        entities=dict(zip(forget.rows, forget.entities, strict=True)),
    )


def _scored(side: PerRow, name: str) -> PerRow:
    """The rows that have a value; ``extra["unscored"]`` counts the others."""
    kept = np.flatnonzero(~np.isnan(side.values))
    if not len(kept):
        raise NotComputed(f"none of the {name} rows could be scored")
    rows, entities = ([names[i] for i in kept] for names in (side.rows, side.entities))
    return PerRow(side.values[kept], rows, entities, {"unscored": len(side.values) - len(kept)})


def _found(forget: np.ndarray, other: np.ndarray) -> float:
    """Share of forget rows among the len(forget) strangest candidates; a tie at the border counts in proportion."""
    border = np.sort(np.concatenate([forget, other]))[len(forget) - 1]
    sure, tied = (forget < border).sum(), (forget == border).sum()
    left = len(forget) - sure - (other < border).sum()
    return float((sure + left * tied / (tied + (other == border).sum())) / len(forget))


def _register(signal: str, other: str) -> None:
    function, kind, what = SIGNALS[signal]
    needs: Sequence[Need] = (Need(kind, FORGET), Need(kind, other))
    if signal == "gap":
        needs = (*needs, Need(kind, FORGET, "reference"), Need(kind, other, "reference"))
    card = Card(
        title=f"Fingerprint by {signal}, forget against {other}",
        source=SOURCE,
        summary=f"AUC forget against {other} of {what}: {OTHERS[other]}. Should be what it is for the reference.",
        derived=("the three signals and the sets they are compared on",),
        tested=TESTED[signal],
        fooled_by=("sets that differ by themselves (length, topic): read the distance to the reference, not to .5",),
    )
    metric(f"fingerprint_{signal}_{other}", needs=needs, card=card, directions={"*": "match"}, fixed_rows=FORGET)(
        lambda tables: told_apart(tables, function, other)
    )


for _signal in SIGNALS:
    for _other in OTHERS:
        _register(_signal, _other)
