"""A second reference, of another seed: trained, measured, in the finding and in the report, and verified."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import SMALL

WORDS = ["unlearn", "--model", "tiny", "--suite", "people", *SMALL, "--set", "audit.attacks=[]"]


def test_what_seed_noise_does_is_in_the_record(cli, tmp_path: Path, run: Path) -> None:
    code, out, err = cli(*WORDS, "--set", "reference_2.kind=train", "--out", str(tmp_path), "--json")
    assert code in (0, 3), err
    folder = Path(json.loads(out)["run"])
    scores = {(s["role"], s["name"], s["rows"]): s for s in json.loads((folder / "scores.json").read_text())["scores"]}
    first, second = (scores[role, "probability", "forget"]["value"] for role in ("reference", "reference_2"))
    assert first != second
    made = json.loads((folder / "provenance.json").read_text())["models"]
    assert made["reference_2"]["made"]["seed"] == made["reference"]["made"]["seed"] + 1
    says = " ".join(f["says"] for f in json.loads((folder / "conclusion.json").read_text())["findings"])
    assert f"references of different seeds lie between {min(first, second):.3f} and {max(first, second):.3f}" in says
    assert "Never saw it (2)" in (folder / "report.html").read_text()
    assert cli("verify", str(folder))[0] == 0


def test_a_second_reference_needs_the_first_ones_training(cli, tmp_path: Path) -> None:
    words = ["--set", "reference.kind=none", "--set", "reference_2.kind=train", "--out", str(tmp_path), "--json"]
    code, out, _ = cli(*WORDS, *words)
    assert code == 1 and "reference.no-training" in out and not list(tmp_path.iterdir())
