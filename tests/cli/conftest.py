"""One small finished run that all command-line tests read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = [
    "--set",
    "model.tiny.width=64",
    "--set",
    "model.tiny.layers=2",
    "--set",
    "model.tiny.ff=128",
    "--set",
    "model.tiny.heads=2",
    "--set",
    "data.people=8",
    "--set",
    "target.train.epochs=22",
    "--set",
    "reference.train.epochs=22",
    "--set",
    "target.train.lr=6e-3",
    "--set",
    "reference.train.lr=6e-3",
    "--set",
    "train.steps=12",
    "--set",
    "audit.resamples=100",
]


def efface(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    path = os.pathsep.join(
        [str(Path(__file__).resolve().parents[2] / "src"), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    )
    return subprocess.run(
        [sys.executable, "-m", "efface", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | {"PYTHONPATH": path} | env,
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """The run directory of a small tiny demo."""
    out = tmp_path_factory.mktemp("runs")
    done = efface("demo", "--model", "tiny", "--json", "--out", str(out), *SMALL, EFFACE_CACHE=str(shared_cache))
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]):
    """The command line in this process: words -> (exit code, stdout, stderr)."""

    def call(*words: str) -> tuple[int, str, str]:
        from efface.cli.main import main

        capsys.readouterr()
        code = main(list(words))
        told = capsys.readouterr()
        return code, told.out, told.err

    return call
