"""The one training loop. Methods bring a loss, rules compose the gradients, everything else is the same for all."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.engine import checkpoint, optimizer
from efface.engine.batches import Sampler, cut
from efface.engine.distribution import add_up, add_up_number, world
from efface.engine.reference import Reference, Wanted, build
from efface.engine.rules.base import RULES, Gradients
from efface.engine.seeds import derive, fix
from efface.engine.select import Saliency, trainable
from efface.engine.view import View
from efface.errors import DataError, RunFailed
from efface.models.base import Encoded

if TYPE_CHECKING:
    from efface.data.rows import Rows
    from efface.methods.base import Context, LossMethod


@dataclass
class Side:
    """One side of the objective: its main stream, the row-aligned extra streams, and which rows each step takes."""

    name: str
    rows: list[Encoded]
    extra: dict[str, list[Encoded]]
    sampler: Sampler
    weight: float


def train(objective: LossMethod, context: Context) -> None:
    """Train ``context.adapter`` in place with ``objective``. Resumes from ``context.checkpoints`` if one is there.

    Raises ``RunFailed`` "train.non-finite" when a loss or gradient is not finite; the last good checkpoint is kept.
    """
    start(objective, context).go()


def start(objective: LossMethod, context: Context) -> Run:
    """Encode the rows, compute the reference values, let the method draw what it draws; no step is taken yet."""
    fix(context.seed, deterministic=context.train.deterministic)
    sides = _sides(objective, context)
    context.reference = _reference(objective, context, sides)
    context.steps = _steps(context, sides["forget"])
    objective.start(context)
    return Run(objective, context, sides)


def _sides(objective: LossMethod, context: Context) -> dict[str, Side]:
    settings = context.train
    sides = {"forget": _side("forget", context.forget, objective.streams(context), context, settings.forget_weight)}
    if context.needs_retain(objective):
        sides["retain"] = _side(
            "retain", context.retain, objective.retain_streams(context), context, settings.retain_weight
        )
    return sides


def _steps(context: Context, forget: Side) -> int:
    """Optimizer steps of the run, from the rows that can be trained on."""
    train = context.train
    if train.steps is not None:
        return train.steps
    return _passes(train.epochs, forget)


def _passes(epochs: float, forget: Side) -> int:
    """Optimizer steps of so many passes over the forget rows."""
    return math.ceil(epochs * len(forget.rows) / forget.sampler.batch)


def _side(name: str, rows: Rows, extra: dict[str, Rows], context: Context, weight: float) -> Side:
    adapter = context.adapter
    encoded = [adapter.encode(row) for row in rows]
    others = {stream: [adapter.encode(row) for row in aligned] for stream, aligned in extra.items()}
    keep = [i for i, e in enumerate(encoded) if not e.problem and all(not o[i].problem for o in others.values())]
    if len(keep) < len(encoded):
        first = next(i for i in range(len(encoded)) if i not in set(keep))
        context.log(
            {
                "event": "rows-left-out",
                "side": name,
                "count": len(encoded) - len(keep),
                "first": first,  # its place: an id may tell what the row says
                "why": encoded[first].problem,
            }
        )
    if not keep:
        raise DataError(
            "train.no-usable-rows",
            f"None of the {len(encoded)} {name} rows can be trained on: {encoded[0].problem}.",
            "shorten the rows or use a model with a longer context.",
        )
    sampler = Sampler(len(keep), context.train.batch_size, context.seed, name)
    return Side(name, [encoded[i] for i in keep], {s: [o[i] for i in keep] for s, o in others.items()}, sampler, weight)


def _reference(objective: LossMethod, context: Context, sides: dict[str, Side]) -> Reference | None:
    needs, layers = objective.needs, objective.hidden_layers(context)
    streams = {side.name: side.rows for side in sides.values()} | {
        n: rows for side in sides.values() for n, rows in side.extra.items()
    }
    wanted = {
        name: Wanted(name in needs.nll or name in needs.logp, name in needs.top, layers if name in needs.hidden else ())
        for name in {*needs.nll, *needs.logp, *needs.top, *needs.hidden}
        if name in streams
    }
    if not wanted:
        return None
    return build(context.adapter, streams, wanted, token_budget=context.train.token_budget)


class Run:
    """State of one training run."""

    def __init__(self, objective: LossMethod, context: Context, sides: dict[str, Side]) -> None:
        self.objective, self.context, self.sides, self.settings = objective, context, sides, context.train
        self.layers = objective.hidden_layers(context)
        self.params = trainable(context.adapter, self.settings.select, derive(context.seed, "lora"))
        self.optimizer = optimizer.make(list(self.params.values()), self.settings)
        self.rule = RULES.get(self.settings.rule or objective.update_rule)(**self.settings.rule_settings)
        self.total = context.steps
        self.mask = (
            Saliency(self.params, self.settings.select.mask_percentile)
            if self.settings.select.mask == "saliency"
            else None
        )
        self.step, self.stopped = 0, ""

    def go(self) -> None:
        """All steps, with checkpoints, until done or stopped."""
        self.prepare()
        with self.context.progress.step(self.context.notes.get("label", self.objective.name), self.total) as task:
            self.context.progress.advance(task, self.step)
            for epoch, last in self._stops():
                self.until(last, task)
                if epoch and self._ends_after(epoch):
                    break
        self.finish()

    def _stops(self) -> list[tuple[int, int]]:
        """(epoch, its last step) of the epochs that are not behind; where nobody looks at them, the end alone."""
        if self.context.each_epoch is None:
            return [(0, self.total)]
        ends = [(k, _passes(k, self.sides["forget"])) for k in range(1, math.floor(self.settings.epochs) + 1)]
        return [(k, end) for k, end in ends if end >= self.step]

    def _ends_after(self, epoch: int) -> bool:
        assert self.context.each_epoch is not None
        self._save()
        return self.context.each_epoch(epoch) or bool(self.stopped)

    def prepare(self) -> None:
        """Masks, then the newest checkpoint if there is one."""
        if self.mask and not self.settings.select.mask_dynamic:
            self.mask.measure(self._gradients(0).forget())
        self._resume()

    def until(self, last: int, task: object = None) -> None:
        """Optimizer steps up to number ``last``."""
        every = self.settings.checkpoint_every or max(1, math.ceil(self.total / 4))
        with self.context.adapter.training():
            while self.step < last and not self.stopped:
                self._one()
                self.context.progress.advance(task)
                if self.context.checkpoints and self.step % every == 0 and self.step < self.total:
                    self._save()

    def finish(self) -> None:
        """What the rule does at the end; figures of the run go into ``context.notes["training"]``."""
        self.rule.finish(list(self.params.values()))
        self.context.notes["training"] = {
            "steps": self.step,
            "rule": self.rule.name,
            "stopped": self.stopped,
            "trained_parameters": sum(p.numel() for p in self.params.values()),
        }

    def _one(self) -> None:
        started = time.perf_counter()
        fix(derive(self.context.seed, "step", self.step), deterministic=self.settings.deterministic)
        gradients = self._gradients(self.step)
        if self.mask and self.settings.select.mask_dynamic:
            self.mask.measure(gradients.forget())
        generator = torch.Generator().manual_seed(derive(self.context.seed, "rule", self.step))
        report = self.rule.compose(gradients, generator)
        if self.mask:
            self.mask.filter_gradients()
        size = self._clip(gradients)
        for group in self.optimizer.param_groups:
            group["lr"] = optimizer.learning_rate(self.settings, self.step, self.total)
        self.optimizer.step()
        self._after(
            report | {f"{side}_loss": value for side, value in gradients.losses.items()} | {"gradient_norm": size},
            started,
        )

    def _after(self, report: dict[str, float], started: float) -> None:
        if self.mask:
            self.mask.restore()
        self.rule.after_update(list(self.params.values()))
        self.step += 1
        report |= self._means
        self.objective.after_step(self.step, report)
        limit = self.settings.stop_nll
        if limit and report.get("forget_nll", 0.0) > limit:
            self.stopped = f"forget NLL per token {report['forget_nll']:.2f} passed stop_nll {limit:g}"
        self.context.log(
            {
                "event": "step",
                "step": self.step,
                "of": self.total,
                "lr": self.optimizer.param_groups[0]["lr"],
                "seconds": round(time.perf_counter() - started, 3),
                **{k: float(v) for k, v in report.items()},
            }
        )

    def _clip(self, gradients: Gradients) -> float:
        limit = self.settings.clip or math.inf
        size = float(nn.utils.clip_grad_norm_([p for p in gradients.params if p.grad is not None], limit))
        if not all(map(math.isfinite, (size, *gradients.losses.values()))):
            worst = dict(gradients.losses)
            self._save()
            raise RunFailed(
                "train.non-finite",
                f"{self.objective.name}: step {self.step + 1} of {self.total} gave a non-finite "
                f"loss or gradient (losses {worst}, gradient norm {size}); the last good checkpoint is kept.",
                "lower train.lr or the forget weight, or set train.stop_nll.",
            )
        return size

    def _gradients(self, step: int) -> Gradients:
        self._means: dict[str, float] = {}
        chosen = {name: side.sampler.rows(step) for name, side in self.sides.items()}
        has_retain = "retain" in self.sides and self.settings.retain_weight > 0
        return Gradients(
            list(self.params.values()), lambda name: self._backward(self.sides[name], chosen[name]), has_retain
        )

    def _backward(self, side: Side, chosen: Sequence[int]) -> float:
        """One side over the effective batch; adds into ``.grad``; returns the weighted loss."""
        rank, size = world()
        tokens = sum(side.rows[i].labels for i in chosen)
        total, nll, scored = 0.0, 0.0, 0
        before = [p.grad for p in self.params.values()] if size > 1 else []
        if size > 1:
            for p in self.params.values():
                p.grad = None
        for part in cut(side.rows, chosen, self.settings.token_budget)[rank::size]:
            view = self._view(side, part, len(chosen), tokens)
            loss = self.objective.forget_loss(view) if side.name == "forget" else self.objective.retain_loss(view)
            if loss is None:
                continue
            if loss.requires_grad:
                (side.weight * loss).backward()
            total += side.weight * float(loss.detach())
            if "logp" in view.__dict__:
                nll, scored = nll - float(view.logp.detach().sum()), scored + view.logp.numel()
        if size > 1:
            self._reduce(before)
        device = self.context.adapter.device  # every process adds up the same figures, also one without a micro-batch
        nll, scored, total = (add_up_number(value, device) for value in (nll, scored, total))
        if scored:  # the first pass of a step is at the weights themselves, later ones may be beside them
            self._means.setdefault(f"{side.name}_nll", nll / scored)
        return total

    def _reduce(self, before: Sequence[Tensor | None]) -> None:
        add_up(list(self.params.values()))
        for p, old in zip(self.params.values(), before, strict=True):
            if old is not None and p.grad is not None:
                p.grad += old

    def _view(self, side: Side, part: Sequence[int], rows_total: int, tokens_total: int) -> View:
        def make(stream: str, rows: list[Encoded], tokens: int) -> View:
            batch = self.context.adapter.collate([rows[i] for i in part], list(part)).to(self.context.adapter.device)
            return View(
                self.context.adapter,
                batch,
                stream,
                rows_total,
                tokens,
                self.context.reference,
                hidden_layers=self.layers,
                needs_logits=self.objective.needs_logits,
            )

        view = make(side.name, side.rows, tokens_total)
        chosen = side.sampler.rows(self.step) if side.extra else ()
        view.others = {name: make(name, rows, sum(rows[i].labels for i in chosen)) for name, rows in side.extra.items()}
        return view

    # -- checkpoints ---------------------------------------------------------------------------------------------------
    def _save(self) -> None:
        if world()[0] == 0 and self.context.checkpoints:
            state: dict[str, Any] = {"objective": self.objective.state(), "stopped": self.stopped}
            checkpoint.save(self.context.checkpoints, self.step, self.params, self.optimizer, self.rule.state(), state)

    def _resume(self) -> None:
        found = checkpoint.load(self.context.checkpoints, self.params, self.optimizer)
        if found is None:
            return
        state, rule_state = found
        self.step, self.stopped = state["step"], state.get("stopped", "")
        self.objective.load_state(state["objective"])
        self.rule.load_state(rule_state)
        self.context.log({"event": "resumed", "step": self.step})
