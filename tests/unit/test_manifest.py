"""The manifest finds every change; loading a run refuses what is hostile or broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_up_run import make

from efface.errors import RecordError
from efface.runs import manifest
from efface.runs.files import write_json
from efface.runs.record import load_run

NAMES = [
    "attacks/relearn_in_domain/curve.json",
    "conclusion.json",
    "events.jsonl",
    "provenance.json",
    "report.html",
    "report.md",
    "request.json",
    "rows.json",
    "samples/unlearned.jsonl",
    "scores.json",
    "spec.yaml",
    "status.json",
    "training.json",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def test_an_untouched_run_verifies(copy: Path) -> None:
    assert manifest.verify(copy) == []
    assert manifest.count(copy) == len([p for p in copy.rglob("*") if p.is_file()]) - 1
    assert len(manifest.digest(copy)) == 64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["one byte", "longer", "removed", "link"])
def test_every_change_is_named(copy: Path, name: str, how: str) -> None:
    path = copy / name
    data = bytearray(path.read_bytes())
    if how == "one byte":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "longer":
        path.write_bytes(bytes(data) + b" ")
    else:
        path.unlink()
        if how == "link":
            path.symlink_to("/etc/hostname")
    found = manifest.verify(copy)
    kind = {"one byte": "changed", "longer": "changed", "removed": "missing", "link": "link"}[how]
    assert [(f.kind, f.file) for f in found] == [(kind, name)]


def test_added_files_and_linked_folders_are_named(copy: Path, tmp_path: Path) -> None:
    (copy / "attacks" / "extra").mkdir()
    (copy / "attacks" / "extra" / "curve.json").write_text("{}")
    (copy / "elsewhere").symlink_to(tmp_path)
    assert {(f.kind, f.file) for f in manifest.verify(copy)} == {
        ("extra", "attacks/extra/curve.json"),
        ("extra", "elsewhere"),
    }


def test_without_a_manifest_a_run_is_incomplete(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    assert [f.kind for f in manifest.verify(copy)] == ["incomplete"]
    with pytest.raises(RecordError, match="record.missing"):
        manifest.verify(copy / "nowhere")


def test_a_hostile_manifest_reads_nothing_outside(copy: Path) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    data = json.loads((copy / "manifest.json").read_text())
    write_json(copy / "manifest.json", {**data, "files": {**data["files"], "../../secret": entry}})
    assert [(f.kind, f.file) for f in manifest.verify(copy)] == [("bad", "../../secret")]
    with pytest.raises(RecordError, match="record.bad-name"):
        load_run(copy)
    write_json(copy / "manifest.json", {**data, "files": {"a": {"sha256": "xyz", "size": 1}}})
    assert [f.kind for f in manifest.verify(copy)] == ["bad"]


# -- loading -------------------------------------------------------------------------------------------------
def test_load_run(made: Path) -> None:
    run = load_run(made)
    assert run.complete and run.status.state == "complete" and run.name == made.name
    assert run.spec["method"]["settings"] == {"beta": 0.1} and run.origins["method.settings.beta"] == "user --set"
    assert run.scores.suite == "people" and run.conclusion.label == "concealed" and run.provenance.git.dirty
    assert [c.attack for c in run.curves].count("round_weights") == 3
    assert run.curves[1].attack == "relearn_in_domain" and run.curves[1].points[0].budget == {"steps": 0}
    assert len(run.samples("unlearned")) == 24 * 3 + 20 and run.samples("base") == []


def test_loading_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="record.missing"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("scores.json", {"schema": 2}, "record.unknown-schema"),
        ("status.json", {"schema": "1; drop"}, "record.unknown-schema"),
        ("scores.json", {"scores": [{"role": "unlearned"}]}, "record.bad-file"),
        ("conclusion.json", {"label": "certainly gone"}, "record.bad-file"),
        ("training.json", {"steps": "many"}, "record.bad-file"),
        ("attacks/round_weights/curve.json", {"points": {}}, "record.bad-file"),
    ],
)
def test_loading_validates_every_file(copy: Path, name: str, change: dict, code: str) -> None:
    write_json(copy / name, {**json.loads((copy / name).read_text()), **change})
    with pytest.raises(RecordError) as error:
        load_run(copy)
    assert error.value.code == code and name in error.value.cause


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x\n", "a: !!python/object/apply:os.system ['true']\n", "a: [", "\0"])
def test_hostile_spec_is_refused(copy: Path, text: str) -> None:
    (copy / "spec.yaml").write_text(text)
    with pytest.raises(RecordError) as error:
        load_run(copy)
    assert error.value.code == "record.bad-file" and "spec.yaml" in error.value.cause


def test_links_are_not_followed(copy: Path, tmp_path: Path) -> None:
    (copy / "conclusion.json").rename(tmp_path / "elsewhere.json")
    (copy / "conclusion.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RecordError, match="record.link"):
        load_run(copy)


def test_a_bad_sample_line_is_named(copy: Path) -> None:
    with open(copy / "samples" / "unlearned.jsonl", "a") as handle:
        handle.write("{}\n")
    with pytest.raises(RecordError, match="line 93"):
        load_run(copy).samples("unlearned")
