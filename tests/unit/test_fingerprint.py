"""Fingerprint metrics: arithmetic by hand, agreement with sklearn, and what the reference makes of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from efface.metrics.base import METRICS, compute
from efface.metrics.fingerprint import OTHERS, SIGNALS
from efface.testing.tables import hand_tables


def score(name, tables):
    return compute(METRICS.get(f"fingerprint_{name}"), tables, "forget", seed=0, resamples=100)


def answers(*means: float, entities=None):
    found = {"answer": [[m, m] for m in means]}
    return found | ({"entities": entities} if entities else {})


def test_a_hole_stands_out_by_hand() -> None:
    """Forget -9, -8, -1 against retain -2, -3: of six pairs only (-1) wins, twice: A = 2/6. The three strangest of the
    five are -9, -8, -3: two of three forget rows found; by chance 3/5."""
    found = score("loss_retain", hand_tables({"forget": answers(-9, -8, -1), "retain": answers(-2, -3)}))
    assert found.value == pytest.approx(1 / 3) and found.extra["separation"] == pytest.approx(2 / 3)
    assert found.extra["found"] == pytest.approx(2 / 3) and found.extra["found_by_chance"] == pytest.approx(0.6)
    assert list(found.per_row.values()) == [0, 0, 1] and (found.n, found.extra["n_other"]) == (3, 2)
    assert found.direction == "match" and found.rows == "forget"


def test_ties_at_the_border_count_in_proportion() -> None:
    """Forget -5, -2; retain -2, -2, -1. Two places: -5 is sure, the other goes to one of three rows at -2, of which one
    is a forget row: (1 + 1/3) / 2."""
    found = score("loss_retain", hand_tables({"forget": answers(-5, -2), "retain": answers(-2, -2, -1)}))
    assert found.extra["found"] == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("other", sorted(OTHERS))
def test_agrees_with_sklearn(other: str) -> None:
    rng = np.random.default_rng(0)
    a, c = rng.normal(-1, 1, 30), rng.normal(0, 1, 20)
    found = score(f"loss_{other}", hand_tables({"forget": answers(*a), other: answers(*c)}))
    expected = roc_auc_score([1] * 30 + [0] * 20, np.concatenate([a, c]).astype(np.float32))
    assert found.value == pytest.approx(expected) and found.low < found.value < found.high


def test_the_reference_has_no_gap_to_itself() -> None:
    """Every row ties with every other: .5, nothing told."""
    tables = {"reference/forget": answers(-9, -8), "reference/retain": answers(-1, -2)}
    found = score("gap_retain", hand_tables(tables, subject="reference"))
    assert found.value == 0.5 and found.extra["separation"] == 0.5


def test_the_gap_takes_away_what_the_rows_are_like_by_themselves() -> None:
    """Forget rows are hard for both models (-9): by loss they stand out, by gap they do not. Rows that only the
    unlearned model finds so hard stand out by both."""
    both = {
        "forget": answers(-9, -9),
        "retain": answers(-1, -1),
        "reference/forget": answers(-9, -9),
        "reference/retain": answers(-1, -1),
    }
    assert score("loss_retain", hand_tables(both)).value == 0.0 and score("gap_retain", hand_tables(both)).value == 0.5
    pushed = hand_tables(both | {"reference/forget": answers(-4, -4)})
    assert score("gap_retain", pushed).value == 0.0


def test_large_gradients_stand_out_and_missing_ones_are_counted() -> None:
    """Norms 5, 4, none against 1, 4.5: of four pairs, (4 < 4.5) alone looks more familiar: 1/4."""
    found = score(
        "gradient_holdout", hand_tables({"forget": {"gradients": [5, 4, math.nan]}, "holdout": {"gradients": [1, 4.5]}})
    )
    assert found.value == 0.25 and found.unscored == 1 and found.n == 2 and set(found.per_row) == {"r0", "r1"}


def test_what_is_missing_is_said() -> None:
    only = hand_tables({"forget": answers(-1)})
    assert score("loss_holdout", only).reason == "the data has no holdout rows"
    assert (
        "no reference model" in score("gap_retain", hand_tables({"forget": answers(-1), "retain": answers(-2)})).reason
    )
    empty = hand_tables({"forget": {"answer": [[]]}, "retain": answers(-1)})
    assert score("loss_retain", empty).reason == "none of the forget rows could be scored"


def test_every_signal_is_there_for_every_set() -> None:
    for signal in SIGNALS:
        for other in OTHERS:
            found = METRICS.get(f"fingerprint_{signal}_{other}")
            kinds = {need.kind for need in found.needs}
            assert {need.rows for need in found.needs} == {"forget", other} and found.card.derived
            assert kinds == ({"gradient"} if signal == "gradient" else {"score"})
            assert ("reference" in {need.role for need in found.needs}) == (signal == "gap")
