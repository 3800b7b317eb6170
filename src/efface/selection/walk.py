"""The path of a method, epoch by epoch or strength by strength, to where MUSE's rule ends it, and the run there.

A method with epochs is trained once, and measured after each; its state at the chosen one is handed to an ordinary run
as that run's own checkpoint, so that the run is the one that so many epochs give, bit for bit. Where a step depends on
how many there will be (``looks_ahead``, weight averages), every point is trained from the start.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface import build, pipeline, refusing
from efface.audit.measure import measure
from efface.audit.measure import plan as announce
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Bundle
from efface.engine.rules.base import RULES, Rule
from efface.errors import NeedsError, SpecError
from efface.methods.base import METHODS, Context, LossMethod, Method
from efface.metrics.base import METRICS, Score
from efface.models.base import ModelAdapter
from efface.models.cachedir import cache_root
from efface.passes.cache import Cache
from efface.progress import SILENT, Progress
from efface.request import ForgetRequest
from efface.running import running
from efface.runs.files import read_json, write_json
from efface.runs.record import RunRecord
from efface.selection.rule import CAVEAT, EPOCHS, ORIGIN, RULE, SelectSettings, choose, passes
from efface.spec import Resolved, RunSpec
from efface.suites import Suite
from efface.tuning.space import applied

VERSION = 1  # raised when the same path would have other values


@dataclass(frozen=True)
class Selected:
    """``run``: the run directory of what was chosen; ``found``: its ``selection.json``."""

    run: Path
    found: dict[str, Any]


def select(resolved: Resolved, settings: SelectSettings | None = None, progress: Progress = SILENT) -> Selected:
    """Walk until MUSE's rule is content, then unlearn and audit at what it chose. The same call after a kill goes on.

    ``selection.json`` of the run directory holds the whole path with the scores of every point, and its events hold one
    ``selection`` each. Raises what a run would raise early, and ``NeedsError`` "select.needs-reference",
    "select.no-path", "select.no-score", ``SpecError`` "select.wrong-metric", "select.needs-constant".
    """
    spec, own = resolved.spec, settings or SelectSettings()
    pipeline.threads(spec)
    data, request, suite = refuse_early(spec, own)
    start = build.base(spec, data, progress)
    target = build.made("target", spec, data, start, progress) or start
    reference = build.made("reference", spec, data, start, progress)
    assert reference is not None
    parts = [VERSION, resolved.hash, own.model_dump(mode="json"), data.digest(), target.key, reference.key]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    work = cache_root() / "work" / f"select-{key[:32]}"
    work.mkdir(parents=True, exist_ok=True)
    with RunRecord(work) as record:
        walk = _Walk(resolved, own, data, suite, start, target, reference, work, record, progress)
        found = walk.go()
        chosen = Resolved(
            walk.at(found["chosen"]),
            {k: v for k, v in resolved.origins.items() if k != walk.setting} | {walk.origin_path(): ORIGIN},
        )
        walk.hand_over(chosen, request, found)
        folder = pipeline.unlearn(chosen, progress)
    shutil.rmtree(work, ignore_errors=True)
    return Selected(folder, found)


def plan(resolved: Resolved, settings: SelectSettings | None = None) -> dict[str, Any]:
    """What would be walked along, with nothing loaded but the data."""
    spec, own = resolved.spec, settings or SelectSettings()
    data, _, _ = refuse_early(spec, own)
    cls = METHODS.get(spec.method.name)
    values = values_of(spec, own, cls)
    lines = [
        f"{cls.name} on {spec.model.name}, {path_of(cls)}: {', '.join(f'{v:g}' for v in values)}",
        f"ends at {RULE} ({own.metric} on {len(data.eval[own.rows])} {own.rows} rows; logged: {', '.join(own.beside)})",
    ]
    return {"setting": path_of(cls), "values": values, "metric": f"{own.metric}.{own.rows}", "lines": lines}


# -- what can be refused before anything is loaded ----------------------------------------------------------------
def refuse_early(spec: RunSpec, own: SelectSettings) -> tuple[Bundle, ForgetRequest, Suite]:
    """(rows, request, suite), after everything that can be refused without a model."""
    data, request, suite = refusing.refuse_early(spec)
    if spec.reference.kind == "none":
        raise NeedsError(
            "select.needs-reference",
            "The rule compares with a model that never saw the forget rows, and reference.kind is none.",
            "set reference.kind to train, or to folder with reference.path; without one, choose by `efface tune`.",
        )
    cls = METHODS.get(spec.method.name)
    if not (cls.strength or issubclass(cls, LossMethod)):
        raise NeedsError(
            "select.no-path",
            f"{cls.name} has neither epochs over the forget rows nor a strength to go along.",
            "search its settings with `efface tune`.",
        )
    if not cls.strength:
        _check_epochs(spec)
    _check_metric(spec, own, data)
    refusing.method_for(applied(spec, {path_of(cls): values_of(spec, own, cls)[0]}), data)
    return data, request, suite


def _check_epochs(spec: RunSpec) -> None:
    wanted = {k: v for k, v in EPOCHS["train"].items() if k != "epochs" and getattr(spec.train, k) != v}
    if spec.train.epochs < 1 or spec.train.epochs % 1:
        wanted["epochs"] = "a whole number"
    if wanted:
        now = ", ".join(f"train.{k} is {getattr(spec.train, k)}" for k in wanted)
        raise SpecError(
            "select.needs-constant",
            f"k epochs must be the beginning of the longest run, and {now}.",
            "set " + ", ".join(f"train.{k} to {'null' if v is None else v}" for k, v in wanted.items()) + ".",
        )


def _check_metric(spec: RunSpec, own: SelectSettings, data: Bundle) -> None:
    metric = METRICS.get(own.metric)
    for name in own.beside:
        METRICS.get(name)
    if metric.orientation != "knowledge" or data.modality not in metric.families:
        raise SpecError(
            "select.wrong-metric",
            f"The rule needs a metric of {data.modality} that is larger the more is known, and {own.metric} is not.",
            "choose another with --metric (MUSE: muse_knowmem; `efface list metrics`).",
        )
    if not len(data.eval.get(own.rows, ())):
        raise NeedsError(
            "select.no-score",
            f"{own.metric} of the reference was not computed: {spec.data.benchmark} has no {own.rows} rows to score.",
            "name a request or benchmark with evaluation rows for what is to be forgotten.",
        )


def path_of(cls: type[Method]) -> str:
    """The setting that grows along the path."""
    return f"method.{cls.strength}" if cls.strength else "train.epochs"


def values_of(spec: RunSpec, own: SelectSettings, cls: type[Method]) -> list[float]:
    """Its values, in the order they are tried."""
    return list(own.strengths) if cls.strength else [float(k) for k in range(1, int(spec.train.epochs) + 1)]


# -- the path ------------------------------------------------------------------------------
@dataclass
class _Walk:
    """What every point shares, and the points so far, which ``work/selection.json`` keeps."""

    resolved: Resolved
    own: SelectSettings
    data: Bundle
    suite: Suite
    start: build.Made
    target: build.Made
    reference: build.Made
    work: Path
    record: RunRecord
    progress: Progress
    path: list[dict[str, Any]] = field(default_factory=list)
    known: dict[tuple[str, str, str, str], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spec = self.resolved.spec
        self.cls = METHODS.get(self.spec.method.name)
        self.setting, self.checkpoints = path_of(self.cls), self.work / "checkpoints"
        self.file = self.work / "selection.json"
        self.rule = RULES.get(self.spec.train.rule or getattr(self.cls, "update_rule", "sum"))
        aside = getattr(self.cls, "looks_ahead", False) or self.rule.finish is not Rule.finish
        self.once = not self.cls.strength and not aside  # one training passes through all points

    def origin_path(self) -> str:
        """The setting as origins name it."""
        return self.setting.replace("method.", "method.settings.")

    def at(self, value: float) -> RunSpec:
        """The spec of a point."""
        return applied(self.spec, {self.setting: value})

    def go(self) -> dict[str, Any]:
        """The finished account; what an earlier call measured is not measured again."""
        stored = read_json(self.file) if self.file.is_file() else {}
        if stored.get("chosen") is not None:
            return stored
        self.path = stored.get("path", [])
        self._measure_others()
        if self.once:
            context = self._context(self.spec, self.checkpoints)
            context.each_epoch = lambda epoch: self._point(float(epoch), context.adapter)
            self._method(self.spec).apply(context)
        else:
            self._one_by_one()
        point = choose(self.path)
        found = self._account() | {"chosen": point["value"], "reached": point["passes"]}
        write_json(self.file, found)
        return found

    def _one_by_one(self) -> None:
        """Every point from the start; those of a strength share the checkpoints of what comes before it."""
        for value in values_of(self.spec, self.own, self.cls):
            if not self._known(value):
                spec = self.at(value)
                context = self._context(spec, self.checkpoints if self.cls.strength else None)
                self._method(spec).apply(context)
                self._point(value, context.adapter)
            if self.path[-1]["passes"]:
                return

    def _method(self, spec: RunSpec) -> Method:
        return METHODS.get(spec.method.name)(**spec.method.settings)

    def _context(self, spec: RunSpec, checkpoints: Path | None) -> Context:
        return Context(
            self.target.open(spec.model),
            self.data.train["forget"],
            self.data.train.get("retain", ()),
            spec.train,
            spec.seed,
            base=None if build.base_is_target(spec) else lambda: self.start.open(spec.model),
            progress=self.progress,
            checkpoints=checkpoints,
            log=self.record.training_log("unlearn"),
        )

    def _known(self, value: float) -> dict[str, Any] | None:
        return next((point for point in self.path if point["value"] == value), None)

    def _point(self, value: float, adapter: ModelAdapter) -> bool:
        """Measure a point and keep it; whether the path ends there."""
        point = self._known(value)
        if point is None:
            scores = {s.name: s for s in self._scores("unlearned", Role(lambda: adapter))}
            shown = {f"{s.name}.{s.rows}": s.value for s in scores.values()}
            point = {"value": value, "scores": shown, "passes": passes(scores[self.own.metric].value, self.limit)}
            self.path.append(point)
            write_json(self.file, self._account())
            told = ", ".join(f"{name} {'-' if v is None else f'{v:.3f}'}" for name, v in shown.items())
            self.progress.note(f"{self.setting} {value:g}: {told} (reference {self.limit:.3f})")
        return point["passes"]

    # -- measuring ------------------------------------------------------------------------------
    def _measure_others(self) -> None:
        """The reference, whose score is the limit, and the target, where the path starts."""
        self.reference_role = Role(lambda: self.reference.open(self.spec.model))
        mine = self._scores("reference", self.reference_role)
        self.reference_role.drop()
        limit = next(s for s in mine if s.name == self.own.metric)
        if limit.value is None:
            raise NeedsError(
                "select.no-score",
                f"{limit.name} of the reference was not computed: {limit.reason}.",
                "choose a metric that these rows allow with --metric (`efface list metrics`).",
            )
        self.limit = limit.value
        self.others = {
            "reference": mine,
            "target": self._scores("target", Role(lambda: self.target.open(self.spec.model))),
        }

    def _scores(self, role: str, model: Role) -> list[Score]:
        """The metrics of the rule for one model, by the passes of the audit; tables of the reference are kept."""
        asked: dict[str, list[str]] = {self.own.rows: [self.own.metric]}
        asked.setdefault(self._member_rows(), []).extend(n for n in self.own.beside if n != self.own.metric)
        suite = Suite(name="selection", metrics=asked)
        settings = PassSettings.of(self.spec.audit, self.suite, self.spec.seed)
        store = Store(
            {"reference": self.reference_role, role: model},
            self.data.eval,
            settings,
            Cache(cache_root() / "tables"),
            world=self.data.world,
        )
        store.preload(self.known)
        announce(store, suite)
        found = measure(store, suite, role, seed=self.spec.seed, resamples=self.spec.audit.resamples)
        self.known |= {place: table for place, table in store.tables() if place[0] == "reference"}
        return found

    def _member_rows(self) -> str:
        """Where membership is measured: on passages, if there are any."""
        return "passages_forget" if "passages_forget" in self.data.eval else self.own.rows

    # -- the record ------------------------------------------------------------------------------
    def _account(self) -> dict[str, Any]:
        scores = {role: {f"{s.name}.{s.rows}": s.value for s in found} for role, found in self.others.items()}
        return {
            "schema": 1,
            "rule": RULE,
            "caveat": CAVEAT,
            "method": self.cls.name,
            "setting": self.setting,
            "values": values_of(self.spec, self.own, self.cls),
            "metric": f"{self.own.metric}.{self.own.rows}",
            "limit": self.limit,
            **scores,
            "path": self.path,
            "not_computed": {s.name: s.reason for s in self.others["target"] if s.reason},
            "chosen": None,
            "reached": False,
        }

    def hand_over(self, chosen: Resolved, request: ForgetRequest, found: dict[str, Any]) -> None:
        """Put the path, the steps and the state that was reached into the run directory of ``chosen``."""
        with running(chosen, self.data, request, self.suite, self.spec.method.name, self.progress) as run:
            write_json(run.folder / "selection.json", found)
            for point in found["path"]:
                run.record.event("selection", stage="unlearn", setting=self.setting, **point)
            if not self.checkpoints.is_dir():
                return
            history = self.record.history("unlearn")
            for step in history:
                run.record.log(step | ({"of": history[-1]["step"]} if self.once else {}))
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            shutil.move(self.checkpoints, run.checkpoints)
