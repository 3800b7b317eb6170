"""Names, places and files of a run."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from made_up_run import HASH

from efface.errors import RecordError, RunFailed
from efface.runs import files
from efface.runs.layout import RunDir, inside, part, tidy, write_json


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", method="npo", model="tiny", spec_hash=HASH, date="2026-09-14")


# -- names and places ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("npo", "npo"),
        ("../../etc/passwd", "etc-passwd"),
        ("a/b\\c", "a-b-c"),
        ("", "unnamed"),
        ("..", "unnamed"),
        (".hidden", "hidden"),
        ("naïve médel", "naive-medel"),
        ("x" * 90, "x" * 40),
        ("a\nb\0c", "a-b-c"),
    ],
)
def test_names_are_never_paths(text: str, name: str) -> None:
    assert tidy(text) == name


def test_run_directory_name_and_collisions(tmp_path: Path) -> None:
    options = {"method": "../npo", "model": "/home/jane/models/SmolLM2", "spec_hash": HASH, "date": "2026-09-14"}
    first, second = (RunDir.create(tmp_path, **options) for _ in range(2))
    assert first.path.name == "2026-09-14_npo_SmolLM2_3f9a1c5be07d"
    assert second.path.name == "2026-09-14_npo_SmolLM2_3f9a1c5be07d-2"
    assert first.path.parent == tmp_path


def test_two_labels_never_share_a_folder(run: RunDir) -> None:
    assert part("relearn_benign") == "relearn_benign"
    assert len({part("a/b"), part("a-b"), part("a b")}) == 3
    assert run.curve("../../x").is_relative_to(run.attacks)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "./a", "a\\b", "a\0b"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError) as error:
        inside(tmp_path, name)
    assert error.value.code == "record.bad-name"


# -- files ---------------------------------------------------------------------------------------------------
def test_json_is_strict(tmp_path: Path) -> None:
    """NaN becomes null, infinities become words; numpy scalars become numbers."""
    import numpy as np

    data = {"a": float("nan"), "b": float("-inf"), "c": np.float32(0.5), "d": (1, np.int64(2)), "e": np.float32("nan")}
    write_json(tmp_path / "x.json", data)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text and files.read_json(tmp_path / "x.json") == {
        "a": None,
        "b": "-Infinity",
        "c": 0.5,
        "d": [1, 2],
        "e": None,
    }


@pytest.mark.parametrize("content", [b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b""])
def test_reading_refuses_what_is_not_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RecordError) as error:
        files.read_json(tmp_path / "x.json")
    assert error.value.code == "record.bad-file" and "x.json" in error.value.cause


def test_reading_refuses_size_and_links(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", list(range(100)))
    with pytest.raises(RecordError, match="record.too-large"):
        files.read_json(tmp_path / "x.json", limit=50)
    (tmp_path / "link.json").symlink_to(tmp_path / "x.json")
    with pytest.raises(RecordError):
        files.read_json(tmp_path / "link.json")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch, broken: str) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": True})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, broken, full)
    with pytest.raises(RunFailed) as error:
        write_json(path, {"new": True})
    assert error.value.code == "disk.full" and error.value.exit_code == 2 and error.value.fix
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
