"""Plain fine-tuning: token-mean cross-entropy on rows. Builds targets and references, and is what relearning does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from efface.data.rows import Rows
from efface.engine.settings import TrainSettings
from efface.engine.view import View
from efface.methods.base import Context, LossMethod
from efface.models.base import ModelAdapter
from efface.progress import SILENT, Progress


class FineTune(LossMethod):
    """Cross-entropy on the rows given, nothing else."""

    name = "fine-tune"
    families = ("causal_lm", "classifier")

    def forget_loss(self, view: View) -> Tensor:
        """Token-mean cross-entropy."""
        return view.mean_tokens(-view.logp)


def fit(
    adapter: ModelAdapter,
    rows: Rows,
    settings: TrainSettings,
    *,
    seed: int,
    label: str = "fine-tune",
    progress: Progress = SILENT,
    checkpoints: Path | None = None,
    log: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Train ``adapter`` in place on ``rows``; returns {steps, trained_parameters, ...}. Same seed, same bits."""
    from efface.engine.loop import train

    context = Context(
        adapter, rows, (), settings, seed, progress=progress, checkpoints=checkpoints, log=log, notes={"label": label}
    )
    train(FineTune(), context)
    return context.notes["training"]


def fit_in_parts(
    adapter: ModelAdapter,
    rows: Rows,
    settings: TrainSettings,
    *,
    seed: int,
    stops: Sequence[int],
    progress: Progress = SILENT,
) -> Iterator[int]:
    """Like ``fit``, but yields after each number of optimizer steps in ``stops`` (rising), with the optimizer kept."""
    from efface.engine.loop import start

    context = Context(adapter, rows, (), settings.model_copy(update={"steps": max(stops)}), seed, progress=progress)
    run = start(FineTune(), context)
    run.prepare()
    for stop in sorted(stops):
        run.until(stop)
        yield stop
    run.finish()
