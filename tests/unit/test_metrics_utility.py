"""Forget quality, model utility, fluency and parametric traces."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from efface.metrics.base import METRICS, compute
from efface.metrics.fluency import entropy, repetition
from efface.testing.tables import hand_tables

SETS = ("retain", "real_authors", "world_facts")


def score(name, tables, rows="forget"):
    return compute(METRICS.get(name), tables, rows, seed=0, resamples=100)


# -- forget quality
# --------------------------------------------------------------------------------------------------------
def ratios(log_r, reference):
    """Rows whose log truth ratio is ``log_r``: the correct answer at -5, the wrong one at -5 + log r."""
    sets = {}
    for name, values in (("forget", log_r), ("reference/forget", reference)):
        sets[name] = {"answer": [[-5.0]] * len(values), "wrong": [[[-5.0 + v]] for v in values]}
    return hand_tables(sets)


def test_forget_quality_of_the_reference_with_itself_is_one():
    values = np.linspace(-2, 2, 40)
    found = score("forget_quality", ratios(values, values))
    assert (found.value, found.extra["log10_p"], found.extra["shift"], found.n) == (1.0, 0.0, "none", 40)


def test_forget_quality_equals_scipy_on_raw_ratios():
    """The test looks at ranks: log ratios and ratios give the same p."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.7, 1, 40), rng.normal(0, 1, 40)
    expected = scipy_stats.ks_2samp(np.exp(a), np.exp(b), method="exact")
    found = score("forget_quality", ratios(a, b))
    assert found.value == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.extra["statistic"] == pytest.approx(expected.statistic) and found.extra["shift"] == "above"


def test_forget_quality_names_the_side_and_the_floor():
    """A model that still knows has r below the reference's; apart altogether, p is the floor of 20 against 20,
    1.5e-11."""
    knows = score("forget_quality", ratios(np.arange(20) - 100.0, np.arange(20.0)))
    over = score("forget_quality", ratios(np.arange(20) + 100.0, np.arange(20.0)))
    assert (knows.extra["shift"], over.extra["shift"]) == ("below", "above")
    assert knows.value == over.value == pytest.approx(1.45e-11, rel=0.01)
    assert knows.extra["log10_p"] == pytest.approx(knows.extra["log10_floor"]) and knows.direction == "higher"


def test_forget_quality_without_a_reference():
    found = score("forget_quality", hand_tables({"forget": {"answer": [[-1.0]], "wrong": [[[-2.0]]]}}))
    assert found.value is None and found.reason == "there is no reference model"


def test_forget_quality_leaves_unscored_rows_out():
    tables = hand_tables(
        {
            "forget": {"answer": [[-1.0], []], "wrong": [[[-2.0]], [[-2.0]]]},
            "reference/forget": {"answer": [[-1.0], [-1.0]], "wrong": [[[-2.0]], [[-2.0]]]},
        }
    )
    found = score("forget_quality", tables)
    assert (found.n, found.unscored, found.extra["n_reference"]) == (1, 1, 2)


def expanded(draws, groups):
    """Quantiles of draws at Phi(-+ t_.975 sqrt(n / (n - 1))), t with n - 1 degrees of freedom."""
    ends = scipy_stats.t.ppf([0.025, 0.975], groups - 1) * np.sqrt(groups / (groups - 1))
    return tuple(np.quantile(draws, scipy_stats.norm.cdf(ends)))


# -- model utility
# -----------------------------------------------------------------------------------------------------------
def world(answer=0.5, wrong=0.125, text="Paris", n=6, **changes):
    """Each set: n rows of one entity each, one-token answer of probability ``answer``, one wrong answer, one text."""
    sets = {}
    for name in SETS:
        p, w, t = changes.get(name, (answer, wrong, text))
        sets[name] = {
            "answer": [[math.log(p)]] * n,
            "wrong": [[[math.log(w)]]] * n,
            "generations": {"gold": ["Paris"] * n, "text": [t] * n},
        }
    return sets


def test_model_utility_by_hand():
    """retain: P .5, ROUGE 1, 1 - r = 1 - .25 = .75. Others: .5/.625 = .8, 1, .75.
    9 / (1/.5 + 2/.8 + 3/1 + 3/.75) = 9 / 11.5 = .7826."""
    found = score("model_utility", hand_tables(world()), "retain")
    assert found.value == pytest.approx(9 / 11.5) and found.direction == "higher"
    assert found.extra["parts"]["retain.probability"] == pytest.approx(0.5)
    assert found.extra["parts"]["world_facts.probability"] == pytest.approx(0.8)
    assert (found.low, found.high) == pytest.approx((9 / 11.5, 9 / 11.5)) and found.n == 18


def test_one_part_at_zero_makes_utility_zero():
    found = score("model_utility", hand_tables(world(world_facts=(0.5, 0.125, "London"))), "retain")
    assert found.value == 0.0 and found.extra["parts"]["world_facts.rouge"] == 0.0


def test_utility_without_its_sets_is_not_computed():
    sets = world()
    del sets["real_authors"]
    found = score("model_utility", hand_tables(sets), "retain")
    assert found.value is None and found.reason == "the data has no real_authors rows"


def test_an_unscorable_part_is_named():
    sets = world()
    sets["retain"]["generations"] = {"gold": ["東京"] * 6, "text": ["東京"] * 6}
    found = score("model_utility", hand_tables(sets), "retain")
    assert found.value is None and found.reason == "no row gives retain.rouge"


def test_empty_answers_do_not_poison_utility():
    """One empty retain answer: its probability and truth ratio are unscored, the means of the rest stay."""
    sets = world()
    sets["retain"]["answer"] = [[], *[[math.log(0.5)]] * 5]
    found = score("model_utility", hand_tables(sets), "retain")
    assert found.value == pytest.approx(9 / 11.5) and found.unscored == 2


def test_utility_interval_covers_the_value():
    rng = np.random.default_rng(0)
    sets = world(n=20)
    for name in SETS:
        sets[name]["answer"] = [[math.log(p)] for p in rng.uniform(0.2, 0.9, 20)]
    found = score("model_utility", hand_tables(sets), "retain")
    assert found.low < found.value < found.high and found.extra["interval_over"] == "entities"


def test_utility_interval_is_as_wide_as_its_smallest_set_asks_for():
    """20 rows in two sets and 6 in the third: the levels are those of six groups. Each set is resampled by itself, its
    three measures together: p (among the options p / (p + .125)), ROUGE 1, and 1 - r = max(0, 1 - .125 / p)."""
    rng, sets, drawn = np.random.default_rng(0), {}, []
    for place, (name, n) in enumerate(zip(SETS, (20, 6, 20), strict=True)):
        p = rng.uniform(0.2, 0.9, n)
        sets[name] = world(n=n)[name] | {"answer": [[math.log(v)] for v in p]}
        values = p if name == "retain" else p / (p + 0.125)
        times = np.random.default_rng([0, place]).multinomial(n, np.full(n, 1 / n), size=100)
        truth = np.maximum(0, 1 - 0.125 / p)
        drawn += [times @ values / n, np.ones(100), times @ truth / n]
    found = score("model_utility", hand_tables(sets), "retain")
    harmonic = scipy_stats.hmean(np.stack(drawn), axis=0)
    assert (found.low, found.high) == pytest.approx(expanded(harmonic, 6), rel=1e-6)


# -- fluency
# -----------------------------------------------------------------------------------------------------------------
def texts(*items):
    return hand_tables({"forget": {"generations": {"text": list(items), "gold": ""}}})


def test_repetition_by_hand():
    """ "a b" five times: 7 four-grams, 2 different: 1 - 2/7. Short answers cannot repeat; silence is unscored."""
    assert repetition("a b a b a b a b a b") == pytest.approx(5 / 7)
    assert repetition("one two three four five six") == 0.0 and repetition("Paris") == 0.0
    found = score("repetition_rate", texts("a b a b a b a b a b", "Paris", ""))
    assert found.value == pytest.approx(5 / 14) and (found.unscored, found.direction) == (1, "lower")
    assert found.extra["empty"] == pytest.approx(1 / 3)


def test_ngram_entropy_by_hand():
    """ "a b c d": 3 bigrams, 2 trigrams, all different: (2/3 log2 3 + 4/3 log2 2) / 2 = 1.195. "a a a a": 0."""
    assert entropy("a b c d", 2) == pytest.approx(math.log2(3)) and entropy("a a a a", 2) == 0.0
    assert score("ngram_entropy", texts("a b c d")).value == pytest.approx((2 / 3 * math.log2(3) + 4 / 3) / 2)
    assert score("ngram_entropy", texts("a a a a a a")).value == 0.0 and score("ngram_entropy", texts("")).value == 0.0


def test_distinct_sees_one_answer_for_all():
    """Four different two-word answers: 4 of 4. The same sentence of three bigrams four times: 3 of 12."""
    assert score("distinct_2", texts("a b", "c d", "e f", "g h")).value == 1.0
    assert score("distinct_2", texts(*["I do not know"] * 4)).value == 0.25
    assert "two words" in score("distinct_2", texts("x", "")).reason
    assert score("repetition_rate", texts("", " ")).reason == "every greedy answer is empty"


# -- parametric traces
# -------------------------------------------------------------------------------------------------------
WEIGHTS = [
    {
        "name": "a",
        "size": 100,
        "changed": 50,
        "norm_a": 3.0,
        "norm_b": 3.0,
        "norm_diff": 0.3,
        "cosine": 0.9,
        "buckets_8": 20,
        "buckets_4": 1,
    },
    {
        "name": "b",
        "size": 300,
        "changed": 7,
        "norm_a": 4.0,
        "norm_b": 4.0,
        "norm_diff": 0.4,
        "cosine": 1.0,
        "buckets_8": None,
        "buckets_4": None,
    },
]


def test_parametric_by_hand():
    """57 of 400 moved; sqrt(.09 + .16) / sqrt(9 + 16) = .1; buckets over the 50 that moved in the tensor that is
    rounded: 20 and 1 of 50."""
    tables = hand_tables({"weights": WEIGHTS, "forget": {}})
    assert score("weights_moved", tables).value == 57 / 400 and score("update_norm", tables).value == pytest.approx(0.1)
    assert score("buckets_changed_8", tables).value == 0.4 and score("buckets_changed_4", tables).value == 0.02
    assert score("weights_moved", tables).n == 400 and score("buckets_changed_8", tables).n == 50


def test_buckets_where_no_rounded_weight_moved():
    """Only a tensor that is not rounded moved: there is no share of nothing."""
    still = [WEIGHTS[0] | {"changed": 0, "buckets_8": 0, "buckets_4": 0}, WEIGHTS[1]]
    tables = hand_tables({"weights": still, "forget": {}})
    for bits in (8, 4):
        assert score(f"buckets_changed_{bits}", tables).reason == "no rounded weight differs from the target's"
    assert score("weights_moved", tables).value == 7 / 400


def test_parametric_without_a_target():
    assert "weight" in score("weights_moved", hand_tables({"forget": {}})).reason
    none = [row | {"buckets_4": None} for row in WEIGHTS]
    assert "no tensor" in score("buckets_changed_4", hand_tables({"weights": none, "forget": {}})).reason
