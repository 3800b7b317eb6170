"""kill -9 at any moment, then the same command: the same result, bit for bit. Two runs at once share one cache."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL

WORDS = [
    "unlearn",
    "--model",
    "tiny",
    "--suite",
    "people",
    *SMALL,
    "--set",
    "audit.attacks=[relearn_in_domain]",
    "--set",
    "train.checkpoint_every=2",
    "--json",
]


def start(folder: Path, cache: Path) -> subprocess.Popen:
    env = os.environ | {"EFFACE_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-m", "efface", *WORDS, "--out", str(folder)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(done: subprocess.Popen) -> tuple[str, str]:
    """Digest of the unlearned weights and the scores."""
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    run = Path(json.loads(out)["run"])
    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    return weights, (run / "scores.json").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, str]:
    return result(start(tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cache")))


def wait_for(folder: Path, text: str, count: int) -> None:
    """Until the events of the run hold ``text`` that often."""
    for _ in range(1200):
        if sum(f.read_text(errors="ignore").count(text) for f in folder.glob("*/events.jsonl")) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"never saw {text}")


@pytest.mark.parametrize(
    ("text", "count"), [('"stage": "target"', 20), ('"stage": "unlearn", "event": "step"', 5), ('"stage": "audit"', 1)]
)
def test_killed_runs_go_on_to_the_same_bits(text: str, count: int, whole, tmp_path: Path) -> None:
    first = start(tmp_path / "runs", tmp_path / "cache")
    wait_for(tmp_path / "runs", text, count)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not list((tmp_path / "runs").glob("*/manifest.json"))
    assert result(start(tmp_path / "runs", tmp_path / "cache")) == whole
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_two_runs_at_once(whole, tmp_path: Path) -> None:
    both = [start(tmp_path / name, tmp_path / "cache") for name in ("a", "b")]
    assert [result(run) for run in both] == [whole, whole]
