"""Numbers and charts of a report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_up_run import make

from efface.report import render, text
from efface.report.axes import scale, span
from efface.report.build import build
from efface.report.charts import Plot, Series, chart, strip
from efface.runs.record import load_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.31, "0.310"),
        (0.0, "0"),
        (-0.25, "−0.250"),
        (1.0, "1.000"),
        (12.5, "12.5"),
        (-95.82, "−95.8"),
        (1204.0, "1,204"),
        (2.1e-9, "2.1×10⁻⁹"),
        (float("inf"), "∞"),
        (None, "–"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


def test_durations_and_budgets() -> None:
    assert [text.duration(s) for s in (0.42, 43, 125.2, 4200, None)] == [
        "0.4 s",
        "43 s",
        "2 min 05 s",
        "1 h 10 min",
        "–",
    ]
    assert [text.budget(b) for b in ({"steps": 0}, {"steps": 1}, {"bits": 4.0}, {"steps": 8, "rows": 2})] == [
        "no attack",
        "1 step",
        "4 bits",
        "8 steps, 2 rows",
    ]


def plot(**options) -> Plot:
    lines = [
        Series("unlearned", "After", ((0, 0.1, 0.0, 0.2), (1, 0.5, 0.4, 0.6))),
        Series("reference", "Never saw it", ((0, 0.1, 0.0, 0.2), (1, 0.2, 0.1, 0.3))),
        Series("target", "Before", ((0, 0.9, 0.8, 1.0), (1, 0.9, 0.8, 1.0))),
    ]
    return Plot("T", "A", "x", "y", ((0, "none"), (1, "1")), tuple(options.pop("series", lines)), **options)


def test_lines_differ_without_colour(made: Path) -> None:
    """Each role has its own marker in the drawing and its own dash in the style, and its name stands at its end."""
    drawing = chart(plot(), "c")
    assert len(re.findall(r'<circle class="mark k-unlearned"', drawing)) == 2
    assert len(re.findall(r'<rect class="mark k-reference"', drawing)) == 2
    assert len(re.findall(r'<polygon class="mark k-target"', drawing)) == 2
    assert re.findall(r'class="end k-\w+"[^>]*>([^<]+)<', drawing) == ["Before", "After", "Never saw it"]
    style = render(made).split("</style>")[0]
    dashes = {
        role: re.search(rf"\.line\.k-{role}[^{{}}]*{{[^}}]*stroke-dasharray: ([\d ]+)", style)
        for role in ("unlearned", "reference", "target")
    }
    assert dashes["unlearned"] is None and dashes["reference"][1] != dashes["target"][1]
    assert drawing.count('class="band') == 3


def test_labels_do_not_overlap() -> None:
    close = [Series("unlearned", str(k), ((0, 0.5, None, None), (1, 0.5 + k / 1000, None, None))) for k in range(5)]
    heights = sorted(
        float(y) for y in re.findall(r'class="end [^"]*" x="[\d.]+" y="([\d.]+)"', chart(plot(series=close), "c"))
    )
    assert (
        all(b - a >= 14.9 for a, b in zip(heights, heights[1:], strict=False)) and 0 < heights[0] and heights[-1] < 280
    )


def test_a_gap_in_a_curve_stays_a_gap() -> None:
    gap = [
        Series(
            "unlearned",
            "a",
            (
                (0, 0.1, None, None),
                (1, 0.2, None, None),
                (2, None, None, None),
                (3, 0.4, None, None),
                (4, 0.5, None, None),
            ),
        )
    ]
    drawing = chart(plot(series=gap), "c")
    assert drawing.count("<polyline") == 2 and drawing.count("<circle") == 4


def test_axes() -> None:
    assert span([0.2, 0.9]) == (0.0, 1.0) and span([]) == (0.0, 1.0)
    low, high = span([-95.8, 37.5])
    assert low < -95.8 and high > 37.5
    assert span([float("inf"), 2.0])[1] < 10 and span([3.0, 3.0]) == (2.0, 4.0)


def test_marks_are_round_and_hold_everything() -> None:
    assert scale(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert scale(0.0, 12.18) == [0.0, 5.0, 10.0, 15.0]
    assert scale(-103.8, 45.5) == [-150.0, -100.0, -50.0, 0.0, 50.0]
    for low, high in ((0, 3e-7), (-5, 1e9), (2, 4)):
        marks = scale(low, high)
        assert marks[0] <= low and marks[-1] >= high and 3 <= len(marks) <= 7


def test_charts_escape_and_survive_odd_values() -> None:
    odd = [
        Series("unlearned", "<b>", ((0, float("inf"), None, None),)),
        Series('a b"><x', "y", ((0, -5.0, None, None),)),
    ]
    drawing = chart(plot(series=odd, level=(float("inf"), "<i>")), "c")
    assert (
        "<b>" not in drawing
        and "<i>" not in drawing
        and "k-a b" not in drawing
        and "inf" not in drawing
        and "nan" not in drawing
    )
    assert "inf" not in strip((("unlearned", float("inf"), None, None), ("reference", 0.5, 0.4, 0.6)), "s", "t")


def test_budgets_that_fall_are_evenly_spaced(made: Path) -> None:
    plots = {view.title: view.plots for view in build(load_run(made)).attacks}
    assert [t for t, _ in plots["Relearn in domain"][0].ticks] == [0, 1, 3, 8, 16]
    assert [t for t, _ in plots["Round weights"][0].ticks] == [0, 1, 2, 3]
    assert [label for _, label in plots["Round weights"][0].ticks] == [
        "none",
        "8",
        "4",
        "3",
    ] and "not to scale" in plots["Round weights"][0].x
    assert [p.title for p in plots["Round weights"]] == [
        "Answer probability on the forget set",
        "Answer probability on the retain set",
        "ROUGE-L recall on the forget set",
    ]


def test_the_target_is_a_level_where_it_was_not_attacked(made: Path) -> None:
    plots = {view.title: view.plots[0] for view in build(load_run(made)).attacks if view.plots}
    target = next(
        s.value for s in load_run(made).scores.scores if (s.role, s.name, s.rows) == ("target", "probability", "forget")
    )
    assert plots["Relearn in domain"].level == (target, "Before, no attack") and plots["Round weights"].level is None
