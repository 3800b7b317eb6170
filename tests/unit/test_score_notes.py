"""What stands beside a score: one sentence per family, by hand, and nothing that can harm a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_up_run import make
from page import Page

from efface.cli.summary import summary, summary_text
from efface.metrics.base import METRICS
from efface.report import render
from efface.report.build import build
from efface.report.score_notes import NOTES, joined, note, numbers, power, teller
from efface.report.scores import NoteLine, curve, heading
from efface.runs.files import write_json
from efface.runs.record import load_run
from efface.runs.results import ScoreRow

BAD = "<img src=x onerror=alert(1)> | `**{}`\n\u202e"


def told(name: str, value: float | None = 0.5, n: int = 20, **extra) -> str:
    return note(ScoreRow(role="unlearned", name=name, rows="forget", value=value, n=n, extra=extra))


# -- by hand -------------------------------------------------------------------------------------------------
KS = {"log10_floor": -10.838, "n_reference": 20, "detectable": 0.45}


def test_forget_quality_says_p_floor_side_and_power() -> None:
    """10**-2 = 0.01; 20 against 20 rows give 2 / C(40, 20) = 1.45e-11, log10 -10.838, at the least."""
    assert told("forget_quality", 0.01, log10_p=-2.0, shift="below", **KS) == (
        "p = 0.010; log10 p = −2.000 (the least that 20 against 20 rows can give: −10.8); "
        "r lies below the reference's: still knows; a KS distance under 0.450 would be missed"
    )
    assert "r lies above the reference's: over-forgotten" in told("forget_quality", log10_p=-2.0, shift="above", **KS)


def test_a_shift_that_the_test_does_not_see_is_not_called_knowledge() -> None:
    text = told("forget_quality", 0.5, log10_p=-0.301, shift="below", **KS)
    assert "r leans below the reference's (still knows), by less than these rows can tell" in text
    assert "r l" not in told("forget_quality", 1.0, log10_p=0.0, shift="none", **KS)


def test_p_values_that_underflow_and_rows_that_can_tell_nothing() -> None:
    assert told("forget_quality", 0.0, log10_p=-412.5).startswith("p under 10⁻³⁰⁰; log10 p = −412.5")
    text = told("forget_quality", 1.0, n=2, log10_p=0.0, log10_floor=-0.477, n_reference=2, detectable=1.0)
    assert text.endswith("so few rows can tell nothing apart at 5%") and "would be missed" not in text


def test_fade_says_both_ways_and_its_place() -> None:
    assert told("fade", forward=12.0, reverse=3.5, error=0.25, floor=5.0, anchor=30.0, normalised=0.4, power=True) == (
        "forward 12 (what the reference says and the model does not), reverse 3.500 (the other way round), "
        "standard error 0.250; normalised 0.400 (seed noise 5.000, the target 30)"
    )
    text = told(
        "fade_exact", forward=1.0, normalised=None, why_not_normalised="no power: too near", power=False, floor=5.0
    )
    assert text.endswith("not normalised, because no power: too near (seed noise 5.000)")
    assert told("fade", note="the reference held against itself") == "the reference held against itself"


def test_cka_says_floor_ceiling_and_its_place() -> None:
    extra = {"floor": 0.0, "ceiling": 0.86, "normalised": 0.5, "layers": [1, 2], "curve": [0.9, 0.1]}
    assert told("cka_reference", **extra) == "floor 0 (rows shuffled), ceiling 0.860 (two references), normalised 0.500"
    assert told("cka_target", floor=0.01) == "floor 0.010 (rows shuffled)"


@pytest.mark.parametrize("name", ["linear_probe", "knn_accuracy", "attribute_probe"])
def test_probes_say_their_control(name: str) -> None:
    assert told(name, control=0.12, chance=0.1, best=0.9, best_control=0.2) == (
        "control 0.120 (labels shuffled), guessing gives 0.100, best layer 0.900, its control 0.200"
    )


MIA = {"tpr_at_1": 0.05, "tpr_at_1_low": 0.0, "tpr_at_1_high": 0.14, "tpr_at_10": 0.2, "auc_reference": 0.51}


def test_membership_says_hits_controls_and_power() -> None:
    assert told("mia_loss", auc_base=0.5, shifted=False, detectable=0.12, **MIA) == (
        "the reference is at 0.510, the base model at 0.500; "
        "share recognised 0.050 (0 to 0.140) at 1% false alarms, 0.200 at 10% false alarms; "
        "a difference in AUC to the reference under 0.120 would be missed"
    )


@pytest.mark.parametrize("name", ["mia_loss", "mia_min_k_compat", "lume_mia", "somebody_elses"])
def test_an_invalid_pair_says_so_first(name: str) -> None:
    assert told(name, auc_base=0.72, shifted=True).startswith(
        "this pair of sets is invalid: it differs by itself (the base model, trained on neither, is at 0.720), "
        "and the number says nothing about membership"
    )
    assert "invalid" not in told(name, shifted=False) + told(name, shifted="yes")


def test_privleak_says_the_areas_behind_it() -> None:
    extra = {"auc": 0.6, "auc_reference": 0.5, "difference": 0.1, "rel_diff": 20.0, "detectable_difference": 0.3}
    assert told("privleak", **extra) == (
        "AUC 0.600, the reference's 0.500, difference 0.100, relative difference 20 percent; "
        "a difference in AUC under 0.300 would be missed"
    )
    assert "one half was assumed" in told("privleak_compat", auc=0.6, auc_reference=0.5, reference_assumed=True)
    assert told("mia_worst", attack="mia_zlib", gaps={"mia_zlib": 0.2}) == "by mia zlib; gaps: mia zlib 0.200"


@pytest.mark.parametrize(
    "name", ["model_utility", "model_utility_compat", "agl", "agr", "h_lr", "ut_avg", "lume_final"]
)
def test_what_is_made_of_parts_shows_them(name: str) -> None:
    assert told(name, parts={"retain.truth_ratio": 0.4, "cka": 1.0}) == "parts: retain truth ratio 0.400, cka 1.000"


def test_long_lists_are_cut_and_what_is_no_number_is_left_out() -> None:
    assert numbers({"parts": {str(k): 0.5 for k in range(20)}}).endswith("15 0.500 and 4 more")
    assert numbers({"parts": {"a": "many", "b": None, "c": True, "d": float("inf")}}) == numbers({"parts": 3}) == ""


@pytest.mark.parametrize(
    ("name", "extra", "text"),
    [
        (
            "avg_gap",
            {"retain_accuracy": 0.1, "mia_confidence": 0.2},
            "gaps: retain accuracy 0.100, mia confidence 0.200",
        ),
        (
            "mia_confidence",
            {"attack_accuracy": 0.5},
            "the attack tells trained from unseen rows with accuracy 0.500; 0.5 sees nothing",
        ),
        (
            "fingerprint_loss_retain",
            {"separation": 0.9, "found": 0.5},
            "either way 0.900, share of the forget rows among the strangest 0.500",
        ),
        ("concept_cosine", {"concepts": 3, "layer_cosine": 0.99}, "3 concepts, cosine of whole blocks 0.990"),
        ("harness:some_task", {"metric": "acc", "reported": 0.25}, "the harness reports 0.250 (acc)"),
        ("lens_rank_mlp", {"first": 0.5}, "first token alone 0.500"),
        ("rouge", {"empty": 0.0, "chance": 0.25}, "guessing gives 0.250"),
        ("rouge", {"empty": 0.5}, "share of empty answers 0.500"),
        ("entailment", {"proxy": 1.0}, "judged by words, not by an entailment model"),
        ("rwku_forget", {"levels": {"forget": 0.1}, "styles": {}}, "levels: forget 0.100"),
        (
            "lume_final",
            {"floor": 0.4, "below_floor": True},
            "floor 0.400; below the floor under which it does not count",
        ),
    ],
)
def test_further_families(name: str, extra: dict, text: str) -> None:
    assert told(name, **extra) == text


def test_every_score_with_power_says_what_would_be_missed() -> None:
    assert told("probability", detectable=0.19) == "a difference to the reference under 0.190 would be missed"
    assert told("somebody_elses", detectable=0.19, interval_over="rows") == (
        "a difference to the reference under 0.190 would be missed; interval over rows"
    )
    assert told("probability", interval_over="entities") == "" and power({"detectable": "x"}) == ""
    for item in ("mia_loss", "forget_quality"):
        assert told(item, log10_p=-2.0, detectable=0.2).count("would be missed") == 1


def test_what_was_not_computed_has_no_note() -> None:
    assert told("mia_loss", None, shifted=True, detectable=0.1) == "" and joined("", "") == ""


@pytest.mark.parametrize("value", [BAD, None, [], {}, True, 10**400, float("nan"), [1, "x"], {"a": {"b": 1}}])
def test_values_of_any_kind_end_nothing(value) -> None:
    """Every key that a note reads holds something it cannot use."""
    keys = set(
        "chance empty cut proxy judge note parts terms gaps floor ceiling normalised control forward shift".split()
    )
    keys |= set(
        "log10_p log10_floor n_reference detectable shifted auc auc_base tpr_at_1 attack metric reported".split()
    )
    for name in (*NOTES, "rouge", "mia_loss", "harness:x", "concept_cosine", "fingerprint_a_b"):
        text = told(name, **dict.fromkeys(keys, value))
        assert "\u202e" not in text and "\n" not in text and "nan" not in text


def test_every_noted_metric_is_one_of_ours() -> None:
    known = {name for name, _ in METRICS.items()}
    assert {name for name in NOTES if name not in known | {"rel_diff"}} == set()
    assert teller("privleak_compat") is teller("privleak")


# -- forms ---------------------------------------------------------------------------------------------------
def test_compatibility_forms_are_marked() -> None:
    assert heading("forget_quality_compat") == "Forget quality (common harness form)"
    assert heading("cka_reference_compat") == "Likeness to the reference (released form)"
    assert heading("forget_quality") == "Forget quality"


def test_every_card_of_the_common_harness_is_marked() -> None:
    for name, item in METRICS.items():
        assert ("(common harness)" in item.card.title) <= ("common harness form" in heading(name)), name


# -- in the report -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


def noted(made: Path, folder: Path, extras: dict[str, dict]) -> Path:
    """A copy of the run whose scores carry ``extras`` by metric; a metric that is not there is added."""
    path = Path(shutil.copytree(made, folder / made.name))
    data = json.loads((path / "scores.json").read_text())
    known = {s["name"] for s in data["scores"]}
    like = [s for s in data["scores"] if s["name"] == "forget_quality"]
    data["scores"] += [{**s, "name": name} for name in extras if name not in known for s in like]
    data["scores"] = [{**s, "extra": extras.get(s["name"], {})} for s in data["scores"]]
    write_json(path / "scores.json", data)
    return path


def test_notes_stand_below_their_measure_in_both_formats(made: Path, tmp_path: Path) -> None:
    extras = {
        "forget_quality": {"log10_p": -2.0, **KS},
        "mia_loss": {"shifted": True, **MIA},
        "rouge": {"detectable": 0.2, "interval_over": "rows"},
    }
    path = noted(made, tmp_path, extras)
    page, plain = Page(render(path)).words, render(path, "md")
    for text in (
        "the least that 24 against 20 rows can give: −10.8",
        "this pair of sets is invalid",
        "under 0.200 would",
    ):
        assert text in page and text in plain
    report = build(load_run(path))
    assert report.scores[0].note.endswith("; intervals over rows, for want of entities, are too narrow")
    lines = report.scores[0].lines
    place = next(k for k, line in enumerate(lines) if line.title == "Forget quality")
    assert isinstance(lines[place + 1], NoteLine) and lines[place + 1].title.startswith("After: p = 0.010;")
    rows = [line for line in plain.splitlines() if line.startswith("|")]
    assert all(row.count(" |") >= 5 for row in rows if "would be missed" in row)  # as many cells as the table has


def test_a_curve_is_drawn_and_listed(made: Path, tmp_path: Path) -> None:
    extra = {"layers": [1, 2, 3], "curve": [1.0, 0.98, -0.09], "ceiling_curve": [0.9, 0.9, 0.8], "floor": 0.0}
    path = noted(made, tmp_path, {"cka_reference": extra})
    source = render(path)
    assert "After, by layer: 1: 1.000, 2: 0.980, 3: −0.090." in Page(source).words
    assert "Likeness to the reference, by layer</title>" in source and ">ceiling</text>" in source
    ids = [a["id"] for _, a in Page(source).tags if "id" in a]
    assert len(ids) == len(set(ids)) and "1: 1.000, 2: 0.980" in render(path, "md")
    assert json.loads(render(path, "json"))["scores"]


@pytest.mark.parametrize(
    "extra",
    [
        {"curve": 3},
        {"curve": []},
        {"curve": [1.0]},
        {"curve": ["x", None]},
        {"curve": [1.0] * 500},
        {"curve": [1e9, 1e12]},
    ],
)
def test_what_is_no_curve_draws_nothing(extra: dict) -> None:
    assert curve(ScoreRow(role="unlearned", name="x", rows="forget", value=1.0, extra=extra)) == {}


def test_layers_without_names_count_from_one() -> None:
    row = ScoreRow(
        role="unlearned", name="x", rows="forget", value=1.0, extra={"layers": [2], "curve": [0.5, None, 0.25]}
    )
    assert curve(row) == {1: 0.5, 3: 0.25}


def test_hostile_names_are_escaped(made: Path, tmp_path: Path) -> None:
    extras = {
        "forget_quality": {"parts": {BAD: 0.5}, "log10_p": -2.0, "shift": BAD},
        "rouge": {"parts": {BAD: 0.5}, "judge": BAD, "note": BAD},
        "mia_worst": {"attack": BAD, "gaps": {BAD: 0.1}},
        "fade": {"forward": 1.0, "normalised": None, "why_not_normalised": BAD},
        "harness:x": {"metric": BAD, "reported": 0.5},
    }
    path = noted(made, tmp_path, extras)
    page = Page(render(path))
    assert not any(tag == "img" for tag, _ in page.tags) and "<img src=x" in page.words
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    plain = render(path, "md")
    assert "<img" not in plain.replace("\\<", "") and "\u202e" not in plain and "\\<img src=x" in plain


def test_forms_are_told_in_one_sentence(made: Path, tmp_path: Path) -> None:
    path = noted(made, tmp_path, {"forget_quality_compat": {}})
    facts = {fact.label: fact.value for fact in build(load_run(path)).asked}
    assert "corrected form" in facts["Forms of the measures"] and "common harness" in facts["Forms of the measures"]
    assert "Forget quality (common harness form)" in Page(render(path)).words


def test_the_table_at_the_end_of_a_run_says_floor_and_invalid_pairs(made: Path, tmp_path: Path) -> None:
    path = noted(made, tmp_path, {"forget_quality": {"log10_p": -2.0, **KS}, "mia_loss": {"shifted": True}})
    data = summary(path)
    assert [line.split(":")[0] for line in data["notes"]] == ["forget_quality on forget", "mia_loss on forget"]
    assert "this pair of sets is invalid" in summary_text(data) and summary(made)["notes"] == []
