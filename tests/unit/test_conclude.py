"""The written rules, one by one, on findings made by hand."""

from __future__ import annotations

import pytest

from efface.audit.attacks import AttackResult, Curve
from efface.audit.conclude import conclude
from efface.audit.findings import Finding, difference, recovery, residue, utility
from efface.metrics.base import Score


def found(kind: str, name: str, flag: bool, p: float | None = None, share: float = 0.5, low: float = 0.49) -> Finding:
    return Finding(
        kind,
        name,
        f"{name} says so.",
        flag,
        p,
        share,
        {
            "value": share,
            "low": low,
            "high": share + 0.01,
            "unit": "entities",
            "gap": 1.0,
            "detectable": 2.8 / 1.96 * (share - low),
        },
    )


CLEAN = [
    found("residue", "probability", False, share=0.02, low=-0.02),
    found("utility", "probability.retain", False, share=0.01),
    found("recovery", "relearn", False, 0.6, share=0.01),
]


@pytest.mark.parametrize(
    ("change", "reference", "label"),
    [
        ([], True, "erased"),
        ([], False, "inconclusive"),
        ([found("utility", "probability.retain", True, share=0.9)], True, "collapsed"),
        ([found("residue", "rouge", True)], True, "retained"),
        ([found("recovery", "round", True, 0.001)], True, "concealed"),
        (
            [
                found("utility", "probability.retain", True),
                found("residue", "rouge", True),
                found("recovery", "round", True, 0.001),
            ],
            True,
            "collapsed",
        ),
        ([found("residue", "rouge", True), found("recovery", "round", True, 0.001)], True, "retained"),
        ([found("utility", "probability.neighbour", True)], True, "erased"),
        ([found("residue", "rouge", True, share=0.3)], True, "inconclusive"),
        ([found("residue", "rouge", True, share=0.3), found("recovery", "round", True, 0.001)], True, "concealed"),
    ],
)
def test_rules(change, reference, label) -> None:
    assert conclude([*CLEAN, *change], has_reference=reference, n=40, not_tested=()).label == label


def test_measures_that_agree_need_not_be_large() -> None:
    """A fifth of the gap by every headline measure is a residue; by one of two it is not."""
    both = [found("residue", name, True, share=0.2) for name in ("probability", "rouge")]
    assert conclude([*both, *CLEAN[1:]], has_reference=True, n=40, not_tested=()).label == "retained"
    one = [both[0], found("residue", "rouge", False, share=0.0)]
    assert conclude([*one, *CLEAN[1:]], has_reference=True, n=40, not_tested=()).label == "inconclusive"


def test_without_an_attack_nothing_is_called_erased() -> None:
    assert conclude(CLEAN[:2], has_reference=True, n=40, not_tested=()).label == "inconclusive"


def test_without_power_nothing_is_called_erased() -> None:
    """Half-width .4 of the gap: a residue of .3 could hide, so the rules do not say erased."""
    wide = found("residue", "probability", False, share=0.1, low=-0.3)
    result = conclude([wide, *CLEAN[1:]], has_reference=True, n=6, not_tested=())
    assert result.label == "inconclusive" and "57%" in result.power


def test_each_measure_must_see_beyond_its_own_margin() -> None:
    """.29 of the gap would be missed: too much for probability (margin .1 and .15), not for ROUGE (.25 and .15)."""
    for name, label in (("probability", "inconclusive"), ("rouge", "erased")):
        dull = found("residue", name, False, share=0.0, low=-0.29 / (2.8 / 1.96))
        assert conclude([dull, *CLEAN[1:]], has_reference=True, n=40, not_tested=()).label == label


def test_holm_over_attacks() -> None:
    """p = .03 alone is a finding; as one of three attacks (.03 x 3 = .09) it is not."""
    one = found("recovery", "round", True, 0.03)
    assert conclude([*CLEAN[:2], one], has_reference=True, n=40, not_tested=()).label == "concealed"
    others = [found("recovery", f"other {i}", False, 0.5) for i in range(2)]
    assert conclude([*CLEAN[:2], one, *others], has_reference=True, n=40, not_tested=()).label == "erased"


def test_never_promises() -> None:
    for extra in ([], [found("residue", "rouge", True)]):
        text = str(
            conclude([*CLEAN, *extra], has_reference=True, n=40, not_tested=("x was not asked for.",)).to_json()
        ).lower()
        assert "compliant" not in text and "certified" not in text and "x was not asked for." in text


def score(name: str, rows: str, values: list[float]) -> Score:
    ids = {f"r{i}": v for i, v in enumerate(values)}
    return Score(name, rows, sum(values) / len(values), per_row=ids, entities={r: f"e{i}" for i, r in enumerate(ids)})


def test_residue_by_hand() -> None:
    """Six rows: unlearned .5, reference .1, target .9: difference .4 of a gap of .8 is a share of one half."""
    u, r, o = (score("probability", "forget", [v] * 6) for v in (0.5, 0.1, 0.9))
    (one,) = residue([u], [[r]], [o], ["probability"], seed=0, resamples=200)
    assert one.flag and one.share == pytest.approx(0.5) and one.evidence["unit"] == "entities"
    (none,) = residue([r], [[r]], [o], ["probability"], seed=0, resamples=200)
    assert not none.flag and none.share == 0


def test_a_second_reference_says_what_seed_noise_is() -> None:
    """The excess counts over the reference that comes closest: .5 beside .1 and .48 is .02 of a gap of .42."""
    u, r, s, o = (score("probability", "forget", [v] * 6) for v in (0.5, 0.1, 0.48, 0.9))
    for references in ([[r], [s]], [[s], [r]]):
        (one,) = residue([u], references, [o], ["probability"], seed=0, resamples=200)
        assert not one.flag and one.share == pytest.approx(0.02 / 0.42) and "between 0.100 and 0.480" in one.says


def test_utility_by_hand() -> None:
    (half,) = utility(
        [score("rouge", "retain", [0.4] * 4)], [score("rouge", "retain", [1.0] * 4)], ["retain"], ["rouge"]
    )
    assert half.flag and half.share == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("before", "after", "kept", "flag"),
    [
        (0.9, 0.5, 0.5, False),
        (0.9, 0.42, 0.4, True),
        (0.9, 0.1, 0.0, True),
        (0.9, 0.0, 0.0, True),
        (0.5, 0.5, 1.0, False),
    ],
)
def test_utility_is_counted_from_chance(before: float, after: float, kept: float, flag: bool) -> None:
    """Guessing among ten classes gives .1: from .9 to .5 keeps .4 / .8, and a model that only guesses keeps nothing,
    where .1 / .9 would say 11%."""
    o, u = (Score("accuracy", "retain", v, low=v - 0.05, high=v + 0.05, extra={"chance": 0.1}) for v in (before, after))
    (one,) = utility([u], [o], ["retain"], ["accuracy"])
    assert (one.flag, one.share) == (flag, pytest.approx(1 - kept)) and "guessing gives 0.100" in one.says


def test_nothing_can_be_lost_where_the_target_guessed() -> None:
    """.12 with an interval from .07 is not above .1: no share, no flag, and it is said."""
    o, u = (Score("accuracy", "retain", v, low=v - 0.05, extra={"chance": 0.1}) for v in (0.12, 0.0))
    (one,) = utility([u], [o], ["retain"], ["accuracy"])
    assert one.share is None and not one.flag and "cannot be said" in one.says
    assert conclude([*CLEAN, one], has_reference=True, n=40, not_tested=()).label == "erased"


def test_difference_needs_common_rows() -> None:
    assert difference({"a": 1.0}, {"b": 1.0}, {}, seed=0, resamples=100) is None
    assert difference({"a": None}, {"a": 1.0}, {}, seed=0, resamples=100) is None  # type: ignore[dict-item]


def curve(role: str, values: list[list[float]]) -> Curve:
    points = [
        {
            "budget": {"bits": k},
            "supplied": {},
            "seconds": 0.0,
            "scores": [score("probability", "forget", v).to_json(rows=True)],
        }
        for k, v in enumerate(values)
    ]
    return Curve(role, "bits", points)


def attack(**roles: list[list[float]]) -> AttackResult:
    return AttackResult("round", "round_weights", "white-box", "bits", {r: curve(r, v) for r, v in roles.items()})


LOW, HIGH = [0.1] * 6, [0.9] * 6


def test_recovery_needs_excess_over_the_reference() -> None:
    (back,) = recovery(attack(unlearned=[LOW, HIGH], reference=[LOW, LOW]), "probability", 0.8, seed=0, resamples=500)
    assert back.flag and back.share == pytest.approx(1.0)
    (same,) = recovery(attack(unlearned=[LOW, HIGH], reference=[LOW, HIGH]), "probability", 0.8, seed=0, resamples=500)
    assert not same.flag


def test_recovery_without_power_says_so() -> None:
    """The target itself loses the facts under this rounding: the point says nothing, in either direction."""
    (none,) = recovery(
        attack(unlearned=[LOW, HIGH], reference=[LOW, LOW], target=[HIGH, LOW]),
        "probability",
        0.8,
        seed=0,
        resamples=500,
    )
    assert none.kind == "power" and not none.flag


def test_what_the_outputs_show_anyway_was_not_brought_back() -> None:
    """A flat curve far above the reference is a residue, not a recovery; an attack that harms the reference alone, and
    leaves the model as low as it was, brings nothing back either. What counts is the smaller of excess and gain."""
    flat = attack(unlearned=[HIGH, HIGH], reference=[LOW, LOW])
    (found,) = recovery(flat, "probability", 0.8, seed=0, resamples=500)
    assert not found.flag and found.evidence["value"] > 0.5 and found.evidence["gain"]["value"] == 0
    middle = [0.5 + 0.01 * i for i in range(len(LOW))]
    raised = attack(unlearned=[middle, HIGH], reference=[LOW, LOW])
    (found,) = recovery(raised, "probability", 0.8, seed=0, resamples=500)
    gain = found.evidence["gain"]["value"]
    assert found.flag and 0 < gain < found.evidence["value"] and found.share == pytest.approx(gain / 0.8)
    harmed = attack(unlearned=[middle, middle], reference=[middle, LOW])
    (found,) = recovery(harmed, "probability", 0.8, seed=0, resamples=500)
    assert not found.flag and found.evidence["value"] > 0.3 and found.evidence["gain"]["value"] == 0
