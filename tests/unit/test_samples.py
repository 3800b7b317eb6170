"""Samples hide forget text; provenance says what ran and nothing private."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_run import KEY

from efface.data.rows import Bundle
from efface.errors import RecordError
from efface.runs import provenance, samples
from efface.runs.keys import keyed_hash, sample_key
from efface.runs.privacy import Privacy, for_run

SRC = Path(__file__).parents[2] / "src"
ROW = {
    "row": "f1",
    "entity": "Ilvane Torrick",
    "set": "forget",
    "prompt": "Where was Ilvane born?",
    "gold": "in Vallmora",
    "output": "in Vallmora",
    "scores": {"rouge": 1.0, "probability": float("nan")},
    "problem": "",
}


def test_forget_text_is_hashed_with_a_key(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "set": "forget_paraphrase"}, {**ROW, "set": "holdout"}, {**ROW, "set": "retain", "row": "r1"}]
    samples.write_sample_rows(tmp_path / "s.jsonl", rows, privacy=Privacy(KEY))
    first, second, third, retain = map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())
    for row in (first, second, third):
        assert row["hidden"] and all(row[k].startswith("hmac-sha256:") for k in ("entity", "prompt", "gold", "output"))
        assert "Vallmora" not in json.dumps(row) and "Ilvane" not in json.dumps(row)
    assert first["gold"] == first["output"] != first["prompt"]
    assert first["scores"] == {"rouge": 1.0, "probability": None}
    assert retain["output"] == "in Vallmora" and not retain["hidden"]
    assert keyed_hash("in Vallmora", KEY) == first["gold"] != keyed_hash("in Vallmora", b"other")


def test_text_is_kept_when_asked(tmp_path: Path) -> None:
    samples.write_sample_rows(tmp_path / "s.jsonl", [ROW], privacy=None)
    assert json.loads((tmp_path / "s.jsonl").read_text())["gold"] == "in Vallmora"


def test_the_key_lies_outside_the_run_and_is_private(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    world = Bundle("w", "text", {}, {})
    samples.write_sample_rows(tmp_path / "run" / "s.jsonl", [ROW], privacy=for_run(world, keep_text=False))
    key = tmp_path / "cache" / "keys" / "samples.key"
    assert len(key.read_bytes()) == 32 and key.stat().st_mode & 0o777 == 0o600 and sample_key() == key.read_bytes()
    assert key.read_bytes().hex() not in (tmp_path / "run" / "s.jsonl").read_text()
    key.write_bytes(b"")
    with pytest.raises(RecordError, match="record.bad-key"):
        sample_key()


# -- provenance ----------------------------------------------------------------------------------------------
def test_provenance_says_what_ran_and_nothing_private() -> None:
    from efface.runs.schema import Provenance, check

    models = {"target": {"origin": "folder", "key": "/home/jane/secret/model", "made": {"rows": 3}}}
    data = provenance.collect(
        seeds={"run": 7}, models=models, fingerprints={"target": "ab"}, data={"name": "people", "sha256": "cd"}
    )
    loaded = check(Provenance, data, "provenance.json")
    assert loaded.seeds == {"run": 7} and loaded.python == ".".join(map(str, sys.version_info[:3]))
    assert loaded.packages["pydantic"] and loaded.hardware["cores"] and loaded.memory["ram"] > 1
    assert loaded.models["target"] == {"origin": "folder", "key": "model", "made": {"rows": 3}}
    assert "/home/" not in json.dumps(data) and f"{Path.home()}/" not in json.dumps(data)


def test_git_state(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            check=True,
            capture_output=True,
        )

    assert provenance.git_state(tmp_path) is None
    git("init")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-m", "one")
    clean = provenance.git_state(tmp_path / "code")
    assert len(clean["commit"]) == 40 and not clean["dirty"]
    (tmp_path / "code" / "x.py").write_text("x = 2\n")
    assert provenance.git_state(tmp_path / "code")["dirty"]
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "y.py").write_text("y = 1\n")
    assert provenance.git_state(tmp_path / "installed") is None  # somebody else's checkout around an installed copy


def test_nothing_here_loads_torch() -> None:
    code = (
        "import sys, efface.runs.record, efface.runs.samples, efface.runs.compare, efface.report.comparison;"
        "bad = {'torch', 'numpy', 'pyarrow', 'jinja2'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(SRC)})
