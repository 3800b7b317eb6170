"""Accuracy, the confidence attack and the gap to the reference, from tables written by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from efface.metrics.base import METRICS, Metric, NotComputed, Tables, compute
from efface.metrics.vision import accuracy, attack, avg_gap, hits, log_odds, mia_confidence, unlearning_accuracy
from efface.passes.tables import TOKENS, Tokens


def table(name: str, probabilities, right=None) -> pa.Table:
    """One row per probability of the label; ``right`` says whether it was the largest. None = could not be scored."""
    rows = []
    for i, p in enumerate(probabilities):
        scored = p is not None
        hit = [bool(p > 0.5 if right is None else right[i])] if scored else []
        rows.append({"row": f"{name}{i}", "entity": "digit 3", "prompt": "prompt", "variant": "answer", "hit": hit,
                     "lp": [math.log(p)] if scored else [], "rank": [], "mu": [], "sigma": [], "eos": False, "text": "",
                     "problem": "" if scored else "no image"})  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TOKENS)


def tables(subject, reference=None, rows="forget") -> Tables:
    """``subject`` and ``reference``: {evaluation set: table}."""

    def fetch(role, need):
        found = subject if role == "subject" else reference
        if found is None:
            raise NotComputed(f"there is no {role} model")
        if need.rows not in found:
            raise NotComputed(f"the data has no {need.rows} rows")
        return found[need.rows]

    return Tables(fetch, rows)


KNOWN = {"forget": table("f", [0.9, 0.95, 0.8, 0.97]), "retain": table("r", [0.99, 0.98, 0.97, 0.96]),
         "test": table("t", [0.6, 0.7, 0.4, 0.8])}  # fmt: skip
GONE = {"forget": table("f", [0.01, 0.02, 0.03, 0.9]), "retain": table("r", [0.99, 0.98, 0.97, 0.4]),
        "test": table("t", [0.6, 0.7, 0.4, 0.3])}  # fmt: skip


def test_accuracy_by_hand():
    """Right, right, wrong, unscored: 2/3 over 3 rows."""
    part = {"forget": table("f", [0.9, 0.4, 0.2, None], right=[True, True, False, None])}
    score = compute(found(accuracy), tables(part), "forget")
    assert (score.value, score.n, score.unscored) == (pytest.approx(2 / 3), 3, 1)
    assert score.per_row["f0"] == 1.0 and score.per_row["f2"] == 0.0 and math.isnan(score.per_row["f3"])
    assert score.direction == "match" and found(accuracy).direction("test") == "higher"


def test_accuracy_knows_chance():
    """Rows of four classes: guessing gives 1/4. Rows of one class: what guessing gives is not known."""
    rows = table("f", [0.9, 0.4, 0.2, 0.1])
    four = rows.set_column(rows.schema.get_field_index("entity"), "entity", [["a", "b", "c", "d"]])
    one = rows.set_column(rows.schema.get_field_index("entity"), "entity", [["a"] * 4])
    assert compute(found(accuracy), tables({"forget": four}), "forget").extra["chance"] == 0.25
    assert "chance" not in compute(found(accuracy), tables({"forget": one}), "forget").extra


def found(function) -> Metric:
    """The registered metric of a function, without loading the metrics of others."""
    return next(m for m in METRICS._items.values() if m.function is function)


def test_unlearning_accuracy_is_one_minus_accuracy():
    """Hits of GONE on forget: only .9 > .5, so accuracy 1/4 and UA 3/4, whatever rows the suite names."""
    score = compute(found(unlearning_accuracy), tables(GONE, rows="test"), "forget")
    assert score.value == pytest.approx(0.75)
    assert found(unlearning_accuracy).orientation == "none" and found(unlearning_accuracy).fixed_rows == "forget"


def test_rows_are_the_unit_of_resampling():
    """All rows are of one class; resampling classes would give an interval of width 0."""
    many = {"forget": table("f", [0.9, 0.1] * 20)}
    score = compute(found(accuracy), tables(many), "forget")
    assert score.low < 0.45 < 0.55 < score.high and len(set(score.entities.values())) == 40


def test_log_odds_by_hand():
    """p = .8: log(.8/.2) = log 4; p = 1 is cut to 1 - 1e-7: log(1e7) to 1e-6; unscored stays NaN."""
    values = log_odds(Tokens(table("f", [0.8, 1.0, None])))
    assert values[:2] == pytest.approx([math.log(4), math.log(1e7)], rel=1e-6) and math.isnan(values[2])


def test_attack_puts_its_threshold_between_the_sides():
    """Members at 3 and 5, others at -5 and -3: by symmetry the border is 0."""
    verdicts, skill = attack(np.array([3.0, 5.0]), np.array([-5.0, -3.0]), np.array([0.2, -0.2, np.nan, 9.0]))
    assert verdicts[[0, 1, 3]].tolist() == [1, 0, 1] and math.isnan(verdicts[2]) and skill == 1.0


def test_attack_weighs_both_sides_the_same():
    """Copying one side a hundred times must not move the border."""
    members, others = np.array([1.0, 2.0, 6.0]), np.array([-4.0, 0.5, 1.5])
    asked = np.linspace(-4, 6, 401)
    once, many = attack(members, others, asked)[0], attack(np.tile(members, 100), others, asked)[0]
    assert abs(once.sum() - many.sum()) <= 40, "the border moves by less than a tenth of the range (regularisation)"
    assert 0 < once.sum() < len(asked)


def test_membership_on_known_and_gone():
    """KNOWN: forget rows are as confident as retain rows; GONE: three of four are far below the test rows."""
    sure = compute(found(mia_confidence), tables(KNOWN), "forget")
    assert sure.value >= 0.75 and sure.extra["attack_accuracy"] == 1.0
    gone = compute(found(mia_confidence), tables(GONE), "forget")
    assert gone.value == pytest.approx(0.25) and gone.per_row == {"f0": 0, "f1": 0, "f2": 0, "f3": 1}


def test_membership_says_when_there_is_nothing_to_see():
    """Members and others with the same confidences: balanced accuracy one half; one single value: not computed."""
    blind = {**KNOWN, "retain": table("r", [0.6, 0.7, 0.4, 0.8])}
    assert compute(found(mia_confidence), tables(blind), "forget").extra["attack_accuracy"] == pytest.approx(0.5)
    flat = {**KNOWN, "retain": table("r", [0.7] * 3), "test": table("t", [0.7] * 4)}
    assert "same confidence" in compute(found(mia_confidence), tables(flat), "forget").reason
    empty = {**KNOWN, "test": table("t", [None, None])}
    assert "could be scored" in compute(found(mia_confidence), tables(empty), "forget").reason
    missing = {"forget": KNOWN["forget"], "retain": KNOWN["retain"]}
    assert compute(found(mia_confidence), tables(missing), "forget").reason == "the data has no test rows"


def test_gap_by_hand():
    """UA: 3/4 vs 0. RA: 3/4 vs 1. TA: 2/4 vs 3/4. MIA: 1/4 vs m. Mean of (3/4, 1/4, 1/4, |1/4 - m|)."""
    m = compute(found(mia_confidence), tables(KNOWN), "forget").value
    score = compute(found(avg_gap), tables(GONE, KNOWN), "forget")
    assert score.value == pytest.approx((0.75 + 0.25 + 0.25 + abs(0.25 - m)) / 4)
    assert score.extra["unlearning_accuracy"] == 0.75 and score.direction == "lower" and score.n == 4
    assert compute(found(avg_gap), tables(GONE, GONE), "forget").value == 0


def test_gap_needs_a_reference():
    assert compute(found(avg_gap), tables(GONE), "forget").reason == "there is no reference model"


def test_cards_and_families():
    for function in (accuracy, unlearning_accuracy, mia_confidence, avg_gap):
        metric = found(function)
        assert metric.families == ("image",) and metric.card.source and metric.card.fooled_by and metric.needs
    assert np.isnan(hits(Tokens(table("f", [None])))).all()


def test_imports_without_torch_and_scikit_learn():
    code = (
        "import sys, efface.metrics.vision, efface.data.benchmarks.digits, efface.data.benchmarks.idx; "
        "print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
