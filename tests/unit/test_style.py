"""One style: ruff finds nothing, and would change nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "tests", "benchmarks", "docs")


@pytest.mark.parametrize(
    "command", [["check", "--output-format", "concise"], ["format", "--check"]], ids=lambda c: c[0]
)
def test_ruff(command: list[str]) -> None:
    """Rules and line length of pyproject.toml, over everything that is ours."""
    if importlib.util.find_spec("ruff") is None:
        pytest.fail("ruff is not installed: pip install -c constraints.txt '.[dev]'")
    words = [sys.executable, "-m", "ruff", *command, "--no-cache", *FOLDERS]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
