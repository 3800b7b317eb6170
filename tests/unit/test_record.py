"""The record of a run under way: events, stages, resuming after a kill, the end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up_run import HASH

from efface.errors import RecordError, RunFailed
from efface.runs import manifest
from efface.runs.layout import RunDir
from efface.runs.record import RunRecord, load_run

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", method="npo", model="tiny", spec_hash=HASH, date="2026-09-14")


def events(run: RunDir) -> list[dict]:
    return [json.loads(line) for line in run.events.read_text().splitlines()]


# -- events, stages, resume ----------------------------------------------------------------------------------
def test_events_have_time_and_stage(run: RunDir) -> None:
    record = RunRecord(run)
    record.event("stage-started", stage="unlearn")
    record.event("note", text="hello", stage="unlearn")
    record.event("stage-done", stage="unlearn", seconds=0.1)
    record.training_log("target")({"event": "step", "step": 1, "loss": 0.5})
    first, note, done, step = events(run)
    assert [e["event"] for e in (first, note, done, step)] == ["stage-started", "note", "stage-done", "step"]
    assert note["stage"] == "unlearn" and note["text"] == "hello" and note["time"].endswith("+00:00")
    assert step["stage"] == "target" and step["loss"] == 0.5
    assert done["seconds"] >= 0 and done["cpu_seconds"] >= 0 and done["memory"]["ram"] > 1


def test_a_line_cut_short_is_dropped(run: RunDir) -> None:
    record = RunRecord(run)
    record.event("one")
    record.close()
    with open(run.events, "ab") as handle:
        handle.write(b'{"event": "stage-done", "stage": "au')
    assert [e["event"] for e in load_run(run.path).events] == ["one"]
    again = RunRecord(run)
    again.event("two")
    assert [e["event"] for e in events(run)] == ["one", "two"]


def test_history_counts_a_repeated_step_once(run: RunDir) -> None:
    """Steps 1, 2, 3 were logged, the process was killed after the checkpoint of step 1; 2 and 3 come again."""
    record = RunRecord(run)
    log = record.training_log("unlearn")
    for step, loss in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25), (3, 0.35)):
        log({"event": "step", "step": step, "loss": loss})
    record.training_log("target")({"event": "step", "step": 1, "loss": 9.0})
    assert [(e["step"], e["loss"]) for e in record.history("unlearn")] == [(1, 0.1), (2, 0.25), (3, 0.35)]


def test_failure_is_recorded_and_the_run_can_go_on(run: RunDir) -> None:
    RunRecord(run).fail("unlearn", RunFailed("train.non-finite", "step 3", "lower train.lr"))
    status = load_run(run.path).status
    assert (status.state, status.stage, status.error.code, status.error.fix) == (
        "failed",
        "unlearn",
        "train.non-finite",
        "lower train.lr",
    )
    assert status.spec_hash == HASH and status.started
    assert RunDir.find_resumable(run.path.parent, HASH) == run
    RunRecord(run).close()
    assert load_run(run.path).status.state == "running"


def test_find_resumable(run: RunDir) -> None:
    root = run.path.parent
    assert RunDir.find_resumable(root / "nowhere", HASH) is None
    assert RunDir.find_resumable(root, "f" * 64) is None
    record = RunRecord(run)
    assert RunDir.find_resumable(root, HASH) is None  # a live process writes it
    with pytest.raises(RecordError, match="record.busy"):
        RunRecord(run)
    record.close()
    (root / "foreign").mkdir()
    (root / "foreign" / "status.json").write_text("not json")
    assert RunDir.find_resumable(root, HASH) == run
    RunRecord(run).complete()
    assert RunDir.find_resumable(root, HASH) is None
    with pytest.raises(RecordError, match="record.complete"):
        RunRecord(run)


def test_killed_process_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """kill -9 in the middle of a stage: its lock is gone, and the run is found again."""
    code = f"""
import sys, time
from pathlib import Path
from efface.runs.layout import RunDir
from efface.runs.record import RunRecord
run = RunDir.create(Path({str(tmp_path)!r}), method="npo", model="tiny", spec_hash={HASH!r})
record = RunRecord(run)
record.event("stage-started", stage="unlearn")
print("ready", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SRC)}
    )
    assert process.stdout.readline() == b"ready\n"
    assert RunDir.find_resumable(tmp_path, HASH) is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.time() + 5
    while (found := RunDir.find_resumable(tmp_path, HASH)) is None and time.time() < deadline:
        time.sleep(0.05)
    RunRecord(found).close()
    assert [e["stage"] for e in load_run(found.path).events] == ["unlearn"]


def test_complete_writes_the_manifest_last(run: RunDir) -> None:
    record = RunRecord(run)
    (run.path / ".left.json.123-ab.tmp").write_text("left by a killed writer")
    path = record.complete(lambda: (run.path / "report.html").write_text("<p>"))
    listed = json.loads(path.read_text())["files"]
    assert set(listed) == {"events.jsonl", "report.html", "status.json"}
    assert load_run(run.path).status.state == "complete" and manifest.verify(run) == []


def test_a_report_that_fails_leaves_the_run_incomplete(run: RunDir) -> None:
    with pytest.raises(ZeroDivisionError):
        RunRecord(run).complete(lambda: 1 / 0)
    assert not run.manifest.exists() and load_run(run.path).status.state == "failed"


def test_full_disk_does_not_glue_events_together(run: RunDir, monkeypatch) -> None:
    """Half a line is taken back, and the error of a full disk is not hidden by a second one."""
    record = RunRecord(run)
    record.event("before")
    real = record._file

    class Full:
        closed = False

        def __getattr__(self, name: str):
            return getattr(real, name)

        def write(self, data: bytes) -> int:
            if len(data) > 10:
                return real.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    record._file = Full()  # type: ignore[assignment]
    with pytest.raises(RunFailed, match="disk.full"):
        record.event("lost", text="a" * 8)
    record._file = real
    record.event("after")
    assert [e["event"] for e in events(run)] == ["before", "after"]
