"""What a curve comes to: excess, share recovered, area and price, by hand; and whether a record can lie about them.

Places of steps 0, 1, 4 on the axis: 0, 1/4, 1; the trapezoid counts the three values 1/8, 1/2 and 3/8. Unlearned .1,
.5, .3: area .0125 + .25 + .1125 = .375. Reference .1, .2, .2: .1875, so that the area of the excess is .1875.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from efface.audit.attacks import AttackResult, Curve
from efface.audit.export import Basis, area, area_excess, bits, excess, places, rec, summary, write_attacks
from efface.audit.findings import difference
from efface.audit.rederive import _Record
from efface.audit.stored import curves_of, result_of
from efface.metrics.base import Score
from efface.metrics.stats import bootstrap_mean
from efface.runs.compare import _excess_cell
from efface.runs.files import write_json
from efface.runs.results import Curve as StoredCurve
from efface.suites import AttackEntry, Suite

OFFSETS = (-0.1, -0.06, -0.02, 0.02, 0.06, 0.1)
ROWS = [f"r{k}" for k in range(len(OFFSETS))]
ENTITIES = {row: f"e{row}" for row in ROWS}
BASIS = Basis((Score("probability", "forget", 0.9, per_row=dict.fromkeys(ROWS, 0.9), entities=ENTITIES),), 3, 200)
HEAD = ("probability", "forget")


def score(value: float, spread: float = 0.0, **more: Any) -> dict[str, Any]:
    """A stored score: each row ``value`` and its offset."""
    per_row = {row: value + spread * d for row, d in zip(ROWS, OFFSETS, strict=True)}
    low, high = bootstrap_mean(np.array(list(per_row.values())), list(ENTITIES.values()), seed=3, resamples=200)
    own = {"name": "probability", "rows": "forget", "value": float(np.mean(list(per_row.values())))}
    return own | {"low": low, "high": high, "n": len(ROWS), "per_row": per_row, "entities": ENTITIES} | more


def curve(
    role: str, values: list[float], *, axis: str = "steps", at: tuple[float, ...] = (0, 1, 4), spread=0.0
) -> Curve:
    points = [
        {
            "budget": {axis: b},
            "supplied": {"trained_parameters": 10, "label_tokens": 7} if b else {},
            "seconds": 2.0 * k,
            "measuring_seconds": 0.5,
            "scores": [score(v, spread)],
        }
        for k, (b, v) in enumerate(zip(at, values, strict=True))
    ]
    return Curve(role, axis, points)


def attacked(**more: Curve) -> AttackResult:
    curves = {
        "unlearned": curve("unlearned", [0.1, 0.5, 0.3], spread=1.0),
        "reference": curve("reference", [0.1, 0.2, 0.2]),
    }
    return AttackResult("relearn", "relearn_in_domain", "white-box", "steps", curves | more)


# -- the numbers -------------------------------------------------------------------------------------------------------
def test_excess_is_paired_by_row_with_the_interval_of_the_conclusion() -> None:
    u, r = score(0.5, 1.0)["per_row"], score(0.2)["per_row"]
    own = difference(u, r, ENTITIES, seed=3, resamples=200)
    found = excess(attacked(), *HEAD, BASIS)
    assert own and found == {"value": pytest.approx(0.3), "low": own.low, "high": own.high, "at": {"steps": 1}}
    assert 0.2 < found["low"] < 0.3 < found["high"] < 0.4


def test_areas_by_hand() -> None:
    """A row's area of the excess is .1875 and its offset."""
    assert area(attacked(), *HEAD) == pytest.approx(0.375)
    low, high = bootstrap_mean(0.1875 + np.array(OFFSETS), ROWS, seed=3, resamples=200)
    found = area_excess(attacked(), *HEAD, BASIS)
    assert found == {"value": pytest.approx(0.1875), "low": pytest.approx(low), "high": pytest.approx(high)}


def test_a_row_without_a_value_at_some_point_has_no_area() -> None:
    """r0 is out: the mean offset of the others is .02."""
    result = attacked()
    lost = result.curves["unlearned"].points[2]["scores"][0]
    lost["per_row"] = lost["per_row"] | {"r0": None}
    lost["value"] = 0.3 + 0.02
    assert area_excess(result, *HEAD, BASIS)["value"] == pytest.approx(0.1875 + 0.02)


def test_rec_by_hand() -> None:
    """(.5 - .1) / (.9 - .1) = .5; a target curve of its own goes before the scores: (.5 - .1) / (.6 - .1) = .8."""
    assert rec(attacked(), *HEAD, BASIS.target) == {"value": pytest.approx(0.5), "at": {"steps": 1}}
    own = attacked(target=curve("target", [0.6, 0.6, 0.6]))
    assert rec(own, *HEAD, BASIS.target)["value"] == pytest.approx(0.8)


def test_rec_takes_the_target_on_the_rows_that_were_attacked() -> None:
    target = replace(BASIS.target[0], per_row={**dict.fromkeys(ROWS, 0.7), "trained_on": 1.0})
    assert rec(attacked(), *HEAD, [target])["value"] == pytest.approx(0.4 / 0.6)
    for per_row in ({}, {row: 0.7 for row in ROWS[1:]}, dict.fromkeys(ROWS, 0.1), dict.fromkeys(ROWS, 0.05)):
        assert rec(attacked(), *HEAD, [replace(target, per_row=per_row)]) is None
    assert rec(attacked(), *HEAD, []) is None


def test_rec_is_below_zero_where_the_attack_only_harms() -> None:
    """(.05 - .1) / .8."""
    result = attacked(unlearned=curve("unlearned", [0.1, 0.05, 0.02]))
    assert rec(result, *HEAD, BASIS.target)["value"] == pytest.approx(-0.0625)


def test_axis_to_scale_only_where_it_rises() -> None:
    assert places([{"steps": 0}, {"steps": 1}, {"steps": 4}], "steps") == [0, 0.25, 1]
    assert places([{"bits": 0}, {"bits": 8}, {"bits": 4}, {"bits": 3}], "bits") == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert places([{"layer": 0}, {"layer": 0}], "layer") == [0, 1]
    assert places([{}, {"kinds": 2}], "kinds") == [0, 1]


def test_falling_bits_are_evenly_spaced() -> None:
    """(.1 / 2 + .5 + .3 / 2) / 2 = .35."""
    result = attacked(unlearned=curve("unlearned", [0.1, 0.5, 0.3], axis="bits", at=(0, 8, 4)))
    result.axis = "bits"
    assert area(result, *HEAD) == pytest.approx(0.35)


def test_a_point_whose_attacker_gave_the_answer_is_left_out() -> None:
    """Without step 1 the curve goes straight from .1 to .3: area .2, excess .1 at step 4, half of it over the curve."""
    result = attacked()
    result.curves["unlearned"].points[1]["supplied"]["contains_answer"] = 1
    found = summary(result, *HEAD, BASIS)
    assert found["area"] == pytest.approx(0.2) and found["area_excess"]["value"] == pytest.approx(0.05)
    assert found["excess"]["at"] == found["rec"]["at"] == {"steps": 4} and found["rec"]["value"] == pytest.approx(0.25)


def test_no_interval_where_the_metric_is_not_the_mean_of_its_rows() -> None:
    result = attacked()
    for point, value in zip(result.curves["unlearned"].points, (0.2, 0.6, 0.4), strict=True):
        point["scores"] = [score(value) | {"per_row": {}, "entities": {}}]
    found = summary(result, *HEAD, BASIS)
    assert found["excess"] == {"value": pytest.approx(0.4), "low": None, "high": None, "at": {"steps": 1}}
    assert found["area_excess"] == {"value": pytest.approx(0.475 - 0.1875), "low": None, "high": None}
    assert found["rec"] is None


def test_nothing_without_a_control_or_a_point() -> None:
    alone = attacked()
    del alone.curves["reference"]
    found = summary(alone, *HEAD, BASIS)
    assert found["excess"] is None and found["area_excess"] is None and found["area"] == pytest.approx(0.375)
    empty = summary(AttackResult("x", "x", "black-box", reason="no rows"), *HEAD, BASIS)
    assert not any(empty.values()) and empty.keys() == found.keys()


def test_bits_are_counted_or_those_of_the_weights_put_in() -> None:
    assert bits({"trained_parameters": 10, "label_tokens": 7}) == 320 and bits({"original_weights": 3}) == 96
    assert bits({"bits": 41.5, "trained_parameters": 10}) == 41.5
    assert bits({"context_tokens": 12}) is None and bits({}) is None


def test_a_comparison_of_runs_holds_the_area() -> None:
    gap = {"value": 0.3, "low": 0.2, "high": 0.4, "at": {"steps": 4}}
    cell = _excess_cell(StoredCurve(attack="relearn", excess=gap, area_excess={"value": 0.2, "low": 0.1, "high": 0.25}))
    assert (cell.value, cell.low, cell.high, cell.at) == (0.3, 0.2, 0.4, {"steps": 4})
    assert cell.area == (0.2, 0.1, 0.25) and _excess_cell(StoredCurve(attack="relearn", excess=gap)).area is None


# -- the record --------------------------------------------------------------------------------------------------------
def written(folder: Path, result: AttackResult, basis: Basis | None = BASIS) -> dict[str, Any]:
    """The headline curve as it is stored; a second curve lies beside it."""
    suite = Suite(name="s", metrics={}, attack_metrics=["probability", "rouge"])
    write_attacks(folder, suite, [result], None, basis)
    return json.loads((folder / "attacks" / "relearn" / "curve.json").read_text())


def told(folder: Path, basis: Basis = BASIS) -> list[str]:
    """What verification finds about the curves."""
    stored = curves_of(folder, "relearn")
    result = result_of(folder, AttackEntry(name="relearn_in_domain", label="relearn"), stored)
    spec: Any = SimpleNamespace(seed=basis.seed, audit=SimpleNamespace(resamples=basis.resamples))
    record = _Record(folder, spec, None, None, None, {}, {}, set())  # type: ignore[arg-type]
    return [finding["what"] for finding in record._curves(result, stored, basis)]  # type: ignore[arg-type]


def test_points_carry_their_price_and_what_a_single_try_gave(tmp_path: Path) -> None:
    result = attacked()
    result.curves["unlearned"].points[2]["scores"] = [score(0.3, 1.0, extra={"this_try": 0.25})]
    first, _, last = (p for p in written(tmp_path, result)["points"] if p["role"] == "unlearned")
    assert (last["seconds"], last["measuring_seconds"], last["bits"], last["this_try"]) == (4.0, 0.5, 320, 0.25)
    assert first["bits"] is None and "this_try" not in first


def test_an_intact_curve_is_derived_again(tmp_path: Path) -> None:
    stored = written(tmp_path, attacked())
    assert stored["area"] == pytest.approx(0.375) and told(tmp_path) == []


def test_a_curve_of_an_older_version_says_less(tmp_path: Path) -> None:
    stored = written(tmp_path, attacked(), None)
    assert "area" not in stored and stored["excess"]["low"] is None and told(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("area", lambda data: data.update(area=0.1)),
        ("area", lambda data: data.pop("area")),
        ("area_excess", lambda data: data["area_excess"].update(low=-0.1)),
        ("area_excess", lambda data: data.update(area_excess=None)),
        ("rec", lambda data: data["rec"].update(value=0.0)),
        ("excess", lambda data: data["excess"].update(high=0.9)),
        ("recovered", lambda data: data["recovered"].update(at={"steps": 4})),
        ("the bits of a point", lambda data: data["points"][1].update(bits=1.0)),
    ],
)
def test_a_forged_summary_is_found(tmp_path: Path, name: str, change: Any) -> None:
    data = written(tmp_path, attacked())
    change(data)
    write_json(tmp_path / "attacks" / "relearn" / "curve.json", data)
    found = told(tmp_path)
    assert len(found) == 1 and found[0].startswith(f"probability on forget: {name} ")
