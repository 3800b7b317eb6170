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
OWN_LIMITS = (*LIMITS, "rows that the model answers with nothing are unscored")
NO_WRONG = ("contributions are not taken relative to a wrong answer of the same type: LP may move for other reasons",)


def needs(how: str = "drop", whose: str = "target") -> tuple[Need, Need]:
    """Contributions of the question's words: under the target to its own answer, and under the subject to the answer
    of ``whose`` (``target``, or ``own`` for what the subject says itself)."""
    both = Need("attribution", variants=("target", how), others=("target",))
    before = Need(both.kind, role="target", variants=both.variants, others=both.others)
    return before, both if whose == "target" else Need(both.kind, variants=(whose, how))


def gains(
    tables: Tables, how: str = "drop", whose: str = "target"
) -> tuple[list[np.ndarray], list[np.ndarray], list[str], list[str]]:
    """(C under the target, C under the subject, row ids, entities), one Float64[words] per row; empty where a row has
    none."""
    before, after = (tables.table(need) for need in needs(how, whose))

    def vectors(table) -> list[np.ndarray]:
        return [
            np.asarray([] if problem or gain is None else gain, dtype=np.float64)
            for gain, problem in zip(table["gain"].to_pylist(), table["problem"].to_pylist(), strict=True)
        ]

    entities = [e or r for e, r in zip(after["entity"].to_pylist(), after["row"].to_pylist(), strict=True)]
    return vectors(before), vectors(after), after["row"].to_pylist(), entities


def by_row(
    tables: Tables,
    value: Callable[[np.ndarray, np.ndarray], float],
    how: str = "drop",
    whose: str = "target",
) -> np.ndarray:
    """``value(C_O, C_U)`` per row; NaN where one of the two is missing."""
    before, after, _, _ = gains(tables, how, whose)
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


def _per_row(tables: Tables, values: np.ndarray, whose: str = "target", **extra: float) -> PerRow:
    _, _, rows, entities = gains(tables, whose=whose)
    return PerRow(values, rows, entities, extra)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _overlap(tables: Tables, whose: str) -> PerRow:
    """Jaccard(K_O, K_U) per row; rows without a key word before are unscored. ``extra``: other taus, the z-rule."""

    def at(tau: float) -> np.ndarray:
        return by_row(tables, lambda a, b: jaccard(key_words(a, tau), key_words(b, tau)), whose=whose)

    sweep = {f"tau_{tau}": _mean(at(tau)) for tau in SWEEP}
    z_rule = _mean(by_row(tables, lambda a, b: jaccard(outstanding(a), outstanding(b)), whose=whose))
    return _per_row(tables, at(TAU), whose, **sweep, z_rule=z_rule)


def _mass(tables: Tables, whose: str) -> PerRow:
    """sum of C_U+ over K_O over the sum of C_U+, per row. ``extra``: other taus."""

    def at(tau: float) -> np.ndarray:
        return by_row(tables, lambda a, b: mass(b, key_words(a, tau)), whose=whose)

    return _per_row(tables, at(TAU), whose, **{f"tau_{tau}": _mean(at(tau)) for tau in SWEEP})


def _card(title: str, summary: str, *derived: str, fooled_by: tuple[str, ...] = LIMITS) -> Card:
    return Card(
        title,
        UNPACT,
        "",
        summary,
        confirmed=("C_i = LP(x, y) - LP(x without i, y)", "negative contributions are never made positive"),
        derived=("key words: smallest set with 80% of the positive mass", *derived),
        differs=NO_WRONG,
        fooled_by=fooled_by,
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
    """Jaccard(K_O, K_U) per row, both for the target's answer."""
    return _overlap(tables, "target")


@metric(
    "key_word_overlap_own",
    needs=needs(whose="own"),
    directions=MATCH,
    card=_card(
        "Key words of the new answer",
        "Jaccard index of the key words of the question for the target's answer before and for the model's own answer "
        "now. High: whatever it says now hangs on the words that the old answer hung on.",
        fooled_by=OWN_LIMITS,
    ),
)
def key_word_overlap_own(tables: Tables) -> PerRow:
    """Jaccard(K_O, K_U) per row, K_U for the subject's own answer."""
    return _overlap(tables, "own")


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
    """Share of C_U+ that lies on K_O per row, both for the target's answer."""
    return _mass(tables, "target")


@metric(
    "key_word_mass_own",
    needs=needs(whose="own"),
    directions=MATCH,
    card=_card(
        "Mass of the new answer on the old key words",
        "As key_word_mass, with the contributions after unlearning taken for the model's own answer: what does the new "
        "answer hang on? Near 0: on words that told nothing before, or on none of the question's.",
        fooled_by=OWN_LIMITS,
    ),
)
def key_word_mass_own(tables: Tables) -> PerRow:
    """Share of C_U+ that lies on K_O per row, C_U for the subject's own answer."""
    return _mass(tables, "own")


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
