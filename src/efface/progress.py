"""Progress events. The library announces; only the command line draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Receives what is going on. This base class is silent; ``cli.console`` draws bars."""

    def start(self, label: str, total: float | None) -> object:
        """A step begins; ``total`` is in work units (rows, tokens or optimizer steps), None if unknown."""

    def advance(self, task: object, amount: float = 1.0) -> None:
        """``amount`` more units of ``task`` are done."""

    def finish(self, task: object) -> None:
        """The step is over."""

    def note(self, text: str) -> None:
        """One line a person should see."""

    @contextmanager
    def step(self, label: str, total: float | None = None) -> Iterator[object]:
        """``start`` and ``finish`` around a block."""
        task = self.start(label, total)
        try:
            yield task
        finally:
            self.finish(task)


SILENT = Progress()
