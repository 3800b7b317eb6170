"""``bench methods``: several methods and seeds under one spec, one leaderboard. What is done is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efface.audit.calibrate import CalibrateSettings
from efface.bench.budget import Kind, budgeted
from efface.bench.jobs import results
from efface.bench.memory import check_jobs
from efface.bench.rows import row
from efface.bench.table import table
from efface.bench.task import Outcome, Task, finished, read_calibration
from efface.errors import SpecError
from efface.progress import SILENT, Progress
from efface.report import leaderboard
from efface.runs.files import write_json, write_text
from efface.spec import Resolved


def methods(
    specs: Sequence[Resolved],
    board: Path,
    *,
    jobs: int = 1,
    budget: Kind = "equal",
    calibrate: CalibrateSettings | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Run every spec (one for each method and seed) under one ``budget``, ``jobs`` at a time, calibrate each, and write
    ``leaderboard.json``, ``.md`` and ``.html`` to ``board`` after every run; the table.

    Finished runs of the same spec are taken as they are, unfinished ones go on. A method that fails stays in the table
    with its error. Raises ``SpecError``: bench.no-methods, bench.bad-jobs, bench.too-many-jobs, bench.unknown-size.
    """
    if not specs:
        raise SpecError("bench.no-methods", "No method was named.", "name some with --methods npo,grad_diff.")
    check_jobs(jobs, specs)
    specs, how = budgeted(specs, budget)
    tasks = [Task(one, board, calibrate or CalibrateSettings()) for one in specs]
    rows: list[dict[str, Any] | None] = [None] * len(tasks)
    about = {"budget": how, "jobs": jobs, "calibrate": tasks[0].calibrate.model_dump(mode="json")}
    _build_models(tasks, jobs, progress)
    for number, outcome in results(tasks, jobs, progress):
        rows[number] = _row(tasks[number], outcome)
        progress.note(f"{tasks[number].label}: {outcome.error or rows[number]['conclusion']}")  # type: ignore[index]
        _write(board, table(specs, [r for r in rows if r], about))
    return table(specs, [r for r in rows if r], about)


def _build_models(tasks: Sequence[Task], jobs: int, progress: Progress) -> None:
    """Target and reference of each seed first: all methods of a seed wait for the same ones. A failure shows again, and
    in the table, when the runs need them."""
    if jobs == 1:
        return
    open_ = {task.resolved.spec.seed: task for task in reversed(tasks) if not finished(task.resolved)}
    models = [Task(task.resolved, task.board, task.calibrate, only_models=True) for task in open_.values()]
    for number, outcome in results(models, jobs, progress):
        progress.note(f"{models[number].label}: {outcome.error or 'there'}")


def _row(task: Task, outcome: Outcome) -> dict[str, Any]:
    return row(task.resolved, outcome, None if outcome.error else read_calibration(task))


def _write(board: Path, found: dict[str, Any]) -> None:
    write_json(board / "leaderboard.json", found)
    write_text(board / "leaderboard.md", leaderboard.as_markdown(found))
    write_text(board / "leaderboard.html", leaderboard.as_html(found))
