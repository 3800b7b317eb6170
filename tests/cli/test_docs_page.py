"""docs/your_own_model_and_data.md does what it says: its blocks are run in order, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.test_privacy import found

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your_own_model_and_data.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = {
    "efface": f'exec "{sys.executable}" -m efface "$@"',
    "python": f'exec "{sys.executable}" "$@"',
    "pip": f'exec "{sys.executable}" "{ROOT}/tests/plugin_site.py" "$SITE" "$@"',  # as pip would, without network
}


@dataclass
class Done:
    """The folder after the last block, and what every block printed."""

    folder: Path
    told: list[str]

    def run(self, name: str) -> Path:
        """The run directory of a method."""
        (path,) = (self.folder / "runs").glob(f"*_{name}_*")
        return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Done:
    """Every bash block in one shell after the other, every python block in one session that goes on."""
    folder, tools = tmp_path_factory.mktemp("page"), tmp_path_factory.mktemp("tools")
    for name, line in COMMANDS.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    site = tmp_path_factory.mktemp("site")
    environment = os.environ | {
        "PATH": os.pathsep.join([str(tools), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "src")]),
        "SITE": str(site),
        "EFFACE_CACHE": str(shared_cache),
    }
    told, session = [], ""
    for language, text in blocks():
        # what earlier python blocks have imported and named is there again: only their imports and plain values
        code = text if language == "bash" else session + text
        words = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        told.append(done.stdout)
        session += imports(text) if language == "python" else ""
    return Done(folder, told)


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block, in order."""
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def imports(text: str) -> str:
    """The import lines of a block."""
    return "".join(f"{line}\n" for line in text.splitlines() if line.startswith(("import ", "from ")))


def test_every_block_is_run() -> None:
    """Nothing on the page is only for show."""
    assert {language for language, _ in blocks()} == {"bash", "python"}
    verbs = set(re.findall(r"^efface (\w+)", "\n".join(text for _, text in blocks()), re.MULTILINE))
    assert {"check", "unlearn", "audit", "report", "verify", "new", "show"} <= verbs


def test_the_run_says_what_the_page_says(page: Done) -> None:
    """The model knew Mara and knows her less; the others stay known; verify and the Markdown report are there."""
    scores = {(s["role"], s["name"], s["rows"]): s["value"]
              for s in json.loads((page.run("npo") / "scores.json").read_text())["scores"]}  # fmt: skip
    known, left, never = (scores[r, "probability", "forget"] for r in ("target", "unlearned", "reference"))
    assert known > 0.9 and left < 0.2 and never < 0.2
    assert scores["unlearned", "probability", "retain"] > 0.9
    assert (page.run("npo") / "report.html").is_file() and "ticket-4711" in (page.folder / "report.md").read_text()
    assert any(text.startswith("verified:") for text in page.told)
    assert any("row forwards" in text for text in page.told)  # what check says of the attacks


def test_the_original_fails_its_audit(page: Done) -> None:
    label = json.loads((page.run("audit") / "conclusion.json").read_text())["label"]
    assert label == "retained"


def test_the_record_names_nobody(page: Done) -> None:
    """No run of the page keeps Mara's name or her answers, and the request in it says so by hash."""
    secrets = ["Mara Ellison", "Port Selwyn", "repairs clocks", "plays the oboe", "keeps a tortoise"]
    for run in (page.folder / "runs").iterdir():
        assert found(run, secrets) == [], run.name
    request = json.loads((page.run("npo") / "request.json").read_text())
    assert request["entities"][0].startswith("hmac-sha256:") and request["reason"] == "deletion request of 2 March"


def test_python_and_the_package_give_runs_too(page: Done) -> None:
    assert (page.run("grad_diff") / "manifest.json").is_file()
    own = page.run("gentle_ascent")
    names = {s["name"] for s in json.loads((own / "scores.json").read_text())["scores"]}
    assert "weakest_answer" in names and (own / "attacks" / "round_weights" / "curve.json").is_file()
    assert sum(text.count(" passed\n") for text in page.told) >= 8
