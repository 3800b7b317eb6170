"""One run of a comparison: unlearned, audited and calibrated, or taken as it is if it is there already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface import build, pipeline, refusing
from efface.audit.calibrate import VERSION, CalibrateSettings, Calibration, calibrate_run
from efface.errors import EffaceError
from efface.progress import SILENT, Progress
from efface.runs.files import dumps, read_json, write_json, write_text
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
        if not (place := calibration_file(task)).is_file():
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
    """A complete run of exactly this spec below its ``out`` folder, or None."""
    root = Path(resolved.spec.out)
    for status in sorted(root.glob("*/status.json")) if root.is_dir() else []:
        if (status.parent / "manifest.json").is_file() and read_json(status).get("spec_hash") == resolved.hash:
            return status.parent
    return None


def calibration_file(task: Task) -> Path:
    """Where the calibration of a run lies: beside the leaderboard, because a finished run is never changed."""
    import hashlib

    settings = hashlib.sha256(f"{VERSION}{dumps(task.calibrate.model_dump(mode='json'))}".encode()).hexdigest()
    return task.board / "calibrations" / f"{task.resolved.hash[:24]}-{settings[:8]}.json"


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
