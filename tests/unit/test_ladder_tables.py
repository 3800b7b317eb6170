"""The tables of ``bench metrics`` and ``bench attacks``, on cells made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from efface.bench import confusion, separation
from efface.testing.ladder import EXPECTED, KNOWS, RUNGS


def score(
    value: float, name: str = "probability", rows: str = "forget", per_row: dict[str, float] | None = None
) -> dict[str, Any]:
    per = {f"r{i}": value for i in range(6)} if per_row is None else per_row
    return {
        "name": name,
        "rows": rows,
        "value": value,
        "direction": "match",
        "per_row": per,
        "entities": {r: r for r in per},
    }


def cell(seed: int, rung: str, value: float, reference: float = 0.1, name: str = "probability") -> dict[str, Any]:
    return {"seed": seed, "rung": rung, "scores": [score(value, name)], "reference": [score(reference, name)]}


def test_separation_by_hand() -> None:
    """Two seeds. O .9 above both clean models; HeadOnly .05 below them: AUC 1 and 0, .5 together."""
    values = {"O": 0.9, "HeadOnly": 0.05, "R2": 0.1, "R3": 0.1}
    table = separation.separation([cell(s, r, v) for s in (0, 1) for r, v in values.items()])
    (row,) = table["rows"]
    assert row["by_rung"]["O"] == 1.0 and row["by_rung"]["HeadOnly"] == 0.0
    assert row["auc"] == pytest.approx(0.5) and row["direction"] is True
    assert row["flagged"] == {"flags": 0, "beyond": 0, "second": 0, "tested": 4}
    assert "| probability | forget | 0.50" in separation.markdown(table)


def test_a_model_that_never_knew_is_flagged_only_above_the_reference() -> None:
    """R2 shows .3 on every row, R1 .1: flagged; R3 shows .05: not. A quarter of the gap of .8 is beyond the margin, and
    R3 as a second reference would not have helped; of a gap of 3.9 it is within it; and R3 at .3 is as high as R2."""

    def flagged(r3: float, o: float) -> dict[str, int]:
        return separation.separation([cell(0, "R2", 0.3), cell(0, "R3", r3), cell(0, "O", o)])["rows"][0]["flagged"]

    assert flagged(0.05, 0.9) == {"flags": 1, "beyond": 1, "second": 1, "tested": 2}
    assert flagged(0.05, 4.0) == {"flags": 1, "beyond": 0, "second": 1, "tested": 2}
    assert flagged(0.3, 0.9) == {"flags": 2, "beyond": 2, "second": 0, "tested": 2}


def test_p_values_are_turned_round() -> None:
    """Forget quality is high when nothing is known: O .01 against .8 separates fully."""
    cells = [cell(0, r, v, name="forget_quality") for r, v in {"O": 0.01, "R2": 0.8, "R3": 0.9}.items()]
    for c in cells:
        c["scores"][0]["direction"] = "higher"
    assert separation.separation(cells)["rows"][0]["by_rung"]["O"] == 1.0


def audited(seed: int, rung: str, label: str, flag: bool) -> dict[str, Any]:
    finding = {
        "kind": "recovery",
        "name": "recovery: relearn",
        "flag": flag,
        "evidence": {"value": 0.5 if flag else 0.1, "gain": {"value": 0.9 if flag else 0.0}},
    }
    return {
        "seed": seed,
        "rung": rung,
        "seconds": 10.0,
        "conclusion": {"label": label, "findings": [finding]},
        "attack_seconds": {"relearn": 2.0},
        "not_run": {"alias": "no alias"},
    }


def test_confusion_by_hand() -> None:
    """Three audits of four are right; the false alarm on R2 is counted."""
    cells = [
        audited(0, "O", "retained", True),
        audited(0, "HeadOnly", "concealed", True),
        audited(0, "R2", "concealed", True),
        audited(1, "R2", "erased", False),
    ]
    table = confusion.confusion(cells)
    assert table["right"] == 0.75 and table["matrix"]["R2"] == {"concealed": 1, "erased": 1}
    assert table["attacks"]["relearn"]["R2"] == {"flagged": 1, "tested": 2, "brought": 0.25}
    assert table["erased"]["hits"] == 1 and table["erased"]["of"] == 2 and table["erased"]["low"] < 0.05
    text = confusion.markdown(table)
    assert "| R2 | **1** | 1 |" in text and "alias was not run: no alias." in text and "75%" in text


def test_every_rung_has_an_expected_conclusion() -> None:
    assert set(EXPECTED) == set(RUNGS) and set(KNOWS) < set(RUNGS)


def test_flags_know_which_way_a_metric_points() -> None:
    """Forget quality is high where nothing is known: R2 at .2 beside R1 at .8 knows more; at .9 it does not. Where O
    was not measured, there is no gap and nothing is tested."""

    def flagged(r2: float, rungs: tuple[str, ...] = ("O", "R2")) -> dict[str, int]:
        values = {"O": 0.0, "R2": r2}
        cells = [cell(0, rung, values[rung], 0.8, "forget_quality") for rung in rungs]
        for c in cells:
            for side in ("scores", "reference"):
                c[side][0]["direction"] = "higher"
        return separation.separation(cells)["rows"][0]["flagged"]

    assert flagged(0.2) == {"flags": 1, "beyond": 1, "second": 0, "tested": 1}
    assert flagged(0.9)["flags"] == 0 and flagged(0.2, ("R2",))["tested"] == 0


def test_a_cell_of_another_suite_or_version_is_measured_again(tmp_path, monkeypatch) -> None:
    from efface.bench import ladder
    from efface.progress import SILENT

    ran = []

    def run(job):
        ran.append(job)
        return {"seed": job[0], "rung": job[1]}

    def each(suite: str) -> None:
        ladder._each(run, [(0, "O", suite)], tmp_path, 1, SILENT)

    each("people")
    each("people")
    assert ran == [(0, "O", "people")]
    each("people_attacks")
    assert len(ran) == 2
    monkeypatch.setattr(ladder, "RELEARN_STEPS", 9)
    each("people_attacks")
    assert len(ran) == 3


def test_an_attack_is_held_to_the_rungs_that_its_sheet_names() -> None:
    """OneHop flagged in one seed of two: not found; in both: found; a flag on R2 is a false alarm."""

    def sheet(*cells: tuple[int, str, bool]) -> dict[str, Any]:
        made = [audited(seed, rung, "concealed", flag) for seed, rung, flag in cells]
        for one in made:
            one["conclusion"]["findings"][0]["name"] = "recovery: alias"
        table = confusion.confusion(made)
        assert "| alias | OneHop: " in confusion.markdown(table)
        return table["sheets"]["alias"]

    half = sheet((0, "OneHop", True), (1, "OneHop", False), (0, "R2", False))
    assert half == {"rungs": ["OneHop"], "found": False, "silent": True}
    assert sheet((0, "OneHop", True), (1, "OneHop", True), (0, "R2", True))["found"] is True
    assert sheet((0, "OneHop", True), (0, "R2", True))["silent"] is False


def test_every_attack_with_a_rung_is_in_the_suite_that_the_ladder_runs() -> None:
    from efface import suites
    from efface.testing.ladder import MUST_FLAG

    labels = {entry.label or entry.name for entry in suites.load("people_attacks").attacks}
    assert set(MUST_FLAG) <= labels and {r for named in MUST_FLAG.values() for r in named} <= set(RUNGS)
