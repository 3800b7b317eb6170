"""One run of a comparison: unlearned, audited and calibrated, or taken as it is if it is there already."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface import build, pipeline, refusing, suites
from efface.audit.calibrate import VERSION, CalibrateSettings, Calibration, calibrate_run
from efface.errors import EffaceError
from efface.loading import load_data
from efface.progress import SILENT, Progress
from efface.running import recorded
from efface.runs import manifest
from efface.runs.files import dumps, read_json, strict, write_json, write_text
from efface.runs.privacy import for_run
from efface.spec import SOURCES, Resolved, parse_spec


@dataclass(frozen=True)
class Task:
    """What a process is to do. ``only_models``: build target and reference, which all methods of a seed share."""

    resolved: Resolved
    board: Path
    calibrate: CalibrateSettings
    only_models: bool = False

    @property
    def label(self) -> str:
        """For a person."""
        spec = self.resolved.spec
        return f"{'models' if self.only_models else spec.method.name}, seed {spec.seed}"

    def to_json(self) -> str:
        """One line of JSON, for another process."""
        return dumps(
            {
                "spec": self.resolved.spec.model_dump(mode="json"),
                "origins": self.resolved.origins,
                "board": str(self.board),
                "calibrate": self.calibrate.model_dump(mode="json"),
                "only_models": self.only_models,
            }
        )

    @staticmethod
    def from_json(text: str) -> Task:
        """What ``to_json`` wrote."""
        values = json.loads(text)
        return Task(
            Resolved(parse_spec(values["spec"]), values["origins"]),
            Path(values["board"]),
            CalibrateSettings(**values["calibrate"]),
            values["only_models"],
        )


@dataclass(frozen=True)
class Outcome:
    """What came of a task: the run directory, or the error that ended it."""

    run: str = ""
    error: str = ""


def do(task: Task, progress: Progress = SILENT) -> Outcome:
    """Do one task. Nothing is raised but what ends the whole comparison (an interrupt): a method that fails stays in
    the table with its error, and the traceback of a defect lies under ``failures/`` of the board."""
    try:
        if task.only_models:
            _models(task.resolved, progress)
            return Outcome()
        folder = finished(task.resolved) or pipeline.unlearn(task.resolved, progress)
        if not (place := calibration_file(task, folder)).is_file():
            write_json(place, calibrate_run(folder, task.calibrate, progress=progress).to_json())
        return Outcome(str(folder))
    except EffaceError as error:
        return Outcome(error=f"{error.code}: {error.cause}")
    except Exception as error:  # a defect in one method must not end a comparison of many
        import traceback

        write_text(_failure_file(task), traceback.format_exc())
        return Outcome(error=f"{type(error).__name__}: {error} (failures/{_failure_file(task).name})")


def _models(resolved: Resolved, progress: Progress) -> None:
    pipeline.threads(resolved.spec)
    data, _, _ = refusing.refuse_early(resolved.spec)
    start = build.base(resolved.spec, data, progress)
    for role in SOURCES:
        build.made(role, resolved.spec, data, start, progress)


def finished(resolved: Resolved) -> Path | None:
    """A complete run of exactly this spec, with the rows and the suite that it names as they are now, below its ``out``
    folder; None if there is none."""
    root = Path(resolved.spec.out)
    complete = [status.parent for status in sorted(root.glob("*/status.json")) if _complete(status, resolved)]
    if not complete:
        return None
    data, request = load_data(resolved.spec)
    privacy = for_run(data, keep_text=resolved.spec.keep_text)
    asked = recorded(request, suites.load(resolved.spec.audit.suite), privacy)
    return next((folder for folder in complete if _asked_the_same(folder, asked)), None)


def _complete(status: Path, resolved: Resolved) -> bool:
    return (status.parent / manifest.NAME).is_file() and read_json(status).get("spec_hash") == resolved.hash


def _asked_the_same(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether a run was about these rows and this suite: the spec names their files, not what is in them."""
    return all((folder / f).is_file() and read_json(folder / f) == strict(values) for f, values in asked.items())


def calibration_file(task: Task, run: Path | None = None) -> Path:
    """Where the calibration of ``run`` (none: the finished run of the task) lies: beside the leaderboard, because a
    finished run is never changed. Its name holds the run's manifest: a run that is done again is calibrated anew."""
    run = run or finished(task.resolved)
    made = manifest.digest(run) if run else ""
    parts = f"{VERSION}{dumps(task.calibrate.model_dump(mode='json'))}{made}"
    key = hashlib.sha256(parts.encode()).hexdigest()
    return task.board / "calibrations" / f"{task.resolved.hash[:24]}-{key[:16]}.json"


def read_calibration(task: Task) -> Calibration | None:
    """What ``do`` has found, None where it did not come to that."""
    place = calibration_file(task)
    if not place.is_file():
        return None
    values: dict[str, Any] = {k: v for k, v in read_json(place).items() if k not in ("schema", "version")}
    return Calibration(**values | {"points": tuple(map(tuple, values["points"]))})


def _failure_file(task: Task) -> Path:
    spec = task.resolved.spec
    return task.board / "failures" / f"{spec.method.name}-seed{spec.seed}.txt"
