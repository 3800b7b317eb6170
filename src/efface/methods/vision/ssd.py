"""SSD: weights that matter far more to the forget rows than to all rows are shrunk. No training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from efface.card import Card
from efface.engine.seeds import derive
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context, Method, Needs, method
from efface.models.base import Encoded, ModelAdapter
from efface.progress import Progress
from efface.settings import Settings, setting

CARD = Card(
    title="Selective Synaptic Dampening (SSD)",
    source="arXiv:2308.07707 (Foster et al. 2024), selection and dampening rule",
    code="if-loops/selective-synaptic-dampening, src/ssd.py",
    summary="theta <- min(lambda F_D / F_f, 1) theta wherever F_f > alpha F_D; F is the diagonal Fisher information.",
    confirmed=(
        "alpha 10, lambda 1, exponent 1, factor at most 1",
        "F_D is taken over ALL training rows, the forget rows among them",
        "all weights, the output layer included; the model is in eval mode while gradients are taken",
    ),
    derived=(
        "alpha is held below `ceiling` x N/N_f: with per-row importances F_f/F_D cannot exceed N/N_f, so that the "
        "published alpha selects nothing once a tenth of the rows is to go",
    ),
    differs=(
        "F is the mean of squared PER-ROW gradients, as in the paper; the released code squares the gradient of each "
        "batch's mean loss (64 rows by default) and averages over batches: smaller and noisier, and here `batch` rows",
        "its batches of all rows come unshuffled, forget rows last; with `batch` above 1 rows are shuffled here",
    ),
    tested=(
        "digits, our CNN, as it stands, seven classes and seeds: forget accuracy 1.00 -> 0.00-0.04, retain accuracy "
        "1.00, test accuracy within 0.005 of the target's; the published alpha selects 0, 14 and 15 of 70,458 weights",
        "digits, 100 random rows: alpha 1.5 costs 0.03 test accuracy, alpha 3 and above changes no forget answer",
    ),
    fooled_by=("a dampened output row forgets the class while its features stay: look at linear CKA and k-NN",),
)


@dataclass(frozen=True)
class Report:
    """What was done: the alpha that was used, how many of all weights were selected, and their mean factor."""

    alpha: float
    selected: int
    weights: int
    mean_factor: float


@method("ssd", CARD)
class SSD(Method):
    """Closed form: two passes of gradients, then one multiplication. The run's training settings play no part."""

    class Settings(Settings):
        alpha: float = setting(
            10.0, "selection: a weight is dampened where F_f > alpha F_D", source="paper and code (ResNet18)", gt=0
        )
        dampening: float = setting(1.0, "lambda: factor = min(lambda F_D / F_f, 1)", source="paper and code", ge=0)
        ceiling: float | None = setting(
            0.5,
            "alpha is at most this share of N/N_f, where nothing is left to select (none: no limit); batch 1 only",
            source="derived: digits, three classes and seeds",
            gt=0,
            le=1,
        )
        batch: int = setting(
            1, "rows whose mean loss is squared at once; 1 is the paper, the released code takes its batch size", ge=1
        )

    needs = Needs(retain=True)
    artifact = "edit"
    families = ("classifier",)
    family_tag = "edit"

    def apply(self, context: Context) -> None:
        """Dampen ``context.adapter`` in place; ``context.notes["ssd"]`` says what was selected."""
        self.check(context)
        forget, retain = (_usable(context, rows) for rows in (context.forget, context.retain))
        everything = [*forget, *retain]
        adapter, own, seed = context.adapter, self.settings, derive(context.seed, "ssd")
        with context.progress.step("importances", len(forget) + len(everything)) as task:
            ours = importances(adapter, forget, own.batch, seed, context.progress, task)
            whole = importances(adapter, everything, own.batch, seed, context.progress, task)
        alpha = self.alpha(len(forget), len(everything))
        report = dampen(dict(adapter.module.named_parameters()), ours, whole, alpha, own.dampening)
        if not report.selected:
            raise NeedsError(
                "ssd.nothing-selected",
                f"ssd selected none of {report.weights} weights at alpha {alpha:g}: none matters that "
                f"much more to the {len(forget)} forget rows than to all {len(everything)}.",
                "lower method.alpha.",
            )
        context.notes["ssd"] = asdict(report)
        context.log({"event": "ssd", **context.notes["ssd"]})

    def alpha(self, forget: int, everything: int) -> float:
        """The alpha that is used for this many rows."""
        own = self.settings
        return own.alpha if own.ceiling is None or own.batch > 1 else min(own.alpha, own.ceiling * everything / forget)


def importances(
    adapter: ModelAdapter, rows: Sequence[Encoded], batch: int, seed: int, progress: Progress, task: object
) -> dict[str, Tensor]:
    """{name: Float32 like the parameter}: mean over groups of ``batch`` rows (shuffled by ``seed``) of the squared
    gradient of their mean negative log-likelihood. Eval mode; gradients and modes are left as they were."""
    named = dict(adapter.module.named_parameters())
    frozen = [p for p in named.values() if not p.requires_grad]
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named.items()}
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    groups = [order[i : i + batch] for i in range(0, len(order), batch)]
    for p in frozen:
        p.requires_grad_(True)
    try:
        with adapter.evaluating(), torch.enable_grad():
            for group in groups:
                _add_squares(total, adapter, [rows[i] for i in group], named)
                progress.advance(task, len(group))
    finally:
        for p in frozen:
            p.requires_grad_(False)
    return {name: value / len(groups) for name, value in total.items()}


def _add_squares(
    total: dict[str, Tensor], adapter: ModelAdapter, rows: Sequence[Encoded], named: Mapping[str, Tensor]
) -> None:
    batch = adapter.collate(rows, range(len(rows))).to(adapter.device)
    loss = View(adapter, batch, "importance", len(rows), len(rows)).nll.mean()
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    for name, gradient in zip(named, gradients, strict=True):
        if gradient is not None:
            total[name] += gradient.detach().float() ** 2


def dampen(
    parameters: Mapping[str, Tensor],
    forget: Mapping[str, Tensor],
    everything: Mapping[str, Tensor],
    alpha: float,
    dampening: float,
) -> Report:
    """In place: where forget > alpha * everything, multiply by min(dampening * everything / forget, 1)."""
    selected, weights, factors = 0, 0, 0.0
    with torch.no_grad():
        for name, p in parameters.items():
            chosen = forget[name] > alpha * everything[name]
            factor = (dampening * everything[name][chosen] / forget[name][chosen]).clamp(max=1)
            p[chosen] = p[chosen] * factor.to(p.dtype)
            selected, weights = selected + int(chosen.sum()), weights + p.numel()
            factors += float(factor.sum())
    return Report(alpha, selected, weights, factors / selected if selected else 1.0)


def _usable(context: Context, rows: Sequence) -> list[Encoded]:
    """Encoded rows without those that the model cannot score; these are logged."""
    encoded = [context.adapter.encode(row) for row in rows]
    kept = [row for row in encoded if not row.problem]
    if len(kept) < len(encoded):
        first = next(i for i, row in enumerate(encoded) if row.problem)  # its place: an id may tell whose row it is
        why = encoded[first].problem
        context.log({"event": "rows-left-out", "count": len(encoded) - len(kept), "first": first, "why": why})
    if not kept:
        raise NeedsError(
            "ssd.no-usable-rows",
            f"ssd cannot use any of {len(encoded)} rows: {encoded[0].problem}.",
            "give rows that fit the model.",
        )
    return kept
