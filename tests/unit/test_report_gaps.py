"""The report of an unfinished, failed or hostile run: what is missing is said, what is foreign is escaped."""

from __future__ import annotations

import html as entities
import json
import re
import shutil
from pathlib import Path

import pytest
from made_up_run import make
from page import Page

from efface.report import markdown, render, text
from efface.report.build import build
from efface.runs.files import write_json
from efface.runs.record import load_run

ORDER = ["asked", "answer", "examples", "scores", "attacks", "damage", "cost", "provenance", "again", "limits"]
BAD = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> javascript:alert(3) \u202eevil\u202c\u2066x\u200b\ud800"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def change(path: Path, **values) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


# -- what is missing -----------------------------------------------------------------------------------------
def test_a_run_with_nothing_yet(tmp_path: Path) -> None:
    from efface.runs.layout import RunDir

    run = RunDir.create(tmp_path, method="npo", model="tiny", spec_hash="0" * 64, date="2026-09-14")
    words = Page(render(run.path)).words
    assert Page(render(run.path)).sections == ORDER
    for sentence in (
        "This run did not finish.",
        "No conclusion was reached.",
        "No answers were recorded.",
        "No scores were recorded.",
        "No attack was run.",
        "Nothing beside the forget set was measured.",
    ):
        assert sentence in words and sentence in render(run.path, "md")


def test_a_failed_run_says_so_first(copy: Path) -> None:
    change(
        copy / "status.json",
        state="failed",
        stage="audit",
        error={"code": "train.non-finite", "cause": "step 3 gave NaN", "fix": ""},
    )
    page = Page(render(copy)).words
    assert page.index("This run failed in stage audit: step 3 gave NaN [train.non-finite]") < page.index(
        "What was asked Request"
    )


def test_without_a_reference(tmp_path: Path) -> None:
    path = make(tmp_path, roles=("target", "unlearned"), attacks=False)
    report = build(load_run(path))
    assert report.roles == ("target", "unlearned") and "Never saw it" not in Page(render(path)).words
    assert any("there is no reference model" in item for item in report.not_shown)
    assert report.scores[0].lines[0].good == "should match the reference (there is none)"
    assert any(item.startswith("Whether an attack") for item in report.not_shown)


def test_an_audit_of_a_foreign_model(copy: Path) -> None:
    change(copy / "training.json", method="", steps=None, seconds=None, history=[])
    report = build(load_run(copy))
    assert report.title == "Audit of smollm2-135m" and report.cost.plot is None
    assert any(c.startswith("efface audit <folder") for c in report.commands)


# -- escaping ------------------------------------------------------------------------------------------------
def test_everything_from_outside_is_escaped(copy: Path) -> None:
    """Hostile text in every place that a model, a data set or a stranger's record can fill."""

    def fill(value):
        if isinstance(value, dict):
            return {k: fill(v) if k not in KEPT else v for k, v in value.items()}
        if isinstance(value, list):
            return [fill(v) for v in value]
        return BAD if isinstance(value, str) else value

    KEPT = {"schema", "role", "direction", "label", "state", "sha256", "event", "stage", "spec_hash"}
    for path in (p for p in copy.rglob("*.json") if p.name != "manifest.json"):
        write_json(path, fill(json.loads(path.read_text())))
    for path in (copy / "samples").glob("*.jsonl"):
        lines = [{**fill(json.loads(line)), "row": json.loads(line)["row"]} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = (
        (copy / "spec.yaml").read_text().replace("name: smollm2-135m", "name: " + json.dumps(BAD.replace("\ud800", "")))
    )
    (copy / "spec.yaml").write_text(spec)
    source = render(copy)
    source.encode("utf-8")
    page = Page(source)
    assert [a.get("type") for t, a in page.tags if t == "script"] == ["application/json"] and "img" not in [
        t for t, _ in page.tags
    ]
    assert not any(
        n.startswith("on") or str(v).strip().startswith("javascript:") for _, a in page.tags for n, v in a.items()
    )
    assert page.sections == ORDER and "alert(1)" in page.words and json.loads(page.record)["schema"] == 1
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\ud800-\udfff]", source) and "⟨U+202E⟩" in page.words
    source = render(copy, "md")
    fenced = re.search(r"```\n(.*?)\n```", source, re.S)
    assert len(fenced[1].splitlines()) == 3  # the commands, literal text in a fence that they cannot close
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", source)
    assert not re.search(r"(?<!\\)<", source.replace(fenced[0], ""))


def test_record_cannot_end_its_element(copy: Path) -> None:
    change(copy / "conclusion.json", power="</script><script>alert(1)</script><!--")
    source = render(copy)
    assert source.count("</script>") == 1 and source.count("<script") == 1
    assert json.loads(Page(source).record)["conclusion"]["power"] == "</script><script>alert(1)</script><!--"


def test_markdown_is_left_as_it_is() -> None:
    assert markdown.escape("a|b `c` *d* <e> [f](g)") == r"a\|b \`c\` \*d\* \<e\> \[f\](g)"
    assert markdown.escape("# not a heading\n- nor a list") == r"\# not a heading - nor a list"
    assert [markdown.escape(t) for t in ("- a", "1. a", "2) a", "-0.3", "0.948")] == [
        r"\- a",
        r"1\. a",
        r"2\) a",
        "-0.3",
        "0.948",
    ]
    assert len(markdown.table(("a",), [("x\ny|z",)])) == 4


def test_visible() -> None:
    assert text.visible("a\u202eb\u0000c\nd") == "a⟨U+202E⟩b⟨U+0000⟩c d"
    assert text.visible("می‌خواهم") == "می‌خواهم" and text.visible("日本語 ß é") == "日本語 ß é"
    assert text.visible("x" * 20, 5) == "xxxxx … (15 more characters)"


def test_entities_are_not_doubled(made: Path) -> None:
    """ "Harrow & Pike" reads as itself: escaped once, not twice."""
    assert "Harrow &amp; Pike" in render(made) and "&amp;amp;" not in render(made)
    assert entities.unescape("Harrow &amp; Pike") in Page(render(made)).words
