"""The report: its order, its words, and what every number says beside itself."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from made_up_run import make
from page import Page

from efface.errors import RecordError, SpecError
from efface.report import render, text
from efface.report.build import build
from efface.runs.files import write_json
from efface.runs.record import load_run

ORDER = ["asked", "answer", "examples", "scores", "attacks", "damage", "cost", "provenance", "again", "limits"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def change(path: Path, **values) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


# -- shape ---------------------------------------------------------------------------------------------------
def test_order_of_the_parts(made: Path) -> None:
    assert Page(render(made)).sections == ORDER
    headings = re.findall(r"^## (.+)$", render(made, "md"), re.M)
    assert headings == re.findall(r"<h2>(.+?)</h2>", render(made)) and len(headings) == 10


def test_self_contained_and_without_script(made: Path) -> None:
    page = Page(render(made))
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "form", "input", "audio", "video", "base")
        assert not any(name.startswith("on") for name in attributes)
        assert "src" not in attributes and attributes.get("href", "#").startswith("#")
        if tag == "script":
            assert attributes["type"] == "application/json"
    source = render(made)
    assert "url(" not in source and "@import" not in source and "http:" not in source and "https:" not in source
    assert "default-src 'none'" in source and "@media print" in source and "prefers-color-scheme: dark" in source


def test_every_identifier_is_unique_and_every_link_has_its_place(made: Path) -> None:
    page = Page(render(made))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for _, a in page.tags if "href" in a} <= set(ids)
    assert {i for _, a in page.tags for i in a.get("aria-labelledby", "").split()} <= set(ids)


def test_reports_of_a_run_are_the_same_each_time(made: Path) -> None:
    """Rendered within the run, before its end; rendered again from the complete run; and from a copy elsewhere."""
    assert (made / "report.html").read_text() == render(made) == render(made)
    assert (made / "report.md").read_text() == render(made, "md")


def test_embedded_record_is_the_record(made: Path) -> None:
    raw = json.loads(Page(render(made)).record)
    stored = json.loads((made / "scores.json").read_text())
    assert [(s["name"], s["value"]) for s in raw["scores"]["scores"]] == [
        (s["name"], s["value"]) for s in stored["scores"]
    ]
    assert raw["conclusion"]["label"] == "concealed" and len(raw["curves"]) == 5
    assert "request" not in raw and "Ilvane" not in json.dumps(raw)


def test_words_that_promise_too_much_are_not_used(made: Path) -> None:
    for source in (render(made), render(made, "md")):
        assert not re.search(
            r"complian|certif|guarante|\bpass(ed)?\b|\bfail(ed)?\b|100\s?%", source.split("</style>")[-1], re.I
        )


def test_unknown_format(made: Path) -> None:
    with pytest.raises(SpecError, match="report.unknown-format"):
        render(made, "pdf")
    assert json.loads(render(made, "json"))["title"] == "Unlearning smollm2-135m with npo"


# -- content -------------------------------------------------------------------------------------------------
def test_answer_with_its_limits_comes_before_the_numbers(made: Path) -> None:
    words = Page(render(made)).words
    stored = json.loads((made / "conclusion.json").read_text())
    for sentence in (*stored["sentences"], *stored["limits"]):
        assert " ".join(sentence.split()) in words
    assert words.index("Within these limits") < words.index("Scores on what was to be forgotten")
    assert words.count(stored["power"]) == 1  # it is the third sentence already


def test_every_score_says_which_way_is_good(made: Path) -> None:
    report = build(load_run(made))
    forget = {line.title: line for line in report.scores[0].lines}
    reference = next(
        s for s in load_run(made).scores.scores if (s.role, s.name, s.rows) == ("reference", "rouge", "forget")
    )
    assert forget["ROUGE-L recall"].good == f"should match the reference: {reference.value:.3f}"
    assert forget["Forget quality"].good == "higher is better"
    assert text.direction("lower", None) == "lower is better"
    assert text.direction("match", None) == "should match the reference (there is none)"
    for group in (*report.scores, *report.damage):
        for line in group.lines:
            assert line.good in render(made)


def test_what_was_not_computed_says_why_and_is_never_a_number(made: Path) -> None:
    report = build(load_run(made))
    line = next(line for line in report.scores[0].lines if line.title.startswith("Membership, against"))
    assert (
        all(cell.reason == "the data has no holdout rows" and not cell.value for cell in line.cells)
        and line.picture == ()
    )
    assert "not computed, because the data has no holdout rows" in Page(render(made)).words
    assert any("not computed, because the data has no holdout rows" in item for item in report.not_shown)
    assert not re.search(r"\b(None|nan|null|Undefined)\b", Page(render(made)).words)


def test_unscored_rows_are_counted(made: Path) -> None:
    retain = next(g for g in build(load_run(made)).damage if g.title == "Retain set")
    assert retain.lines[0].cells[1].note == "1 of 25 rows not scored"


def test_damage_is_paired_by_row(made: Path) -> None:
    run = load_run(made)
    group = next(g for g in build(run).damage if g.title == "Neighbours")
    values = {v.role: v.values for v in run.row_values.rows if v.rows == "neighbour"}
    mean = sum(values["unlearned"][r] - values["target"][r] for r in values["target"]) / len(values["target"])
    rouge, probability = (
        next(line for line in group.lines if line.title == t) for t in ("ROUGE-L recall", "Answer probability")
    )
    assert rouge.change.value == text.signed(mean) and rouge.change.range.count("−") == 2
    assert probability.change.range == "" and "rows are not kept" in probability.change.note


def test_attack_in_words(made: Path) -> None:
    """The interval comes from the finding (0.30, 0.21 to 0.39, p 0.004), without one from the curve's own excess."""
    by_title = {view.title: view for view in build(load_run(made)).attacks}
    assert by_title["Relearn in domain"].sentences[0] == (
        "At 16 steps, answer probability was 0.300 above the reference's under the same attack "
        "(95% interval +0.210 to +0.390; p = 0.004 after correcting for every attack)."
    )
    assert by_title["Round weights"].sentences[0] == (
        "At 4 bits, answer probability was 0.200 above the reference's under the same attack "
        "(95% interval +0.110 to +0.290)."
    )
    assert (
        by_title["Round weights"].sentences[1]
        == "The unlearned model reached at most 0.310, at 4 bits; without an attack it is at 0.160."
    )
    assert (
        by_title["Relearn benign"].reason == "there are no benign rows to train on"
        and not by_title["Relearn benign"].plots
    )
    assert by_title["Relearn in domain"].rows[1] == (
        "1 step",
        "0.240 (0.180 to 0.300)",
        "0.140 (0.080 to 0.200)",
        "label tokens 96",
    )


def test_the_whole_curve_and_its_price_in_words(copy: Path) -> None:
    """Highest at 16 steps, the fourth attacked point: 5 x 0.4 s, 4 x 2.5 s, 96 x 16 label tokens."""
    path = copy / "attacks" / "relearn_in_domain" / "curve.json"
    points = json.loads(path.read_text())["points"]
    for point in points:
        if point["budget"]["steps"]:
            point |= {"measuring_seconds": 2.5, "bits": 320.0, "this_try": 0.5}
            point["supplied"]["trained_parameters"] = 10
    gap = {"value": 0.21, "low": 0.12, "high": 0.3}
    change(path, points=points, area=0.45, area_excess=gap, rec={"value": 0.6026, "at": {"steps": 16}})
    view = next(v for v in build(load_run(copy)).attacks if v.title == "Relearn in domain")
    assert view.sentences[1:] == (
        "Over the whole curve, from no attack to the strongest, answer probability was on average 0.210 above the "
        "reference's (95% interval +0.120 to +0.300).",
        "The unlearned model reached at most 0.630, at 16 steps; without an attack it is at 0.160.",
        "That is 60% of the way from the unlearned model back to the one before; the reference may rise too, so only "
        "what lies above it is a residue.",
        "Price of reaching it: 2.0 s of computing, 10 s of asking the model, 1,536 tokens of answers to learn from, "
        "10 parameters trained, 320 bits put in at most.",
        "An attacker who keeps the best of all tries has this; the last try alone gave 0.500 on average.",
    )
    change(path, rec={"value": -0.1, "at": {"steps": 16}})
    assert "brought back nothing" in " ".join(build(load_run(copy)).attacks[0].sentences)


def test_an_attack_without_its_control_has_no_excess(copy: Path) -> None:
    path = copy / "attacks" / "round_weights" / "curve.json"
    curve = json.loads(path.read_text())
    change(
        path,
        points=[p for p in curve["points"] if p["role"] == "unlearned"],
        excess=None,
        partial=True,
        reason="there is no reference model as a control",
    )
    view = next(v for v in build(load_run(copy)).attacks if v.title == "Round weights")
    assert view.sentences[0] == (
        "Excess over the reference: not computed, because there is no reference model as a control."
    )
    assert "This attack did not run to its end." in Page(render(copy)).words


def test_examples_are_chosen_by_rule(made: Path) -> None:
    """The three forget rows with the highest unlearned ROUGE come first, whatever they look like."""
    run = load_run(made)
    forget = [s for s in run.samples("unlearned") if s.set == "forget"]
    worst = [s.row for s in sorted(forget, key=lambda s: -s.scores["rouge"])[:3]]
    report = build(run)
    assert [e.row for e in report.examples[0].examples[:3]] == worst and len(report.examples[0].examples) == 6
    assert [g.title for g in report.examples] == ["Forget set", "Retain set", "Neighbours", "World facts"]
    first = report.examples[0].examples[0]
    assert first.said[0].text == first.gold and "ROUGE-L" in first.said[1].scores and "by rule" in report.examples_note


def test_hidden_texts_do_not_appear(tmp_path: Path) -> None:
    path = make(tmp_path, keep_text=False)
    words = Page(render(path)).words
    forget = words[words.index("Forget set Question") : words.index("Retain set Question")]
    assert "Torrick" not in forget and "Vallmora" not in forget and "Hmac-sha256:" in forget
    assert "24 rows about 6 entities" in words and "6 entities: " not in words
    assert "is not kept in this record" in words and "is not kept in this record" in render(path, "md")


def test_reproduction_and_limits(made: Path) -> None:
    report = build(load_run(made))
    assert report.commands == ("efface demo", f"efface unlearn {made.name}/spec.yaml", f"efface verify {made.name}")
    everything = " ".join(report.not_shown)
    for word in ("seed", "wordings", "attacks", "back-ups", "legal opinion"):
        assert word in everything


def test_cost_counts_interruptions(copy: Path) -> None:
    with open(copy / "events.jsonl", "a") as handle:
        handle.write('{"event": "stage-started", "stage": "unlearn", "time": "", "x": 1}\n')
    facts = {f.label: f.value for f in build(load_run(copy)).cost.facts}
    assert facts["Interrupted"].startswith("1 times") and facts["Unlearning time"] == "1 min 01 s"
    assert facts["Share of them that moved"] == "87.4%" and facts["Learning rate"] == "0.0001"


def test_model_paths_are_cut_to_their_last_part(copy: Path) -> None:
    spec = (copy / "spec.yaml").read_text().replace("name: smollm2-135m", "name: /home/jane/models/SmolLM2")
    (copy / "spec.yaml").write_text(spec)
    assert "Unlearning SmolLM2 with npo" in render(copy) and "jane" not in render(copy)


def test_paths_that_the_user_set_are_cut_to_their_last_part(copy: Path) -> None:
    """Requests, folders and files lie on somebody's machine; other settings stay as they are."""
    spec = (copy / "spec.yaml").read_text()
    values = yaml.safe_load(spec)
    values["spec"]["request"] = "/home/jane/cases/request.json"
    values["spec"]["target"] = {"path": "../Jane Doe/my-model", "kind": "folder"}
    values["spec"]["data"] = {"settings": {"files": ["C:\\Users\\jane\\rows.csv"]}}
    values["spec"]["method"]["settings"] = {"beta": 0.1, "corpus": "~jane/corpus.jsonl"}
    values["spec"]["model"]["template"] = "{question} / answer"
    paths = ("request", "target.path", "data.settings.files", "model.template", "target.kind")
    values["origins"] = dict.fromkeys(paths, "user --set")
    (copy / "spec.yaml").write_text(yaml.safe_dump(values))
    facts = {f.label: f.value for f in build(load_run(copy)).asked}
    told = facts["Set by the user"]
    assert "request = request.json" in told and "target.path = my-model" in told and "rows.csv" in told
    assert "{question} / answer" in told and "target.kind = folder" in told and "corpus.jsonl" in facts["Method"]
    assert not any(name in render(copy).lower() for name in ("jane", "cases"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("training.json", lambda data: data.update(stages={"unlearn": "Infinity"}, seconds="Infinity")),
        ("training.json", lambda data: data["history"][0].update(step="many", forget_nll="Infinity")),
        ("conclusion.json", lambda data: [f["evidence"].update(low="none", high=[]) for f in data["findings"]]),
        ("conclusion.json", lambda data: [f.update(evidence={"value": "much"}) for f in data["findings"]]),
        ("attacks/relearn_in_domain/curve.json", lambda data: data["points"][1].update(value="Infinity")),
    ],
)
def test_numbers_that_are_none_end_nothing(copy: Path, name: str, change) -> None:
    data = json.loads((copy / name).read_text())
    change(data)
    write_json(copy / name, data)
    assert all(render(copy, kind) for kind in ("html", "md"))


def test_events_may_hold_anything(copy: Path) -> None:
    (copy / "training.json").unlink()
    with open(copy / "events.jsonl", "a") as handle:
        handle.write('{"event": "stage-done", "stage": "odd", "seconds": "long", "cpu_seconds": [], "memory": 3}\n')
    assert "Odd" in render(copy)


@pytest.mark.parametrize("digits", ["9" * 400, "1e999", "9" * 5000])
def test_a_number_too_large_is_refused_by_the_name_of_its_file(copy: Path, digits: str) -> None:
    text = (copy / "training.json").read_text()
    (copy / "training.json").write_text(text.replace('"step": 1,', f'"step": {digits},', 1))
    with pytest.raises(RecordError, match=r"record\.bad-file.*training\.json"):
        render(copy)
