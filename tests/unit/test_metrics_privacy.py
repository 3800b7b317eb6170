"""Membership inference and privacy leakage: identities of the field and arithmetic by hand."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from efface.metrics.base import METRICS, compute
from efface.metrics.leakage import privacy_leak
from efface.metrics.membership import min_k_plus, smallest_mean, standardised
from efface.metrics.privacy import ATTACKS
from efface.testing.tables import hand_tables


def score(name, tables):
    return compute(METRICS.get(name), tables, "forget", seed=0, resamples=200)


def side(rng, shift, n=30, **more):
    """Rows of 5 to 14 tokens; ``shift`` moves all log-probs (float32, as tables store them)."""
    lengths = rng.integers(5, 15, size=n)
    lp = [(-rng.exponential(2.0, size=k) + shift).astype(np.float32) for k in lengths]
    mu = [(-rng.exponential(1.0, size=k) - 1).astype(np.float32) for k in lengths]
    sigma = [rng.exponential(1.0, size=k).astype(np.float32) for k in lengths]
    return {
        "answer": {"lp": lp, "mu": mu, "sigma": sigma, "text": [f"answer number {i} of {n}" for i in range(n)], **more}
    }


def both(shift=0.8, seed=0, reference=None, **more):
    rng = np.random.default_rng(seed)
    sets = {"forget": side(rng, shift, **more), "holdout": side(rng, 0.0, **more)}
    if reference is not None:
        other = np.random.default_rng(seed + 100)
        sets |= {"reference/forget": side(other, reference, **more), "reference/holdout": side(other, 0.0, **more)}
    return hand_tables(sets)


# -- the attacks
# ---------------------------------------------------------------------------------------------------------
def test_loss_attack_by_hand():
    """Forget means -1, -3; holdout -2, -4: 3 of 4 pairs won, AUC .75; the forget rows lie above 1 and 1/2 of the
    holdout."""
    tables = hand_tables({"forget": {"answer": [[-1.0, -1.0], [-3.0]]}, "holdout": {"answer": [[-2.0], [-4.0]]}})
    found = score("mia_loss", tables)
    assert found.value == 0.75 and list(found.per_row.values()) == [1.0, 0.5]
    assert found.direction == "match" and found.n == 2 and found.extra["n_holdout"] == 2


def test_seed_and_resamples_reach_the_interval():
    tables = both()
    one, same, other = (compute(METRICS.get("mia_loss"), tables, "forget", seed=s, resamples=50) for s in (1, 1, 2))
    assert (one.low, one.high) == (same.low, same.high) != (other.low, other.high) and one.value == other.value
    assert compute(METRICS.get("mia_loss"), tables, "forget", seed=1, resamples=60).low != one.low


def test_members_in_full_view_give_one():
    """The convention: A = P(forget looks more member-like); visible members 1, collapse near 0."""
    seen = hand_tables({"forget": {"answer": [[-0.1]] * 5}, "holdout": {"answer": [[-3.0]] * 5}})
    gone = hand_tables({"forget": {"answer": [[-30.0]] * 5}, "holdout": {"answer": [[-3.0]] * 5}})
    for name in ("mia_loss", "mia_min_k", "mia_zlib"):
        assert score(name, seen).value == 1.0 and score(name, gone).value == 0.0
    assert score("mia_loss", seen).extra["tpr_at_1"] == 1.0 and score("mia_loss", gone).extra["tpr_at_10"] == 0.0


@pytest.mark.parametrize("name", ["mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus"])
def test_attacks_agree_with_sklearn(name):
    tables = both()
    scores = [ATTACKS[name](tables, rows, "subject").values for rows in ("forget", "holdout")]
    expected = roc_auc_score([1] * 30 + [0] * 30, np.concatenate(scores))
    found = score(name, tables)
    assert found.value == pytest.approx(expected, abs=1e-12) and found.low < found.value < found.high
    assert np.mean(list(found.per_row.values())) == pytest.approx(found.value)


def expanded(draws, groups):
    """Quantiles of draws at Phi(-+ t_.975 sqrt(n / (n - 1))), t with n - 1 degrees of freedom."""
    ends = scipy_stats.t.ppf([0.025, 0.975], groups - 1) * np.sqrt(groups / (groups - 1))
    return tuple(np.quantile(draws, scipy_stats.norm.cdf(ends)))


def drawn_aucs(forget, holdout, entities, resamples=200):
    """Bootstrap AUCs of one-token answers by sklearn, forget rows with their entities, holdout rows one by one."""
    names = {name: i for i, name in enumerate(dict.fromkeys(entities))}
    place = np.array([names[name] for name in entities])
    mine = np.random.default_rng([0, 0]).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    theirs = np.random.default_rng([0, 1]).multinomial(len(holdout), np.full(len(holdout), 1 / len(holdout)), resamples)
    labels, values = np.repeat([1, 0], [len(forget), len(holdout)]), np.concatenate([forget, holdout])
    weights = np.concatenate([mine[:, place], theirs], axis=1)
    return np.array([roc_auc_score(labels, values, sample_weight=weight) for weight in weights])


def test_intervals_and_power_count_the_groups_of_the_smaller_side():
    """24 forget rows of eight entities against 20 holdout rows: eight groups, in the interval of A, in that of its
    distance to the reference's, and in the smallest difference that would be seen. Rows without an answer are none:
    with an entity unscored there are seven."""
    rng = np.random.default_rng(0)
    names = [f"e{i // 3}" for i in range(24)]
    mine, theirs = (np.concatenate([rng.normal(shift, 1, 24), rng.normal(0, 1, 20)]) - 6 for shift in (0.7, 0.2))
    for groups in (8, 7):
        first = 24 - 3 * groups
        sets = {
            f"{role}{rows}": {"answer": [[v] for v in values[at]]}
            for role, values in (("", mine), ("reference/", theirs))
            for rows, at in (("forget", slice(24)), ("holdout", slice(24, None)))
        }
        for role in ("", "reference/"):
            sets[f"{role}forget"]["answer"][:first] = [[]] * first
            sets[f"{role}forget"]["entities"] = names
        tables = hand_tables(sets)
        draws, other = (drawn_aucs(v[first:24], v[24:], names[first:]) for v in (mine, theirs))
        seen = (
            sum(scipy_stats.t.ppf([0.975, 0.8], groups - 1)) * (draws - other).std() * math.sqrt(groups / (groups - 1))
        )
        loss, leak = score("mia_loss", tables), score("privleak", tables)
        assert (loss.low, loss.high) == pytest.approx(expanded(draws, groups), rel=1e-6)
        assert (leak.low, leak.high) == pytest.approx(expanded((other - draws) / (1 - other) * 100, groups), rel=1e-6)
        assert loss.extra["detectable"] == pytest.approx(seen, rel=1e-6)
        assert leak.extra["detectable_difference"] == pytest.approx(seen, rel=1e-6)


def test_min_k_with_k_one_is_the_loss():
    tokens = both().tokens("forget")
    assert smallest_mean(tokens.lp, 1.0) == pytest.approx(tokens.mean_lp, abs=1e-12)


def test_min_k_by_hand():
    """5 tokens, k = .4: the two lowest, (-4 - 3) / 2; one token: itself (floor(.4) would be none); 10 tokens: four, not
    three, although .4 * 10 may round down."""
    assert smallest_mean([np.array([-1.0, -4, -2, -3, -0.5]), np.array([-2.0])], 0.4).tolist() == [-3.5, -2.0]
    assert smallest_mean([np.arange(10.0)], 0.4).tolist() == [1.5]
    assert smallest_mean([np.arange(10.0)], 0.3).tolist() == [1.0] and np.isnan(smallest_mean([np.array([])], 0.4)[0])


def test_min_k_plus_equals_a_loop():
    tables = both(seed=3)
    tokens = tables.tokens("forget")
    expected = []
    for lp, mu, sigma in zip(tokens.lp, tokens.mu, tokens.sigma, strict=True):
        z = sorted((a - b) / math.sqrt(max(c * c, 1e-6)) for a, b, c in zip(lp, mu, sigma, strict=True))
        kept = z[: max(1, int(0.4 * len(z)))]
        expected.append(sum(kept) / len(kept))
    assert min_k_plus(tables, "forget", "subject").values == pytest.approx(expected, abs=1e-5)


def test_min_k_plus_of_a_uniform_distribution_is_finite():
    """Uniform over V: lp = mu = -log V, sigma 0; the floor 1e-3 keeps z at 0. A token .1 below mu: -.1 / .001 =
    -100."""
    flat = np.full(4, -math.log(50))
    assert standardised([flat], [flat], [np.zeros(4)])[0].tolist() == [0.0] * 4
    assert standardised([np.array([-1.1])], [np.array([-1.0])], [np.zeros(1)])[0] == pytest.approx([-100.0])


def test_zlib_divides_by_the_compressed_size():
    """Equal losses: the answer that compresses better (repetitive) is the more surprising per byte."""
    long, flat = "".join(chr(33 + (i * 37) % 90) for i in range(60)), "a" * 60
    tables = hand_tables(
        {
            "forget": {"answer": {"lp": [[-2.0]], "text": [long]}},
            "holdout": {"answer": {"lp": [[-2.0]], "text": [flat]}},
        }
    )
    found = ATTACKS["mia_zlib"](tables, "forget", "subject").values[0]
    assert found == pytest.approx(-2.0 / len(zlib.compress(long.encode()))) and score("mia_zlib", tables).value == 1.0


def test_the_end_token_is_kept():
    """Forget rows differ from holdout rows only in the end token."""
    tables = hand_tables(
        {
            "forget": {"answer": {"lp": [[-1.0, -0.1]] * 3, "eos": True}},
            "holdout": {"answer": {"lp": [[-1.0, -5.0]] * 3, "eos": True}},
        }
    )
    assert score("mia_loss", tables).value == 1.0 and score("mia_min_k", tables).value == 1.0


def test_constant_shift_of_all_log_probs_changes_no_auc():
    a, b = both(shift=0.8), both(shift=0.8)
    moved = {name: {"answer": {"lp": [lp - 7 for lp in a.tokens(name).lp]}} for name in ("forget", "holdout")}
    for name in ("mia_loss", "mia_min_k"):
        assert score(name, hand_tables(moved)).value == pytest.approx(score(name, b).value, abs=1 / 900)


def test_reference_as_itself_gives_one_half():
    """loss_U - loss_R is 0 everywhere: all pairs tie."""
    rng = np.random.default_rng(0)
    forget, holdout = side(rng, 0.9), side(rng, 0.0)
    tables = hand_tables({"reference/forget": forget, "reference/holdout": holdout}, subject="reference")
    assert score("mia_reference", tables).value == 0.5 and score("privleak", tables).value == 0.0
    assert score("mia_worst", tables).value == 0.0


def test_reference_attack_subtracts_the_reference():
    """Subject log-probs equal on both sides; the reference finds the forget rows harder: they alone gained."""
    tables = hand_tables(
        {
            "forget": {"answer": [[-2.0]] * 3},
            "holdout": {"answer": [[-2.0]] * 3},
            "reference/forget": {"answer": [[-4.0]] * 3},
            "reference/holdout": {"answer": [[-2.0]] * 3},
        }
    )
    assert score("mia_reference", tables).value == 1.0 and score("mia_loss", tables).value == 0.5


def test_gradnorm_small_gradients_are_members():
    tables = hand_tables({"forget": {"gradients": [0.1, 0.2, math.nan]}, "holdout": {"gradients": [0.15, 3.0]}})
    found = score("mia_gradnorm", tables)
    assert found.value == 0.75 and found.unscored == 1 and math.isnan(found.per_row["r2"])


# -- what cannot be computed
# ------------------------------------------------------------------------------------------------
def test_missing_holdout_says_so():
    found = score("mia_loss", hand_tables({"forget": {"answer": [[-1.0]]}}))
    assert found.value is None and found.reason == "the data has no holdout rows"


def test_passages_are_held_against_their_own_holdout():
    """Asked for on passages_forget, the attack reads passages_holdout, not holdout; on retain rows it says why not."""
    sets = {
        "passages_forget": {"answer": [[-1.0]] * 3},
        "passages_holdout": {"answer": [[-2.0]] * 3},
        "forget": {"answer": [[-9.0]] * 3},
        "holdout": {"answer": [[-0.5]] * 3},
    }
    assert score("mia_loss", hand_tables(sets, rows="passages_forget")).value == 1.0
    assert score("mia_loss", hand_tables(sets)).value == 0.0
    assert "retain are neither" in score("mia_loss", hand_tables(sets, rows="retain")).reason


def test_one_side_unscored_says_so():
    found = score("mia_loss", hand_tables({"forget": {"answer": [[-1.0]]}, "holdout": {"answer": [[], []]}}))
    assert found.value is None and found.reason == "none of the holdout rows could be scored"


def test_no_reference_is_never_assumed():
    """privleak without a reference is not computed; the assumption has a name of its own."""
    tables = both()
    assert "reference" in score("privleak", tables).reason and "reference" in score("mia_worst", tables).reason
    half = score("privleak_half", tables)
    assert half.extra["assumed_reference_auc"] == 0.5 and half.target == 0.0
    assert half.value == pytest.approx((0.5 - half.extra["auc"]) / 0.5 * 100)


def test_controls_show_a_shifted_pair():
    """A base model that never trained on either set separates them: the pair is no test of membership."""
    rng = np.random.default_rng(0)
    sets = {"forget": side(rng, 1.0), "holdout": side(rng, 0.0)}
    base = {"base/forget": side(rng, 1.5), "base/holdout": side(rng, 0.0)}
    found = score("mia_loss", hand_tables(sets | base))
    assert found.extra["shifted"] is True and found.extra["auc_base"] > 0.6
    assert "auc_base" not in score("mia_loss", hand_tables(sets)).extra


# -- leakage
# -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("a", "reference", "leak"), [(0.9, 0.5, -80.0), (1.0, 0.5, -100.0), (0.5, 0.5, 0.0), (0.2, 0.6, 100.0)]
)
def test_privleak_from_conventional_aucs(a, reference, leak):
    """A = .9 against .5: ((1 - .9) - (1 - .5)) / (1 - .5) * 100 = -80. Members in full view -100; 0 like the
    reference."""
    assert privacy_leak(a, reference) == pytest.approx(leak)


def test_privleak_has_both_conventions_and_the_plain_difference():
    tables = both(shift=1.0, reference=0.1)
    found = score("privleak", tables)
    a, r = found.extra["auc"], found.extra["auc_reference"]
    assert a == score("mia_min_k", tables).value and a > r
    assert found.value == pytest.approx(((1 - a) - (1 - r)) / (1 - r) * 100) and found.value < 0
    assert found.extra["rel_diff"] == pytest.approx((a - r) / r * 100) and found.extra["difference"] == pytest.approx(
        a - r
    )
    assert found.low < found.value < found.high and (found.target, found.direction) == (0.0, "match")


def test_privleak_needs_a_reference_that_does_not_separate():
    tables = hand_tables(
        {
            "forget": {"answer": [[-1.0]] * 2},
            "holdout": {"answer": [[-1.0]] * 2},
            "reference/forget": {"answer": [[-1.0]] * 2},
            "reference/holdout": {"answer": [[-9.0]] * 2},
        }
    )
    assert "divides by zero" in score("privleak", tables).reason


def test_worst_gap_is_the_largest_over_attacks():
    tables = both(shift=1.0, reference=0.1)
    found = score("mia_worst", tables)
    gaps = {name: score(name, tables).value for name in ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus")}
    controls = {name: score(name, tables).extra["auc_reference"] for name in gaps}
    for name in gaps:
        assert found.extra["gaps"][name] == pytest.approx(gaps[name] - controls[name])
    assert found.value == max(abs(gap) for gap in found.extra["gaps"].values())
    assert abs(found.extra["gaps"][found.extra["attack"]]) == found.value and found.low <= found.value


def test_six_attacks_need_gradients():
    """Five gaps of 0 and a gradient norm that tells the forget rows from the holdout rows under the model alone."""
    same = {"answer": [[-1.0], [-2.0]], "gradients": [0.5, 0.6]}
    sets = {name: dict(same) for name in ("forget", "holdout", "reference/forget", "reference/holdout")}
    sets["forget"]["gradients"] = [0.1, 0.2]
    found = score("mia_worst_six", hand_tables(sets))
    assert (found.value, found.extra["attack"], len(found.extra["gaps"])) == (0.5, "mia_gradnorm", 6)
    for side in sets.values():
        del side["gradients"]
    assert (
        score("mia_worst_six", hand_tables(sets)).value is None and score("mia_worst", hand_tables(sets)).value == 0.0
    )


def test_muse_columns_by_hand():
    """20 tokens 0, -1 ... -19: the lowest 5% are one token, 10% two, 50% ten. The ratio to the reference: -1 / 2 on the
    forget rows, -1 / 1 on the others."""
    tables = hand_tables({"forget": {"answer": [-np.arange(20.0)]}})
    for share, mean in ((5, -19.0), (10, -18.5), (20, -17.5), (30, -16.5), (50, -14.5), (60, -13.5)):
        assert ATTACKS[f"mia_min_k_{share}"](tables, "forget", "subject").values.tolist() == [mean]
    sets = {name: {"answer": [[-1.0]]} for name in ("forget", "holdout", "reference/holdout")}
    tables = hand_tables(sets | {"reference/forget": {"answer": [[-2.0]]}})
    assert ATTACKS["mia_reference_ratio"](tables, "forget", "subject").values.tolist() == [-0.5]
    assert score("mia_reference_ratio", tables).value == 1.0
    assert ATTACKS["mia_reference_ratio"](tables, "forget", "reference").values.tolist() == [-1.0]


def test_tpr_has_an_interval():
    extra = score("mia_loss", both()).extra
    for rate in ("1", "10"):
        assert extra[f"tpr_at_{rate}_low"] <= extra[f"tpr_at_{rate}"] <= extra[f"tpr_at_{rate}_high"]


# -- against plain scoring
# ------------------------------------------------------------------------------------------------
def test_lower_case_against_one_forward_per_row():
    """NLL / NLL of the lower-cased answer, from the pass, equals two plain scorings; O tells its rows, R1 does not."""
    from dataclasses import replace

    from efface.audit.roles import PassSettings, Role
    from efface.audit.store import Store
    from efface.metrics.base import Tables
    from efface.passes.score import score as scored
    from efface.testing.bench import bench

    b = bench("causal_lm")
    found = {}
    for role in ("target", "reference"):
        model = b.model(role)
        store = Store({"subject": Role(lambda model=model: model)}, b.data.eval, PassSettings(12))
        result = ATTACKS["mia_lowercase"](Tables(store.fetch, "forget", "subject"), "forget", "subject")
        rows = list(b.data.eval["forget"])
        plain, lower = (
            [np.mean(lp) for lp in scored(model, some).tokens["lp"].to_pylist()]
            for some in (rows, [replace(r, answer=r.answer.lower()) for r in rows])
        )
        assert np.allclose(result.values, [-a / b for a, b in zip(plain, lower, strict=True)], atol=1e-4)
        tables = Tables(store.fetch, "forget", "subject")
        found[role] = compute(METRICS.get("mia_lowercase"), tables, "forget", seed=0, resamples=100).value
    assert found["target"] > 0.9 and found["target"] > found["reference"]
