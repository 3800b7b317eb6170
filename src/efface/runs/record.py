"""RunRecord: the append-only account of a run under way. ``load_run`` reads a finished (or broken off) one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from efface.errors import EffaceError, RecordError, RunFailed
from efface.runs import manifest
from efface.runs.events import DONE, STARTED, parse_events, step_history
from efface.runs.files import dumps, hold, now, read_json, write_json, writing
from efface.runs.layout import RunDir
from efface.runs.loading import LoadedRun, load_run
from efface.runs.provenance import peak_memory

__all__ = ["LoadedRun", "RunRecord", "load_run"]


class RunRecord:
    """Writes the events and the state of one run. One process at a time: another one gets "record.busy".

    ``events.jsonl`` has one JSON object a line, each with time, stage and event. A line that a kill cut short is
    dropped when the run goes on.
    """

    def __init__(self, run: RunDir | Path) -> None:
        self.run = run if isinstance(run, RunDir) else RunDir(Path(run))
        if self.run.manifest.exists():
            raise RecordError(
                "record.complete", f"{self.run.path} is complete; nothing is added to it.", "start a new run."
            )
        self._open()
        self._stage, self._cpu = "", {}
        status = read_json(self.run.status) if self.run.status.is_file() else {}
        self._fixed = {key: status.get(key, "") for key in ("spec_hash", "started")}
        self._status("running")

    # -- events --------------------------------------------------------------------------------------------------
    def event(self, kind: str, **data: Any) -> None:
        """Append one line. ``stage=...`` says which stage it belongs to (none: the current one). The end of a stage
        is written through to the disk, with the CPU seconds it took and the memory peak of the process so far."""
        stage = str(data.pop("stage", self._stage))
        if kind == STARTED:
            self._cpu[stage] = time.process_time()
        elif kind == DONE:
            spent = round(time.process_time() - self._cpu.get(stage, time.process_time()), 2)
            data = {"cpu_seconds": spent, "memory": peak_memory(), **data}
        line = dumps({**data, "time": now(), "stage": stage, "event": kind}) + "\n"
        with writing(self.run.events):
            if self._file.closed:  # after ``fail``, if the caller goes on nevertheless
                self._open()
            self._append(line.encode())
            if kind != "step":
                os.fsync(self._file.fileno())

    def log(self, event: dict[str, Any]) -> None:
        """An event as engines give it: ``{"event": kind, ...}``."""
        self.event(str(event.get("event", "note")), **{k: v for k, v in event.items() if k != "event"})

    def training_log(self, stage: str) -> Callable[[dict[str, Any]], None]:
        """A ``log`` whose events belong to ``stage`` (``target``, ``reference``, ``unlearn``)."""
        return lambda event: self.log({**event, "stage": stage})

    def history(self, stage: str) -> list[dict[str, Any]]:
        """Step events of a stage in order; a step taken again after a kill counts once, the later one."""
        return step_history(self._events(), stage)

    # -- the end -------------------------------------------------------------------------------------------------
    def fail(self, stage: str, error: BaseException | str) -> None:
        """Mark the run failed and let go of it; it stays resumable. ``error`` is kept as code, cause and fix."""
        what = _failure(error)
        with contextlib.suppress(RunFailed):  # on a full disk the error on its way up matters more than this note
            self._stage = stage
            self.event("failed", stage=stage, error=what)
            self._status("failed", what)
        self.close()

    def complete(self, last: Callable[[], object] | None = None) -> Path:
        """Run ``last`` (the reports), then write the state and, as the very last file, the manifest; its path."""
        if last is not None:
            try:
                last()
            except BaseException as error:
                self.fail("report", error)
                raise
        self._stage = ""
        self.event("complete")
        self._status("complete")
        path = manifest.write(self.run)
        self.close()
        return path

    def close(self) -> None:
        """Let go of the run; another process may then go on with it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not self._file.closed:
            self.fail(self._stage, error)
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------
    def _open(self) -> None:
        """Open the events, take the lock that lasts as long as they are open, drop a line that was cut short."""
        with writing(self.run.events):
            self._file = open(self.run.events, "a+b", buffering=0)
        for _ in range(5):  # someone who only looks holds the lock for a moment
            if hold(self._file):
                return self._drop_torn_line()
            time.sleep(0.05)
        self._file.close()
        raise RecordError(
            "record.busy", f"Another process is writing {self.run.path}.", "wait until it is done, or end it."
        )

    def _append(self, line: bytes) -> None:
        """The whole line or nothing: half a line would be glued to the next one."""
        size = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            self._file.truncate(size)
            raise

    def _drop_torn_line(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)

    def _events(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        return parse_events(self._file.read(), str(self.run.events))

    def _status(self, state: str, error: dict[str, str] | None = None) -> None:
        write_json(self.run.status, {"schema": 1, "state": state, "stage": self._stage, "error": error, **self._fixed})


def _failure(error: BaseException | str) -> dict[str, str]:
    if isinstance(error, EffaceError):
        return {"code": error.code, "cause": error.cause, "fix": error.fix}
    code = "run.interrupted" if isinstance(error, KeyboardInterrupt) else "run.failed"
    return {"code": code, "cause": error if isinstance(error, str) else f"{type(error).__name__}: {error}"}
