"""Representation metrics: identities of CKA, its known bias, and probes with controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.metrics.base import METRICS, Tables, compute
from efface.metrics.hidden_states import states
from efface.metrics.probes import linear, nearest_neighbours, split
from efface.metrics.representation import (
    _hsic,
    _off_diagonal,
    answer_span,
    linear_cka,
    linear_cka_biased,
    principal_shift,
)
from efface.testing.bench import bench
from efface.testing.tables import hand_tables


def score(name, tables):
    return compute(METRICS.get(name), tables, "forget", seed=0, resamples=100)


def gaussians(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(width, seed=0):
    return np.linalg.qr(gaussians(width, width, seed=seed))[0]


# -- CKA
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cka", [linear_cka, linear_cka_biased])
def test_cka_identities(cka):
    """CKA(X, X) = 1; rotations, isotropic scaling and shifts change nothing; other linear maps do."""
    x, y = gaussians(60, 8), gaussians(60, 5, seed=1) + gaussians(60, 8)[:, :5]
    assert cka(x, x) == pytest.approx(1.0, abs=1e-12)
    assert cka(x, 3 * x @ orthogonal(8) + 100) == pytest.approx(1.0, abs=1e-10)
    assert cka(x @ orthogonal(8), y) == pytest.approx(cka(x, y), abs=1e-10)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-12)
    assert cka(x, x * np.array([10.0] + [1] * 7)) < 0.9


@pytest.mark.parametrize(("width", "bias"), [(64, 0.11), (576, 0.53)])
def test_independent_gaussians_show_the_bias_of_the_biased_form(width, bias):
    """512 rows: the biased estimator reads .11 at width 64 and .53 at width 576; the unbiased one about 0."""
    x, y = gaussians(512, width), gaussians(512, width, seed=1)
    assert linear_cka_biased(x, y) == pytest.approx(bias, abs=0.01)
    assert abs(linear_cka(x, y)) < 0.02


def test_unbiased_hsic_equals_the_sum_over_distinct_quadruples():
    """HSIC as the mean over all ordered quadruples of distinct rows of k_ij (m_ij + m_qr - 2 m_iq), by brute force."""
    from itertools import permutations

    x, y = gaussians(7, 2), gaussians(7, 3, seed=1)
    k, m = _off_diagonal(x), _off_diagonal(y)
    plain = np.mean([k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(7), 4)])
    assert _hsic(k, m) == pytest.approx(plain, abs=1e-12)


def test_biased_form_equals_the_centred_trace():
    """sum(HKH * HLH) / sqrt(sum(HKH^2) sum(HLH^2)), with H written out."""
    x, y = gaussians(20, 4), gaussians(20, 3, seed=1)
    h = np.eye(20) - 1 / 20
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    assert linear_cka_biased(x, y) == pytest.approx(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)))


def layers(count=3, n=40, width=6, seed=0):
    return {i + 1: gaussians(n, width, seed=seed + i) for i in range(count)}


def test_only_the_changed_layer_moves():
    """The head alone was changed: 1 in every layer below it, about 0 in the last."""
    base, names = layers(), [f"e{i % 10}" for i in range(40)]
    changed = base | {3: gaussians(40, 6, seed=99)}
    tables = hand_tables(
        {"forget": {"hidden": changed, "entities": names}, "target/forget": {"hidden": base, "entities": names}}
    )
    found = score("cka_target", tables)
    assert found.extra["curve"][:2] == pytest.approx([1.0, 1.0], abs=1e-9) and abs(found.extra["curve"][2]) < 0.15
    assert found.value == pytest.approx(np.mean(found.extra["curve"])) and found.extra["layers"] == [1, 2, 3]
    assert abs(found.extra["floor"]) < 0.1 and found.extra["interval_over"] == "entities" and found.n == 40


def test_ceiling_and_normalised_value_with_a_second_reference():
    """U = R: value 1; two references share half their variance: the ceiling is below 1, so the normalised value is
    above."""
    shared = gaussians(60, 6)
    one, two = shared + gaussians(60, 6, seed=1), shared + gaussians(60, 6, seed=2)
    tables = hand_tables(
        {
            "forget": {"hidden": {1: one}},
            "reference/forget": {"hidden": {1: one}},
            "reference_2/forget": {"hidden": {1: two}},
        }
    )
    extra = score("cka_reference", tables).extra
    assert extra["ceiling"] == pytest.approx(linear_cka(one.astype(np.float32), two.astype(np.float32)), abs=1e-6)
    assert extra["normalised"] == pytest.approx((1 - extra["floor"]) / (extra["ceiling"] - extra["floor"]))
    alone = hand_tables({"forget": {"hidden": {1: one}}, "reference/forget": {"hidden": {1: one}}})
    assert "ceiling" not in score("cka_reference", alone).extra


def test_jackknife_interval_is_as_wide_as_the_spread_of_the_estimate():
    """Over 60 fresh samples the estimates spread by about the half-width / 1.96 that one sample reports."""
    estimates, widths = [], []
    for seed in range(60):
        x = gaussians(40, 4, seed=seed)
        y = x + gaussians(40, 4, seed=seed + 1000)
        found = score("cka_target", hand_tables({"forget": {"hidden": {1: x}}, "target/forget": {"hidden": {1: y}}}))
        estimates.append(found.value), widths.append((found.high - found.low) / 2 / 1.96)
    assert 0.7 < np.median(widths) / np.std(estimates) < 1.4


def test_rows_without_states_are_left_out_and_rows_are_matched_by_id():
    """The target's rows come in another order: matched by id, CKA is 1; by position it would be near 0."""
    x, order = gaussians(30, 5), np.random.default_rng(0).permutation(30)
    tables = hand_tables(
        {
            "forget": {"hidden": {1: x}, "rows": [f"r{i}" for i in range(30)]},
            "target/forget": {"hidden": {1: x[order]}, "rows": [f"r{i}" for i in order]},
        }
    )
    assert score("cka_target", tables).value == pytest.approx(1.0, abs=1e-9)
    shorter = hand_tables({"forget": {"hidden": {1: x}}, "target/forget": {"hidden": {1: x[:20]}}})
    assert score("cka_target", shorter).n == 20


def test_what_cannot_be_compared_says_why():
    x = gaussians(30, 5)
    few = hand_tables({"forget": {"hidden": {1: x[:3]}}, "target/forget": {"hidden": {1: x[:3]}}})
    deep = hand_tables({"forget": {"hidden": {1: x}}, "target/forget": {"hidden": {1: x, 2: x}}})
    flat = hand_tables({"forget": {"hidden": {1: np.full((30, 5), 0.1)}}, "target/forget": {"hidden": {1: x}}})
    assert "at least 4 rows" in score("cka_target", few).reason
    assert (
        "same layers" in score("cka_target", deep).reason and "same for every row" in score("cka_target", flat).reason
    )
    assert "reference" in score("cka_reference", few).reason


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_no_cka_under_four_rows(rows):
    """The unbiased HSIC is a mean over quadruples: NaN, neither an error nor a division by zero."""
    assert np.isnan(linear_cka(gaussians(rows, 5), gaussians(rows, 5, seed=1)))


def test_few_forget_rows_leave_the_feature_score_out():
    x = {"hidden": {1: gaussians(2, 5)}}
    found = score("agr", hand_tables({"forget": x, "reference/forget": x}))
    assert found.value is None and "fewer than 4" in found.reason


def test_a_ceiling_of_few_rows_is_none():
    """The second reference has states for 3 rows only: no ceiling, the rest as without one."""
    x, few = gaussians(30, 5), gaussians(3, 5)
    sets = {"forget": {"hidden": {1: x}}, "reference/forget": {"hidden": {1: x}}}
    found = score("cka_reference", hand_tables(sets | {"reference_2/forget": {"hidden": {1: few}}}))
    assert found.value == pytest.approx(1.0) and "ceiling" not in found.extra


def test_states_that_differ_by_rounding_only_are_constant():
    """Offset 1, differences of 1e-9: nothing that float32 states could tell. No value rather than the CKA of noise."""
    noise = 1 + 1e-9 * gaussians(20, 4)
    assert np.isnan(linear_cka(noise, gaussians(20, 4, seed=1))) and np.isnan(linear_cka(noise, noise))


def test_batch_mode_is_biased_and_only_for_parity():
    x, y = gaussians(600, 64), gaussians(600, 64, seed=1)
    tables = hand_tables({"forget": {"hidden": {1: x}}, "reference/forget": {"hidden": {1: y}}})
    expected = (linear_cka_biased(x[:512], y[:512]) + linear_cka_biased(x[512:], y[512:])) / 2
    assert score("cka_reference_compat", tables).value == pytest.approx(expected, abs=1e-5)
    assert abs(score("cka_reference", tables).value) < 0.02 < score("cka_reference_compat", tables).value


def test_a_last_batch_of_one_row_is_left_out():
    """513 rows: one row alone has no CKA, so the first 512 decide. A single row in all: said as it is."""
    x, y = gaussians(513, 8), gaussians(513, 8, seed=1)
    tables = hand_tables({"forget": {"hidden": {1: x}}, "reference/forget": {"hidden": {1: y}}})
    found = score("cka_reference_compat", tables)
    assert found.value == pytest.approx(linear_cka_biased(x[:512], y[:512]), abs=1e-5)
    assert (found.n, found.unscored) == (512, 1)
    one = hand_tables({"forget": {"hidden": {1: x[:1]}}, "reference/forget": {"hidden": {1: y[:1]}}})
    assert "needs two rows" in score("cka_reference_compat", one).reason


# -- over the answer
# ---------------------------------------------------------------------------------------------------------
def pooled(**sets):
    """Tables whose states depend on the pooling: {pooling: hand-made sets}."""
    tables = {pooling: hand_tables(content) for pooling, content in sets.items()}
    return Tables(lambda role, need: tables[need.pooling].table(replace(need, role=role)), "forget")


@pytest.mark.parametrize("role", ["target", "reference"])
def test_cka_over_the_answer_reads_the_other_pooling(role):
    """The same states at the last prompt token, unrelated ones over the answer: 1 and about 0; ceiling and floor
    too."""
    x, y = layers(2, 60), layers(2, 60, seed=50)
    seeds = {"reference_2/forget": {"hidden": y}}
    tables = pooled(
        last_prompt={"forget": {"hidden": x}, f"{role}/forget": {"hidden": x}} | seeds,
        mean_answer={"forget": {"hidden": x}, f"{role}/forget": {"hidden": y}} | seeds,
    )
    plain, over = score(f"cka_{role}", tables), score(f"cka_{role}_answer", tables)
    assert plain.value == pytest.approx(1.0, abs=1e-9) and abs(over.value) < 0.15 and over.name == f"cka_{role}_answer"
    if role == "reference":
        assert abs(plain.extra["ceiling"]) < 0.15 and over.extra["ceiling"] == pytest.approx(1.0, abs=1e-9)


def test_probe_over_the_answer_reads_the_other_pooling():
    tables = pooled(last_prompt={"forget": clusters(0.0)}, mean_answer={"forget": clusters(3.0)})
    assert score("knn_accuracy", tables).value < 0.45 < 0.9 < score("knn_accuracy_answer", tables).value


def test_states_over_the_answer_differ_where_the_answers_do():
    """Tiny bench, one question with two gold answers, before and after: the last prompt token has read neither."""
    lm, row = bench("causal_lm").model("target"), bench("causal_lm").data.eval["forget"][0]
    rows = [replace(row, id=f"r{i}", answer=answer) for i, answer in enumerate((row.answer, "Nobody knows that."))]
    store = Store({"unlearned": Role(lambda: lm)}, {"forget": rows}, PassSettings())
    tables = Tables(lambda role, need: store.fetch("unlearned", need), "forget")
    at_prompt, over = (states(t, 2, "subject").vectors[0] for t in (tables, answer_span(tables)))
    assert np.allclose(at_prompt[0], at_prompt[1], atol=1e-4) and not np.allclose(over[0], over[1], atol=0.1)
    assert np.array_equal(over, tables.hidden(2, pooling="mean_answer").vectors)


@pytest.mark.parametrize("name", ["cka_target_answer", "cka_reference_answer", "knn_accuracy_answer"])
def test_metrics_over_the_answer_declare_what_they_read(name):
    assert {need.pooling for need in METRICS.get(name).needs} == {"mean_answer"}


# -- PCA shift
# ---------------------------------------------------------------------------------------------------------------
def test_pca_shift_by_hand():
    """Target points (+-2, 0), (0, +-1): mean squared distance 2.5. A shift by (3, 0, 4): 3 / sqrt(2.5) inside the
    plane, 5 / sqrt(2.5) in all; same first component."""
    origin = np.array([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]])
    found = principal_shift(origin + np.array([3.0, 0, 4]), origin)
    assert found["shift"] == pytest.approx(3 / np.sqrt(2.5)) and found["shift_full"] == pytest.approx(5 / np.sqrt(2.5))
    assert found["cosine"] == pytest.approx(1.0)
    turned = principal_shift(origin[:, [1, 0, 2]], origin)
    assert turned["cosine"] == pytest.approx(0.0, abs=1e-12) and turned["shift"] == pytest.approx(0.0, abs=1e-12)


def test_pca_shift_metric_averages_layers():
    base = layers(2)
    moved = {1: base[1], 2: base[2] + 5}
    tables = hand_tables({"forget": {"hidden": moved}, "target/forget": {"hidden": base}})
    found = score("pca_shift", tables)
    assert found.extra["curve"][0] == pytest.approx(0.0, abs=1e-9) and found.value == pytest.approx(
        found.extra["curve"][1] / 2
    )


# -- probes
# --------------------------------------------------------------------------------------------------------------
def clusters(apart, people=6, each=10, width=12, seed=0):
    """Rows of ``people`` entities around centres ``apart`` standard deviations from the origin, all with a large
    offset."""
    centres = apart * gaussians(people, width, seed=seed)
    rows = np.repeat(centres, each, axis=0) + gaussians(people * each, width, seed=seed + 1) + 50
    return {"hidden": {1: rows, 2: rows}, "entities": [f"p{i}" for i in range(people) for _ in range(each)]}


@pytest.mark.parametrize("name", ["knn_accuracy", "linear_probe"])
def test_probe_finds_entities_and_its_control_does_not(name):
    """12 test rows of 6 entities: with centres 3 sigma out nearly all are named; shuffled labels give about 1/6."""
    found = score(name, hand_tables({"forget": clusters(3.0)}))
    assert found.value > 0.9 and found.n == 12 and found.extra["chance"] == pytest.approx(1 / 6)
    assert abs(found.extra["control"] - 1 / 6) < 0.15 and found.extra["best"] >= found.value
    empty = score(name, hand_tables({"forget": clusters(0.0)}))
    assert empty.value < 0.45


def test_split_is_stratified_and_fixed():
    labels = np.repeat([0, 1, 2], [10, 5, 1])
    train, test = split(labels)
    assert np.bincount(labels[test]).tolist() == [2, 1] and np.bincount(labels[train]).tolist() == [8, 4]
    assert not set(train) & set(test) and np.array_equal(test, split(labels)[1])


def test_one_entity_cannot_be_probed():
    tables = hand_tables({"forget": {"hidden": {1: gaussians(10, 4)}, "entities": ["a"] * 10}})
    assert "two entities" in score("knn_accuracy", tables).reason


def test_neighbours_agree_with_sklearn():
    """Odd votes over two classes cannot tie, so both must agree row by row."""
    x, labels = gaussians(60, 5), np.random.default_rng(0).integers(0, 2, 60)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(x[:45], labels[:45]).predict(x[45:])
    assert np.array_equal(nearest_neighbours(x[:45], labels[:45], x[45:]), theirs)


def test_neighbour_votes_tie_to_the_closer_class():
    """Two votes for class 0 at angle .3, two for class 2 at angle .1, one for class 1: class 2. By number it would be
    0."""
    angles, labels = np.array([0.3, -0.3, 0.2, 0.1, -0.1]), np.array([0, 0, 1, 2, 2])
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert nearest_neighbours(train, labels, np.array([[1.0, 0.0]])).tolist() == [2]


@pytest.mark.filterwarnings("error")
def test_a_common_offset_does_not_matter():
    """All states moved by the same 10,000 in one direction (as rogue dimensions do): same entities named, and the
    linear fit converges."""
    rows = clusters(1.5)
    moved = rows | {"hidden": {layer: x + np.eye(12)[0] * 1e4 for layer, x in rows["hidden"].items()}}
    for name in ("knn_accuracy", "linear_probe"):
        here, there = (score(name, hand_tables({"forget": r})) for r in (rows, moved))
        assert there.value == pytest.approx(here.value, abs=0.1) and here.value > 0.5


def test_linear_probe_in_the_span_equals_the_full_fit():
    """More features than rows: the solution lies in the span of the train rows, so nothing is lost."""
    from sklearn.linear_model import LogisticRegression

    x, labels = gaussians(60, 100), np.repeat([0, 1, 2], 20)
    x[:, :3] += 3 * np.eye(3)[labels]
    train, test = split(labels)
    centred = x - x[train].mean(0)
    full = LogisticRegression(C=1.0, max_iter=2000, tol=1e-3).fit(centred[train] / centred[train].std(0), labels[train])
    ours = linear(centred[train], labels[train], centred[test])
    assert np.array_equal(ours, full.predict(centred[test] / centred[train].std(0)))
