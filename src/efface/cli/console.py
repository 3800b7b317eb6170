"""The one place that draws: progress bars on a terminal, plain lines elsewhere, JSON when asked."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from efface.progress import Progress


class Console(Progress):
    """Progress on standard error, results on standard output."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet, self.terminal = quiet, sys.stderr.isatty()
        self._bars: Any = None
        self._open = 0
        self._labels: dict[Any, tuple[str, float]] = {}

    def start(self, label: str, total: float | None) -> object:
        """A bar with an estimate of the time left, or one plain line."""
        if self.quiet:
            return None
        if not self.terminal:
            key = object()
            self._labels[key] = (label, time.monotonic())
            return key
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        self._open += 1
        return self._bars.add_task(label, total=total)

    def advance(self, task: object, amount: float = 1.0) -> None:
        """Move the bar."""
        if self._bars is not None and isinstance(task, int):
            self._bars.advance(task, amount)

    def finish(self, task: object) -> None:
        """Close the bar; elsewhere print what took longer than a second."""
        if task in self._labels:
            label, started = self._labels.pop(task)
            if (took := time.monotonic() - started) > 1:
                print(f"{label}: {took:.0f} s", file=sys.stderr)
        elif self._bars is not None and isinstance(task, int):
            self._bars.remove_task(task)
            self._open -= 1
            if self._open == 0:
                self._bars.stop()
                self._bars = None

    def note(self, text: str) -> None:
        """One line."""
        if self.quiet:
            return
        (self._bars.console.print if self._bars is not None else lambda t: print(t, file=sys.stderr))(text)


def _bars() -> Any:
    from rich.console import Console as Rich
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Rich(stderr=True),
        transient=True,
    )


def emit(data: Any, as_json: bool, text: str) -> None:
    """Print a result: JSON (one document) or text."""
    print(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False, default=str) if as_json else text)


def table(headers: list[str], rows: list[list[Any]]) -> str:
    """Plain aligned columns."""
    cells = [[str(c) for c in row] for row in [headers, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
