"""A run under way: one process at a time has its directory, which is gone again if the user has to fix something."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface.data.rows import Bundle
from efface.errors import EffaceError, RecordError
from efface.models.cachedir import disk_full, is_disk_full
from efface.progress import Progress
from efface.request import ForgetRequest
from efface.runs.files import FREE_SPACE, read_json
from efface.runs.layout import RunDir, write_json, write_text
from efface.runs.privacy import Privacy, for_run
from efface.runs.record import RunRecord
from efface.spec import Resolved
from efface.suites import Suite


@dataclass
class Run:
    """One run: what it is to do, and where it writes. ``checkpoints`` lie in its directory: no other run has them."""

    resolved: Resolved
    data: Bundle
    folder: Path
    record: RunRecord
    progress: Progress
    privacy: Privacy | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """Where the unlearning keeps its checkpoints until it is done."""
        return self.folder / "checkpoints"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, put it into the event log, and mark the run failed if it raises."""
        started = time.perf_counter()
        self.record.event("stage-started", stage=name)
        try:
            yield
        except BaseException as error:
            error = _full_disk(error, self.folder)
            self.record.fail(name, _concealed(error, self.privacy))
            raise error
        self.seconds[name] = round(time.perf_counter() - started, 2)
        self.record.event("stage-done", stage=name, seconds=self.seconds[name])


@contextmanager
def running(
    resolved: Resolved,
    data: Bundle,
    request: ForgetRequest,
    suite: Suite,
    name: str,
    progress: Progress,
    key: str = "",
) -> Iterator[Run]:
    """The unfinished run of the same ``key`` and request, or a new one; no other process can have it meanwhile.

    ``key`` is a hash (hex) of what is to be done; "" takes the spec's own, which says all of an unlearning.

    When the user has to fix something (an ``EffaceError`` with exit code 1) before anything was unlearned, a new run
    directory is removed again. Anything else leaves a run that the same command goes on with.
    """
    privacy = for_run(data, keep_text=resolved.spec.keep_text)
    asked = recorded(request, suite, privacy)
    record, fresh = _claim(resolved, asked["request.json"], name, key or resolved.hash)
    folder = record.run.path
    try:
        write_text(folder / "spec.yaml", resolved.to_yaml())
        for file, values in asked.items():
            write_json(folder / file, values)
        yield Run(resolved, data, folder, record, progress, privacy)
    except EffaceError as error:
        if fresh and error.exit_code == 1 and not (folder / "model").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        record.close()


def recorded(request: ForgetRequest, suite: Suite, privacy: Privacy | None) -> dict[str, Any]:
    """{file: values} of what a run is asked, as its directory holds it: a request names rows and people, and settings
    of a suite's attacks may quote them."""
    asked = {"request.json": request.to_json(), "suite.json": suite.model_dump(mode="json")}
    return {file: privacy.values(values) for file, values in asked.items()} if privacy else asked


def _claim(resolved: Resolved, request: dict[str, Any], name: str, key: str) -> tuple[RunRecord, bool]:
    """(record, whether its directory is new). Another process may take a directory between looking and locking."""
    root = Path(resolved.spec.out)
    while True:
        found = RunDir.find_resumable(root, key)
        if found is not None and not _same_request(found, request):
            found = None
        folder = found or RunDir.create(root, method=name, model=resolved.spec.model.name, spec_hash=key)
        try:
            return RunRecord(folder), found is None
        except RecordError as error:
            if error.code not in ("record.busy", "record.complete"):
                raise


def _same_request(run: RunDir, request: dict[str, Any]) -> bool:
    """Whether the run was about the same rows: the spec names a request file, not what is in it."""
    return not run.request.is_file() or read_json(run.request) == request


def _concealed(error: BaseException, privacy: Privacy | None) -> BaseException | str:
    """``error`` as the record may tell it: its message may quote a row."""
    if privacy is None or isinstance(error, KeyboardInterrupt):
        return error
    if isinstance(error, EffaceError):
        return type(error)(error.code, privacy.text(error.cause), error.fix)
    return f"{type(error).__name__}: {privacy.text(str(error))}"


def _full_disk(error: BaseException, folder: Path) -> BaseException:
    """``error``, or what it means to a person if the disk is full."""
    if isinstance(error, EffaceError) or not is_disk_full(error):
        return error
    full = disk_full(folder, fix=FREE_SPACE)
    full.__cause__ = error
    return full
