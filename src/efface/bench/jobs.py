"""Several tasks at once, each in a process of its own with its share of threads; one at a time in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import efface
from efface.bench.memory import threads
from efface.bench.task import Outcome, Task, do
from efface.progress import Progress


def results(tasks: Sequence[Task], jobs: int, progress: Progress) -> Iterator[tuple[int, Outcome]]:
    """(number of the task, what came of it), as they are done. An interrupt ends the processes; what they had begun
    goes on from its last checkpoint when the same command is given again."""
    if jobs == 1:
        for number, task in enumerate(tasks):
            yield number, do(task, progress)
        return
    running: set[subprocess.Popen[str]] = set()
    pool = ThreadPoolExecutor(jobs)
    try:
        found = {pool.submit(_in_process, task, jobs, running): number for number, task in enumerate(tasks)}
        for future in as_completed(found):
            yield found[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()


def _in_process(task: Task, jobs: int, running: set[subprocess.Popen[str]]) -> Outcome:
    """One task in a new process. Its pipe stays open meanwhile: the process ends itself when that closes."""
    spec = task.resolved.spec
    log = task.board / "logs" / f"{spec.method.name}-seed{spec.seed}-{task.resolved.hash[:8]}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "efface.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            env=_environment(threads(jobs, spec.model.name)),
        )
    running.add(process)
    assert process.stdin and process.stdout
    try:
        with suppress(BrokenPipeError):  # it died at once; its code says how
            process.stdin.write(task.to_json() + "\n")
            process.stdin.flush()
        said, code = process.stdout.read(), process.wait()
    finally:
        running.discard(process)
        with suppress(BrokenPipeError):
            process.stdin.close()
    if code == 0 and said:
        log.unlink(missing_ok=True)
        return Outcome(**json.loads(said))
    how = f"signal {-code}" if code < 0 else f"code {code}"
    return Outcome(error=f"its process ended with {how} (logs/{log.name})")


def _environment(count: int) -> dict[str, str]:
    """The environment of this process with its share of threads, and with this package where it was found."""
    here = str(Path(efface.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"OMP_NUM_THREADS": str(count), "PYTHONPATH": path}
