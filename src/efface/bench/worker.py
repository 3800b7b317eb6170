"""A process of its own for one task: JSON in on standard input, JSON out on standard output."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import asdict


def main() -> None:
    """Read a task, do it, write its outcome. Ends when the process that started it does: its pipe then closes."""
    task = sys.stdin.readline()
    threading.Thread(target=_until_left_alone, daemon=True).start()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log, not between the JSON

    from efface.bench.task import Task, do
    from efface.runs.files import dumps

    outcome = do(Task.from_json(task))
    out.write(dumps(asdict(outcome)) + "\n")
    out.flush()


def _until_left_alone() -> None:
    """Not through ``sys.stdin``: its lock, held by a thread that waits, would break the end of the process."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
