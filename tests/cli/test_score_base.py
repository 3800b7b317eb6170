"""The base model beside the others: what was known before any fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import SMALL, efface


def test_the_base_model_is_scored_when_asked(tmp_path: Path, shared_cache: Path) -> None:
    """Every score of the suite for the base model, too; it knows nothing, and the record is derived again."""
    words = ["--json", "--out", str(tmp_path), *SMALL, "--set", "audit.score_base=true", "--set", "audit.attacks=[]"]
    done = efface("demo", "--model", "tiny", *words, EFFACE_CACHE=str(shared_cache))
    assert done.returncode == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    scores = json.loads((run / "scores.json").read_text())["scores"]
    by_role = {role: {(s["name"], s["rows"]) for s in scores if s["role"] == role} for role in ("base", "unlearned")}
    assert by_role["base"] == by_role["unlearned"] != set()
    value = {s["role"]: s["value"] for s in scores if (s["name"], s["rows"]) == ("probability", "forget")}
    assert value["base"] < 0.1 < value["target"]
    assert "Base model" in (run / "report.html").read_text()
    checked = efface("verify", str(run), EFFACE_CACHE=str(shared_cache))
    assert checked.returncode == 0, checked.stdout
