"""Runs side by side: paired differences by hand, and every reason why two numbers do not compare."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_up_run import make
from scipy import stats as scipy_stats

from efface.errors import RecordError, SpecError
from efface.runs.compare import compare
from efface.runs.files import write_json
from efface.runs.paired import Values, paired
from efface.runs.record import load_run


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    return make(root), make(root, method="rmu", shift=0.3)


def change(path: Path, **values) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


def line(comparison, name: str = "rouge", rows: str = "forget"):
    return next(found for found in comparison.scores if (found.name, found.rows) == (name, rows))


# -- paired differences --------------------------------------------------------------------------------------
def test_paired_difference_by_hand() -> None:
    """Rows in both: r1 .2 -> .5 (+.3), r2 .4 -> .5 (+.1), r5 0 -> .2 (+.2); r3 is unscored in one, r4 missing in the
    other. Mean (.3 + .1 + .2) / 3 = .2; with three rows the interval reaches from the least resample to the largest,
    +.1 to +.3. No resample is below 0, but p is that of the t test, t = .2 / (.1 / sqrt(3)) = 3.46 with 2 degrees of
    freedom: .074 two-sided. Five rows of two entities are resampled row by row."""
    a = Values({"r1": 0.2, "r2": 0.4, "r3": 0.1, "r4": 0.3, "r5": 0.0}, {"r1": "x", "r2": "y", "r5": "z"})
    b = Values({"r1": 0.5, "r2": 0.5, "r3": None, "r5": 0.2}, {})
    found = paired(a, b)
    assert found.value == pytest.approx(0.2) and found.n == 3 and found.unit == "entities"
    assert (found.low, found.high) == pytest.approx((0.1, 0.3))
    exact = scipy_stats.ttest_1samp([0.3, 0.1, 0.2], 0).pvalue
    assert exact == pytest.approx(0.0742, abs=1e-4) and found.p == pytest.approx(exact, rel=0.1)
    back = paired(b, a)
    assert (back.value, back.low, back.high) == pytest.approx((-0.2, -0.3, -0.1)) and back.p == pytest.approx(found.p)
    two = dict(zip("abcde", "xxxyy", strict=True))
    few = paired(
        Values(dict.fromkeys(two, 0.0), two), Values(dict(zip(two, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)), {})
    )
    assert (few.n, few.unit) == (5, "rows") and few.value == pytest.approx(0.3)
    assert paired(a, Values({"r3": None}, {})) is None


def test_entities_are_resampled_not_rows() -> None:
    """Five entities with four equal rows each: +0, +.1 ... +.4, mean .2. Over entities the interval reads the bootstrap
    at Phi(-+3.104), almost from the least to the largest resample: +0 and +.4 are drawn throughout in 1 of 3,125 each.
    Over rows the standard error is .1451 / sqrt(20) = .032, times t_.975(19) = 2.093 to each side."""
    rows = {f"{e}-{k}": e / 10 for e in range(5) for k in range(4)}
    zero, entities = (
        Values(dict.fromkeys(rows, 0.0), {r: r.split("-")[0] for r in rows}),
        {r: r.split("-")[0] for r in rows},
    )
    by_entity = paired(zero, Values(rows, entities))
    by_row = paired(Values(zero.values, {}), Values(rows, {}))
    assert by_entity.unit == "entities" and by_entity.value == pytest.approx(0.2)
    drawn = np.random.default_rng(0).multinomial(5, [0.2] * 5, size=1000) @ np.arange(5) / 50
    tail = scipy_stats.norm.cdf(scipy_stats.t.ppf([0.025, 0.975], 4) * math.sqrt(5 / 4))
    assert (by_entity.low, by_entity.high) == pytest.approx(tuple(np.quantile(drawn, tail)))
    assert by_entity.p == pytest.approx(2 * scipy_stats.t.sf(0.2 / (drawn.std() * math.sqrt(5 / 4)), 4))
    values = np.repeat(np.arange(5) / 10, 4)
    half = (by_row.high - by_row.low) / 2
    assert half == pytest.approx(scipy_stats.t.ppf(0.975, 19) * scipy_stats.sem(values), rel=0.08)
    assert by_entity.high - by_entity.low > 2 * 2 * half and by_row.n == by_entity.n == 20


def test_the_p_value_is_two_sided_and_at_most_one() -> None:
    """Rows +-1 in equal number: the mean is 0 and p is 1. Rows in favour of b: twice the one-sided t test, the same the
    other way round; rows of +.1 throughout do not differ, and p is twice the 1/(1 + resamples) of the bootstrap."""
    names = [f"r{i}" for i in range(12)]
    zero = Values(dict.fromkeys(names, 0.0), {})
    even = Values({name: (-1.0) ** i for i, name in enumerate(names)}, {})
    assert paired(zero, even).p == 1.0
    values = np.random.default_rng(0).normal(0.5, 1, 12)
    better = Values(dict(zip(names, values.tolist(), strict=True)), {})
    exact = scipy_stats.ttest_1samp(values, 0).pvalue
    assert 0.005 < exact < 0.9 and paired(zero, better, resamples=20000).p == pytest.approx(exact, rel=0.06)
    assert paired(better, zero).p == pytest.approx(paired(zero, better).p)
    assert paired(zero, Values(dict.fromkeys(names, 0.1), {}), resamples=200).p == pytest.approx(2 / 201)


def test_intervals_depend_on_the_seed_only() -> None:
    a, b = (Values({str(i): i % k / 7 for i in range(40)}, {}) for k in (5, 7))
    assert paired(a, b, seed=1) == paired(a, b, seed=1) != paired(a, b, seed=2)


# -- lines ---------------------------------------------------------------------------------------------------
def test_scores_are_aligned_with_direction_and_difference(two) -> None:
    result = compare(two)
    forget = line(result)
    first, second = (
        {
            r: v
            for r, v in next(
                p.values for p in load_run(run).row_values.rows if (p.role, p.rows) == ("unlearned", "forget")
            ).items()
        }
        for run in two
    )
    mean = sum(second[r] - first[r] for r in first) / len(first)
    assert forget.direction == "match" and forget.problem == "" and forget.differences[0] is None
    assert forget.differences[1].value == pytest.approx(mean) and forget.differences[1].low > 0
    assert forget.differences[1].n == 24 and forget.differences[1].unit == "entities"
    assert line(result, rows="retain").direction == "higher"
    assert [h.method for h in result.runs] == ["npo", "rmu"] and result.notes == ()


def test_samples_serve_where_rows_are_not_at_hand(two, tmp_path: Path) -> None:
    other = make(tmp_path, method="rmu", shift=0.3)
    (other / "rows.json").unlink()
    assert line(compare([two[0], other])).differences == line(compare(two)).differences
    for role in ("unlearned",):
        (other / "samples" / f"{role}.jsonl").unlink()
    assert line(compare([two[0], other])).differences == (None, None)


def test_p_values_are_adjusted_for_the_number_of_lines(two) -> None:
    """Holm over the second run's lines: sorted p times m, m - 1 ... 1, made monotone, at most 1; plain numbers, as
    json wants."""
    found = [x.differences[1] for x in compare(two).scores if x.differences[1] is not None]
    worst = 0.0
    for rank, difference in enumerate(sorted(found, key=lambda d: d.p)):
        worst = max(worst, min(1.0, difference.p * (len(found) - rank)))
        assert difference.adjusted == pytest.approx(worst) and difference.adjusted >= difference.p
        assert type(difference.p) is type(difference.adjusted) is float
    assert len(found) > 1


def test_missing_and_not_computed(two, tmp_path: Path) -> None:
    other = make(tmp_path)
    stored = json.loads((other / "scores.json").read_text())
    change(other / "scores.json", scores=[s for s in stored["scores"] if s["name"] != "privleak"])
    result = compare([two[0], other])
    assert (
        line(result, "privleak").cells[1].reason == "it was not asked for"
        and line(result, "privleak").cells[1].value is None
    )
    assert line(result, "mia_reference").cells[0].reason == "the data has no holdout rows"
    assert "not computed, because the data has no holdout rows" in result.render("text")


# -- not comparable ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"suite_version": 2}, "the version of suite people differs (1, 2)"),
        ({"suite": "tofu"}, "the suite differs (people, tofu)"),
    ],
)
def test_mismatched_suites(two, tmp_path: Path, values: dict, why: str) -> None:
    other = make(tmp_path)
    change(other / "scores.json", **values)
    result = compare([two[0], other])
    assert all(found.problem == why and not any(found.differences) for found in (*result.scores, *result.attacks))
    assert line(result).cells[1].value is not None and why in result.notes[0]
    for format in ("text", "md", "html"):
        assert "not comparable, because " in result.render(format)


def test_different_data(two, tmp_path: Path) -> None:
    other = make(tmp_path)
    change(other / "provenance.json", data={"name": "people", "sha256": "ee" * 32})
    assert line(compare([two[0], other])).problem == "the data differ"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("version", 2, "the version of the metric differs (1, 2)"),
        ("direction", "higher", "the direction differs (higher, match)"),
    ],
)
def test_mismatched_metrics(two, tmp_path: Path, field: str, value, why: str) -> None:
    other = make(tmp_path)
    stored = json.loads((other / "scores.json").read_text())
    for score in stored["scores"]:
        if (score["name"], score["rows"]) == ("rouge", "forget"):
            score[field] = value
    write_json(other / "scores.json", stored)
    result = compare([two[0], other])
    assert line(result).problem == why and line(result).differences == (None, None)
    assert line(result, rows="retain").problem == "" and line(result, rows="retain").differences[1] is not None


def test_a_p_value_over_other_rows_does_not_compare(two, tmp_path: Path) -> None:
    """Forget quality has no per-row values: with another n nothing can be said. ROUGE is paired on common rows."""
    other = make(tmp_path)
    stored = json.loads((other / "scores.json").read_text())
    for score in stored["scores"]:
        score["n"] = score["n"] and score["n"] - 1
    write_json(other / "scores.json", stored)
    result = compare([two[0], other])
    assert line(result, "forget_quality").problem == "the number of rows differs (23, 24)"
    assert line(result).problem == "" and line(result).differences[1] is not None


def test_attacks_compare_at_the_same_budgets(two, tmp_path: Path) -> None:
    result = compare(two)
    relearn = next(a for a in result.attacks if a.attack == "relearn_in_domain")
    assert (
        relearn.cells[0].value == 0.3
        and relearn.cells[0].at == {"steps": 16}
        and relearn.direction == "lower"
        and not relearn.problem
    )
    benign = next(a for a in result.attacks if a.attack == "relearn_benign")
    assert benign.cells[0].reason == "there are no benign rows to train on"
    other = make(tmp_path)
    path = other / "attacks" / "relearn_in_domain" / "curve.json"
    change(path, points=[p for p in json.loads(path.read_text())["points"] if p["budget"] != {"steps": 16}])
    found = next(a for a in compare([two[0], other]).attacks if a.attack == "relearn_in_domain")
    assert found.problem == "the budgets differ"


def test_refusals(two, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="compare.needs-two"):
        compare([two[0]])
    other = make(tmp_path, complete=False)
    assert compare([two[0], other]).notes == (f"{other.name} is not complete.",)
    (other / "scores.json").unlink()
    with pytest.raises(RecordError, match="compare.no-scores"):
        compare([two[0], other])
    with pytest.raises(SpecError, match="report.unknown-format"):
        compare(two).render("pdf")


# -- rendering -----------------------------------------------------------------------------------------------
def test_render(two) -> None:
    result = compare(two)
    text, md, html = (result.render(f) for f in ("text", "md", "html"))
    shown = f"{line(result).differences[1].value:+.3f}"
    for source in (text, md, html):
        assert (
            shown in source
            and "should match the reference" in source
            and "higher is better" in source
            and "Relearn in domain" in source
        )
    data = json.loads(result.render("json"))
    assert data == json.loads(json.dumps(result.to_json())) and data["scores"][0]["cells"][0]["value"] is not None
    assert "<script src" not in html and "http:" not in html and "https:" not in html and html.count("</script>") == 1
    assert len({len(row.split("|")) for row in md.split("## Runs")[1].split("##")[0].strip().splitlines()}) == 1


def test_hostile_names_are_escaped(two, tmp_path: Path) -> None:
    other = make(tmp_path)
    stored = json.loads((other / "scores.json").read_text())
    stored["scores"][0]["name"] = "<img src=x onerror=alert(1)>\u202e|"
    write_json(other / "scores.json", stored)
    change(other / "training.json", method="</script><script>alert(1)</script>")
    result = compare([two[0], other])
    html = result.render("html")
    assert (
        "<img" not in html
        and html.count("<script") == 1
        and "\u202e" not in html + result.render("text") + result.render("md")
    )
    assert "<img" not in result.render("md")
