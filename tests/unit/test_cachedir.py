"""Cache folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from efface.errors import RunFailed
from efface.models import cachedir
from efface.models.cachedir import cache_root, publish

BUILD = """
import sys, time
from pathlib import Path
from efface.models.cachedir import publish
def build(folder):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (folder / "a").write_text("first half")
    print("half", flush=True)
    time.sleep(float(sys.argv[3]))
    (folder / "b").write_text("second half")
publish(Path(sys.argv[1]), build)
"""


def start(folder: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    source = Path(cachedir.__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(folder), str(log), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_root_is_the_variable_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "elsewhere"))
    assert cache_root() == tmp_path / "elsewhere"
    monkeypatch.delenv("EFFACE_CACHE")
    assert cache_root() == Path.home() / ".cache" / "efface"


def test_what_exists_is_not_built_again(tmp_path):
    built = []
    for _ in range(2):
        assert publish(tmp_path / "deep" / "x", lambda folder: built.append((folder / "f").write_text("1"))).is_dir()
    assert built == [1] and names(tmp_path / "deep") == ["x"]


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        publish(tmp_path / "x", build)
    assert names(tmp_path) == []


def test_a_killed_build_leaves_no_folder_and_the_next_one_cleans_up(tmp_path):
    process = start(tmp_path / "x", tmp_path / "log", 30)
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = names(tmp_path)
    assert "x" not in left and any(name.endswith(".partial") for name in left)
    publish(tmp_path / "x", lambda folder: (folder / "a").write_text("whole"))
    assert names(tmp_path) == ["log", "x"] and names(tmp_path / "x") == ["a"]


def test_two_processes_build_once(tmp_path):
    both = [start(tmp_path / "x", tmp_path / "log", 0.3) for _ in range(2)]
    assert [process.wait(timeout=20) for process in both] == [0, 0]
    assert names(tmp_path / "x") == ["a", "b"]
    assert (tmp_path / "log").read_text() == "built\n"


def test_without_a_lock_the_first_rename_wins(tmp_path, monkeypatch):
    """Both builds run at the same time (a barrier waits for that); the later rename finds the folder and gives way."""
    monkeypatch.setattr(cachedir, "fcntl", None)
    barrier = threading.Barrier(2, timeout=10)

    def build(folder: Path) -> None:
        (folder / "a").write_text("1")
        barrier.wait()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(publish, [tmp_path / "x"] * 2, [build] * 2)) == [tmp_path / "x"] * 2
    assert names(tmp_path) == ["x"] and names(tmp_path / "x") == ["a"]


def test_a_folder_appears_in_one_step(tmp_path, monkeypatch):
    seen = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (seen.append((names(old), new.exists())), rename(old, new)))
    publish(tmp_path / "x", lambda folder: [(folder / name).write_text(name) for name in "ab"])
    assert seen == [(["a", "b"], False)] and names(tmp_path / "x") == ["a", "b"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), RuntimeError("No space left on device (os error 28)")]
)
def test_a_full_disk_has_its_own_error(tmp_path, error):
    def build(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise error

    with pytest.raises(RunFailed) as caught:
        publish(tmp_path / "x", build)
    assert caught.value.code == "disk.full" and "EFFACE_CACHE" in caught.value.fix and "available" in caught.value.cause
    assert names(tmp_path) == []


def test_too_little_room_is_noticed_before_the_work(tmp_path, monkeypatch):
    """3 MiB needed, 1 MiB free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(RunFailed, match=r"3\.0 MiB needed, 1\.0 MiB available") as caught:
        publish(tmp_path / "x", lambda folder: pytest.fail("built"), needed=3 * 2**20)
    assert caught.value.code == "disk.full"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFailed) as caught:
        publish(tmp_path / "file" / "x", lambda folder: None)
    assert caught.value.code == "cache.unwritable" and "EFFACE_CACHE" in caught.value.fix
