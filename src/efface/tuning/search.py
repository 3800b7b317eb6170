"""The search: each trial unlearns a copy of the target, and counts by its forget ES at equal retention (UWC)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface import build, pipeline, refusing
from efface.audit.calibrate import CalibrateSettings, Calibration, calibrate
from efface.data.rows import digest_rows
from efface.engine.seeds import derive
from efface.errors import EffaceError, NeedsError
from efface.methods.base import METHODS, Context
from efface.models.base import ModelAdapter
from efface.models.cachedir import cache_root
from efface.passes.cache import Cache
from efface.progress import SILENT, Progress
from efface.runs.files import hold
from efface.spec import Resolved, RunSpec
from efface.tuning.account import Trial, write
from efface.tuning.space import Range, applied, check_space, default_space, parse_space
from efface.tuning.split import TuningData, tuning_data

VERSION = 1  # raised when the same trial would give another value
DONE = "efface"  # user attribute of a trial that came to its end: what it found, as JSON


@dataclass(frozen=True)
class Tuned:
    """What was found. ``best``: the trial with the least forget ES at alpha*, the larger alpha* on a tie; None if none
    could be computed. ``spec``: the spec with its settings. ``folder`` holds best.yaml, trials.json, trials.md and the
    study itself."""

    best: Trial | None
    trials: tuple[Trial, ...]
    spec: RunSpec | None
    folder: Path


def tune(
    resolved: Resolved,
    out: Path,
    *,
    space: Sequence[str] = (),
    trials: int = 20,
    minutes: float | None = None,
    calibrate: CalibrateSettings | None = None,
    progress: Progress = SILENT,
) -> Tuned:
    """Search until there are ``trials`` of them, or no new one after ``minutes``. The same call goes on from what the
    study in ``out`` already holds, and gives what one call would have given.

    Objective: minimise ES_forget(alpha*), with alpha* the largest mixing weight that keeps tau of the target's retain
    ES (``audit.calibrate``), on rows that no evaluation set holds (``tuning.split``). ``space``: ranges as texts (none:
    ``default_space``).

    Raises what a run would raise early, and ``NeedsError`` "tune.needs-optuna", "tune.needs-text", "tune.no-rows",
    "tune.busy", ``SpecError`` "tune.bad-space", "tune.no-default".
    """
    optuna = _optuna()
    bench = _Bench.of(resolved, space, calibrate or CalibrateSettings(), progress)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        study = _study(optuna, bench.key, out)
        deadline, fresh = time.monotonic() + 60 * (minutes or 0), 0
        while (number := len(_done(study))) < trials:
            if minutes is not None and fresh and time.monotonic() > deadline:  # one trial at least
                break
            _one(optuna, study, bench, number, trials, progress)
            _result(study, bench, out)
            fresh += 1
        return _result(study, bench, out)


def plan(resolved: Resolved, space: Sequence[str] = ()) -> dict[str, Any]:
    """What would be searched and on how many rows, with nothing loaded but the data."""
    ranges, rows = _prepared(resolved, space)
    counts = _counts(rows)
    lines = [
        f"tune {resolved.spec.method.name} on {resolved.spec.model.name}: {', '.join(map(str, ranges))}",
        f"rows held apart by {rows.unit}: " + ", ".join(f"{name} {n}" for name, n in counts.items()),
    ]
    return {"space": [str(one) for one in ranges], "held_apart_by": rows.unit, "rows": counts, "lines": lines}


def _study(optuna: Any, key: str, out: Path) -> Any:
    """The study of that key in the folder's database, new or as it was left."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=key, storage=f"sqlite:///{out / 'study.db'}", direction="minimize", load_if_exists=True
    )
    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):  # of a killed process
        value = json.loads(left.user_attrs.get(DONE, "{}")).get("value")
        if value is None:
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)  # without a result it is drawn again
        else:
            study.tell(left.number, value)
    return study


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two searches in one folder would draw the same trials."""
    with open(out / ".lock", "ab") as handle:
        if not hold(handle):
            raise NeedsError(
                "tune.busy", f"Another search is running in {out}.", "wait for it, or choose another folder with --out."
            )
        yield


def _one(optuna: Any, study: Any, bench: _Bench, number: int, trials: int, progress: Progress) -> None:
    """One trial. Its draws depend on the seed, its number and the values before it, so that a search that was
    interrupted goes the same way."""
    study.sampler = optuna.samplers.TPESampler(seed=derive(bench.resolved.spec.seed, "tune", number) % 2**32)
    trial = study.ask({one.path: one.distribution() for one in bench.space})
    with progress.step(f"trial {number + 1} of {trials}"):
        found = bench.measure(number, trial.params)
    trial.set_user_attr(DONE, json.dumps(found.to_json()))
    if found.value is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        progress.note(f"trial {number + 1}: {found.error}")
    else:
        study.tell(trial, found.value)
        progress.note(f"trial {number + 1}: forget ES {found.value:.3f} at alpha* {found.alpha:.3f}, {found.settings}")


def _done(study: Any) -> list[Trial]:
    stored = [t.user_attrs[DONE] for t in study.get_trials(deepcopy=False) if DONE in t.user_attrs]
    return sorted((Trial.from_json(json.loads(text)) for text in stored), key=lambda t: t.number)


def _result(study: Any, bench: _Bench, out: Path) -> Tuned:
    done = _done(study)
    known = [t for t in done if t.value is not None]
    best = min(known, key=lambda t: (t.value, -(t.alpha or 0.0), t.number), default=None)
    spec = applied(bench.resolved.spec, best.params) if best else None
    write(out, done, best, spec, bench.about())
    return Tuned(best, tuple(done), spec, out)


@dataclass
class _Bench:
    """What every trial shares: the target, the rows, the space. ``key`` names the study: another spec, space or split
    is another study, whatever folder it lies in."""

    resolved: Resolved
    space: list[Range]
    settings: CalibrateSettings
    rows: TuningData
    target: ModelAdapter
    start: build.Made
    progress: Progress
    key: str

    @classmethod
    def of(cls, resolved: Resolved, space: Sequence[str], settings: CalibrateSettings, progress: Progress) -> _Bench:
        """Everything that can be refused is refused before anything is trained."""
        spec = resolved.spec
        pipeline.threads(spec)
        data, _, _ = refusing.refuse_early(spec)
        ranges, rows = _prepared(resolved, space)
        start = build.base(spec, data, progress)
        target = build.made("target", spec, data, start, progress) or start
        parts = [
            VERSION,
            resolved.spec.model_dump(mode="json", include={"model", "method", "train", "seed"}),
            [str(one) for one in ranges],
            settings.model_dump(mode="json"),
            [digest_rows(r) for r in (rows.forget, rows.retain, rows.scored_forget, rows.scored_retain)],
            target.key,
        ]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        return cls(resolved, ranges, settings, rows, target.open(spec.model), start, progress, key)

    def measure(self, number: int, params: dict[str, Any]) -> Trial:
        """Unlearn with these settings and calibrate; what goes wrong is part of the trial."""
        started = time.perf_counter()
        try:
            found = self._calibrated(applied(self.resolved.spec, params))
            error = found.reason
        except EffaceError as failed:
            found, error = None, f"{failed.code}: {failed.cause}"
        return Trial.of(number, params, found, error, time.perf_counter() - started)

    def _calibrated(self, spec: RunSpec) -> Calibration:
        method = METHODS.get(spec.method.name)(**spec.method.settings)
        context = Context(
            self.target.clone(),
            self.rows.forget,
            self.rows.retain,
            spec.train,
            spec.seed,
            base=None if build.base_is_target(spec) else lambda: self.start.open(spec.model),
            progress=self.progress,
        )
        method.apply(context)
        return calibrate(
            self.target,
            pipeline.artifact_of(method, self.target, context.adapter),
            self.rows.scored_forget,
            self.rows.scored_retain,
            self.settings,
            seed=spec.seed,
            resamples=spec.audit.resamples,
            token_budget=spec.audit.token_budget,
            cache=Cache(cache_root() / "tables"),
        )

    def about(self) -> dict[str, Any]:
        """What a reader of the trials must know."""
        return {
            "method": self.resolved.spec.method.name,
            "model": self.resolved.spec.model.name,
            "study": self.key,
            "seed": self.resolved.spec.seed,
            "objective": "minimise extraction strength on the forget rows at alpha* (UWC)",
            "calibrate": self.settings.model_dump(mode="json"),
            "space": [str(one) for one in self.space],
            "held_apart_by": self.rows.unit,
            "rows": _counts(self.rows),
        }


def _prepared(resolved: Resolved, space: Sequence[str]) -> tuple[list[Range], TuningData]:
    """(space, rows), after everything that can be refused without a model."""
    spec = resolved.spec
    data, _, _ = refusing.refuse_early(spec)
    if data.modality != "text":
        raise NeedsError(
            "tune.needs-text",
            f"{data.name} holds {data.modality}s, and extraction strength needs answers.",
            "tune a method on text, or search its settings by hand with `efface bench`.",
        )
    refusing.method_for(spec, data)
    ranges = parse_space(space) if space else default_space(resolved)
    check_space(spec, ranges)
    return ranges, tuning_data(data, spec.seed)


def _counts(rows: TuningData) -> dict[str, int]:
    return {name: len(getattr(rows, name)) for name in ("forget", "retain", "scored_forget", "scored_retain")}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise NeedsError(
            "tune.needs-optuna",
            "Tuning needs the package optuna, which is not installed.",
            'pip install "efface[tune]"',
        ) from None
    return optuna
