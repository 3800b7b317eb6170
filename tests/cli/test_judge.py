"""A run whose open answers an NLI model judges: the record says which one, and can be verified without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.conftest import SMALL
from tests.unit.test_nli import judge

SUITE = "name: mine\nbenchmark: people\nmetrics:\n  forget: [probability, rouge, entailment]\n  retain: [probability]\n"


def test_the_record_names_the_judge(cli, tmp_path: Path, run: Path, monkeypatch) -> None:
    """Named below the home folder, as a user would; afterwards the judge is gone and the scores still follow."""
    from efface.models.nli import nli_digest

    monkeypatch.setenv("HOME", str(tmp_path))
    folder = judge(tmp_path / "nli")
    (tmp_path / "mine.yaml").write_text(SUITE)
    words = ["--suite", str(tmp_path / "mine.yaml"), "--set", "audit.judge=~/nli", "--out", str(tmp_path / "runs")]
    code, out, err = cli("unlearn", "--model", "tiny", *SMALL, *words, "--json")
    assert code in (0, 3), err
    made = Path(json.loads(out)["run"])
    assert json.loads((made / "provenance.json").read_text())["fingerprints"]["judge"] == nli_digest(folder)
    scores = json.loads((made / "scores.json").read_text())["scores"]
    proxies = [s["extra"]["proxy"] for s in scores if s["name"] == "entailment"]
    assert proxies == [0.0] * len(proxies) and len(proxies) == 3
    shutil.rmtree(folder)
    assert cli("verify", str(made))[0] == 0
