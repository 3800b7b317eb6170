"""``verify`` against somebody who rewrites a record together with its manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pytest

from efface.audit.rederive import verify_run
from efface.runs import manifest
from efface.runs.files import write_json

Change = Callable[[Any], object]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / run.name))


def forge(folder: Path, name: str, change: Change) -> list[dict[str, str]]:
    """Change one JSON file, rewrite the manifest, verify; the findings."""
    data = json.loads((folder / name).read_text())
    change(data)
    write_json(folder / name, data)
    manifest.write(folder)
    return verify_run(folder)["findings"]


def score(data: Any, name: str = "rouge", role: str = "unlearned", rows: str = "forget") -> dict[str, Any]:
    return next(s for s in data["scores"] if (s["role"], s["name"], s["rows"]) == (role, name, rows))


def test_an_intact_run_is_derived_again_in_full(run: Path, cli) -> None:
    code, out, _ = cli("verify", str(run), "--json")
    found = json.loads(out)
    assert code == 0 and found["findings"] == [] and found["rederived"] > 40 and found["not_rederived"] == 0
    assert found["conclusion"] == "derived again" and found["digest"] == manifest.digest(run)
    assert found["digest"] in cli("verify", str(run))[1]


@pytest.mark.parametrize(
    "change",
    [
        {"value": None, "low": None, "high": None, "n": 0, "reason": "the model was too slow"},
        {"value": 0.0},
        {"low": 0.0},
        {"high": 1.5},
        {"n": 4000},
        {"unscored": 3},
        {"target": 0.9},
        {"direction": "higher"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_score_is_named(copy: Path, change: dict[str, Any]) -> None:
    found = forge(copy, "scores.json", lambda data: score(data).update(change))
    assert any(f["file"] == "scores.json" and "rouge on forget (unlearned)" in f["what"] for f in found)


def test_a_score_left_out_or_made_up_is_named(copy: Path) -> None:
    assert forge(copy, "scores.json", lambda data: data["scores"].remove(score(data)))

    def add(data: Any) -> None:
        data["scores"].append({**score(data, "probability"), "role": "certified", "value": 0.0})

    found = forge(copy, "scores.json", add)
    assert any("certified" in f["what"] for f in found)


def test_a_role_without_its_tables_is_named(copy: Path) -> None:
    def drop(data: Any) -> None:
        data["tables"] = [t for t in data["tables"] if t["role"] != "unlearned"]

    found = forge(copy, "tables/index.json", drop)
    assert any("rouge on forget (unlearned)" in f["what"] and "no table" in f["what"] for f in found)


def test_text_that_was_kept_cannot_be_called_concealed(copy: Path) -> None:
    def conceal(data: Any) -> None:
        for table in data["tables"]:
            table["concealed"] = ["text"]

    assert any(f["file"] == "tables/index.json" for f in forge(copy, "tables/index.json", conceal))


def test_rows_that_do_not_give_the_score_are_named(copy: Path) -> None:
    def change(data: Any) -> None:
        found = next(r for r in data["rows"] if (r["role"], r["name"], r["rows"]) == ("unlearned", "rouge", "forget"))
        found["values"] = dict.fromkeys(found["values"], 0.0)

    assert any(f["file"] == "rows.json" for f in forge(copy, "rows.json", change))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(label="erased" if data["label"] != "erased" else "retained"),
        lambda data: data["findings"].pop(0),
        lambda data: data["findings"][0].update(flag=not data["findings"][0]["flag"]),
        lambda data: data["findings"][-1].update(says="Nothing was found."),
        lambda data: data.update(sentences=["All is well.", "", ""]),
        lambda data: data.update(limits=[]),
    ],
    ids=["label", "left out", "flag", "says", "sentences", "limits"],
)
def test_a_conclusion_that_does_not_follow_is_named(copy: Path, change: Change) -> None:
    assert {f["file"] for f in forge(copy, "conclusion.json", change)} == {"conclusion.json"}


def test_a_curve_that_its_rows_do_not_give_is_named(copy: Path) -> None:
    def lower(data: Any) -> None:
        for point in data["points"]:
            if point["role"] == "unlearned":
                point["value"] = 0.0

    found = forge(copy, "attacks/relearn_in_domain/curve.json", lower)
    assert any("mean of its rows" in f["what"] for f in found)


@pytest.mark.parametrize("name", ["area", "area_excess", "rec"])
def test_a_curve_that_comes_to_something_else_is_named(copy: Path, name: str) -> None:
    forged = 0.99 if name == "area" else {"value": 0.99, "low": 0.9, "high": 1.0, "at": {}}
    found = forge(copy, "attacks/relearn_in_domain/curve.json", lambda data: data.update({"area": 0.0, name: forged}))
    assert any(f["what"] == f"probability on forget: {name} is not what the points give" for f in found)


def test_an_attack_that_is_gone_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "attacks" / "relearn_in_domain")
    manifest.write(copy)
    found = verify_run(copy)["findings"]
    assert any(f["file"] == "attacks/relearn_in_domain" for f in found)


def test_the_label_is_checked_without_the_rows_of_attacks(copy: Path) -> None:
    """Records of older versions hold no values per row of the attacks."""
    for path in copy.glob("attacks/*/rows.arrow"):
        path.unlink()
    manifest.write(copy)
    found = verify_run(copy)
    assert found["findings"] == [] and "but for" in found["conclusion"]
    assert forge(copy, "conclusion.json", lambda data: data.update(label="erased"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tables/index.json", b"{"),
        ("tables/index.json", b'{"schema": 1, "text": true, "tables": [{"file": "../spec.yaml"}]}'),
        ("tables/000.arrow", b"ARROW1 and then nothing"),
        ("attacks/relearn_benign/rows.arrow", b""),
    ],
)
def test_a_file_that_cannot_be_read_is_a_finding(copy: Path, name: str, data: bytes, cli) -> None:
    (copy / name).write_bytes(data)
    manifest.write(copy)
    code, out, err = cli("verify", str(copy))
    assert code == 1 and f"{name}: cannot be read" in out and "Traceback" not in err


def test_tables_of_another_shape_are_a_finding(copy: Path) -> None:
    feather.write_feather(pa.table({"a": [1]}), copy / "tables" / "000.arrow")
    manifest.write(copy)
    assert verify_run(copy)["findings"]


def test_names_of_files_are_shown_safely(copy: Path, cli) -> None:
    (copy / "a\x1b[2Jb").write_text("")
    out = cli("verify", str(copy))[1]
    assert "\x1b" not in out and "U+001B" in out
