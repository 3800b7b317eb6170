"""Attribution: which words of the question the answer hangs on, before and after, and which of its own were damaged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, NotComputed, PerRow, Tables, metric
from efface.passes.attribution import key_words, outstanding

UNPACT = "Understanding the Dilemma of Unlearning for LLMs, unPact (arXiv 2509.24675)"
TAU, SWEEP = 0.8, (0.6, 0.9)
MATCH = {"*": "match"}
LIMITS = (
    "the subject's name helps any model that copies it into its answer: compare with the reference",
    "taking a word out moves the others: see key_word_mass_swapped",
)


def needs(how: str = "drop") -> tuple[Need, Need]:
    """Contributions of the question's words to the target's own answer, under the target and under the subject."""
    both = Need("attribution", variants=("target", how), others=("target",))
    return Need(both.kind, role="target", variants=both.variants, others=both.others), both


def gains(tables: Tables, how: str = "drop") -> tuple[list[np.ndarray], list[np.ndarray], list[str], list[str]]:
    """(C under the target, C under the subject, row ids, entities), one Float64[words] per row; empty where a row has
    none."""
    before, after = (tables.table(need) for need in needs(how))

    def vectors(table) -> list[np.ndarray]:
        return [
            np.asarray([] if problem or gain is None else gain, dtype=np.float64)
            for gain, problem in zip(table["gain"].to_pylist(), table["problem"].to_pylist(), strict=True)
        ]

    entities = [e or r for e, r in zip(after["entity"].to_pylist(), after["row"].to_pylist(), strict=True)]
    return vectors(before), vectors(after), after["row"].to_pylist(), entities


def by_row(tables: Tables, value: Callable[[np.ndarray, np.ndarray], float], how: str = "drop") -> np.ndarray:
    """``value(C_O, C_U)`` per row; NaN where one of the two is missing."""
    before, after, _, _ = gains(tables, how)
    return np.array(
        [value(a, b) if a.size and a.size == b.size else np.nan for a, b in zip(before, after, strict=True)]
    )


def jaccard(one: list[int], other: list[int]) -> float:
    """Shared over all; NaN when the first is empty."""
    return len(set(one) & set(other)) / len(set(one) | set(other)) if one else float("nan")


def mass(gain: np.ndarray, places: list[int]) -> float:
    """Share of the positive contributions that lies on ``places``; 0 where no word helps, NaN for no place."""
    positive = np.clip(gain, 0, None)
    if not places:
        return float("nan")
    return float(positive[places].sum() / positive.sum()) if positive.sum() > 0 else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation (ties share their mean rank); NaN for fewer than three words or a constant side."""
    from scipy.stats import rankdata

    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _per_row(tables: Tables, values: np.ndarray, **extra: float) -> PerRow:
    _, _, rows, entities = gains(tables)
    return PerRow(values, rows, entities, extra)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _card(title: str, summary: str, *derived: str) -> Card:
    return Card(
        title,
        UNPACT,
        "",
        summary,
        confirmed=("C_i = LP(x, y) - LP(x without i, y)", "negative contributions are never made positive"),
        derived=("key words: smallest set with 80% of the positive mass", *derived),
        fooled_by=LIMITS,
        systems=("S07",),
    )


@metric(
    "key_word_overlap",
    needs=needs(),
    directions=MATCH,
    card=_card(
        "Key words kept",
        "Jaccard index of the key words of the question before and after unlearning, both for the target's answer. 1: "
        "the old answer still hangs on the same words. `tau_0.6`, `tau_0.9`: other shares of the mass; `z_rule`: words "
        "one standard deviation above the mean.",
    ),
)
def key_word_overlap(tables: Tables) -> PerRow:
    """Jaccard(K_O, K_U) per row; rows without a key word before are unscored."""

    def at(tau: float) -> np.ndarray:
        return by_row(tables, lambda a, b: jaccard(key_words(a, tau), key_words(b, tau)))

    sweep = {f"tau_{tau}": _mean(at(tau)) for tau in SWEEP}
    z_rule = _mean(by_row(tables, lambda a, b: jaccard(outstanding(a), outstanding(b))))
    return _per_row(tables, at(TAU), **sweep, z_rule=z_rule)


@metric(
    "attribution_correlation",
    needs=needs(),
    directions=MATCH,
    card=_card("Correlation of contributions", "Spearman correlation of C before and after, for the target's answer."),
)
def attribution_correlation(tables: Tables) -> PerRow:
    """Spearman(C_O, C_U) per row."""
    return _per_row(tables, by_row(tables, spearman))


@metric(
    "key_word_mass",
    needs=needs(),
    directions=MATCH,
    card=_card(
        "Mass on the old key words",
        "Share of the positive contributions after unlearning that lies on the key words of before, for the target's "
        "answer. Low: the question is read, but not where it matters.",
    ),
)
def key_word_mass(tables: Tables) -> PerRow:
    """sum of C_U+ over K_O over the sum of C_U+, per row. ``extra``: other taus."""

    def at(tau: float) -> np.ndarray:
        return by_row(tables, lambda a, b: mass(b, key_words(a, tau)))

    return _per_row(tables, at(TAU), **{f"tau_{tau}": _mean(at(tau)) for tau in SWEEP})


@metric(
    "key_word_mass_swapped",
    needs=needs("swap"),
    directions=MATCH,
    card=_card(
        "Mass on the old key words, words replaced",
        "As key_word_mass, with each word replaced by a neutral one instead of taken out, so that nothing moves.",
        "the neutral word is `something`",
    ),
)
def key_word_mass_swapped(tables: Tables) -> PerRow:
    """``key_word_mass`` from contributions by replacement."""
    values = by_row(tables, lambda a, b: mass(b, key_words(a, TAU)), "swap")
    _, _, rows, entities = gains(tables, "swap")
    return PerRow(values, rows, entities)


@metric(
    "selective_penalty",
    needs=(Need("score"), Need("score", role="target"), Need("answer_words")),
    directions=MATCH,
    orientation="none",
    card=Card(
        "Selectivity of the damage",
        UNPACT,
        "",
        "Penalty g_t = log p_O(y_t) - log p_U(y_t): mean over the tokens that carry the fact minus mean over the "
        "others (nats per token). Near 0, or `ratio` near 1: every token was made unlikely, whether it tells anything "
        "or not.",
        derived=(
            "tokens that carry the fact: words of the answer that are neither in the question nor function words",
        ),
        fooled_by=("a ratio of two small penalties means nothing: see `knowledge` and `function` beside it",),
        systems=("S07",),
    ),
)
def selective_penalty(tables: Tables) -> PerRow:
    """Difference of mean penalties per row; NaN where a row lacks one of the two kinds of tokens."""
    subject, target = tables.tokens(), tables.tokens(role="target")
    flags = tables.table(Need("answer_words"))
    kinds: tuple[list[float], list[float]] = ([], [])
    for u, o, tells, ends in zip(
        subject.lp, target.lp, flags["tells"].to_pylist(), flags["ends"].to_pylist(), strict=True
    ):
        told, end = np.asarray(tells, dtype=bool), np.asarray(ends, dtype=bool)
        if not u.size == o.size == told.size:
            raise NotComputed("the answers are cut into tokens in different ways")
        for kind, mask in zip(kinds, (told, ~told & ~end), strict=True):
            kind.append(float((o - u)[mask].mean()) if mask.any() else float("nan"))
    knowledge, function = map(np.array, kinds)
    means = {"knowledge": _mean(knowledge), "function": _mean(function)}
    ratio = means["knowledge"] / means["function"] if means["function"] > 0 else float("nan")
    return PerRow(knowledge - function, subject.rows, subject.entities, {**means, "ratio": ratio})
