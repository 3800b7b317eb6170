"""The steps of a schedule, each an ordinary run of the pipeline.

In a sequential plan the model of step k is the target of step k + 1; in the others all steps start from the same
target. Base and target are made once, from the rows of the first step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface import build, pipeline, refusing
from efface.artifact import Artifact
from efface.bench.task import finished
from efface.build import Made
from efface.data.benchmarks.base import BENCHMARKS
from efface.data.plans import Plan, plan_of
from efface.errors import NeedsError
from efface.loading import load_data
from efface.models.cachedir import publish
from efface.models.folders import content_sha256
from efface.progress import SILENT, Progress
from efface.runs.files import write_json
from efface.schedule.curves import curves
from efface.schedule.line import judged
from efface.spec import Resolved, parse_spec


@dataclass(frozen=True)
class Start:
    """What all steps start from."""

    base: Made
    target: Made


def run(resolved: Resolved, kind: str, out: Path, progress: Progress = SILENT) -> dict[str, Any]:
    """Run plan ``kind`` of the spec's benchmark and write ``out/schedule.json`` after every step; the table.

    The same call after a kill goes on: finished steps are taken as they are. Raises ``SpecError``
    schedule.unknown-plan, ``NeedsError`` schedule.needs-weights, and whatever a run raises.
    """
    spec, plan = resolved.spec, planned(resolved, kind)
    pipeline.threads(spec)
    start = _start(resolved, plan, progress)
    rows: list[dict[str, Any]] = []
    target = start.target
    for number, settings in enumerate(plan.steps):
        one = step(resolved, settings, start.base, target, out)
        folder = finished(one) or pipeline.unlearn(one, progress)
        rows.append(row(folder, settings, plan.sizes[number]))
        progress.note(f"{kind} {number + 1} of {len(plan.steps)}: {rows[-1]['conclusion']}")
        if plan.sequential:
            target = Made(whole(folder, target, one, out / "targets" / str(number + 1)), "folder", "")
        table = _table(resolved, kind, plan, rows)
        if plan.line and len(rows) == len(plan.steps):
            table["line"] = judged(one, start.target, plan, rows)
        write_json(out / "schedule.json", table)
    return table


def planned(resolved: Resolved, kind: str) -> Plan:
    """Plan ``kind`` of the spec's benchmark; nothing is loaded."""
    data = resolved.spec.data
    return plan_of(BENCHMARKS.get(data.benchmark)(**data.settings), kind)


def step(resolved: Resolved, settings: Mapping[str, Any], base: Made, target: Made, out: Path) -> Resolved:
    """The spec of one step: its settings of the benchmark, the common base, and the target it starts from."""
    values = resolved.spec.model_dump(mode="json")
    values["data"]["settings"] |= dict(settings)
    values["model"]["name"] = str(base.folder) if base.origin == "initialised" else resolved.spec.model.name
    values["target"] = {"kind": "folder", "path": str(target.folder.absolute())}
    values["out"] = str(out / "runs")
    return Resolved(parse_spec(values), dict(resolved.origins))


def whole(folder: Path, target: Made, resolved: Resolved, place: Path) -> Path:
    """The folder of a finished step's model with all its weights; a low-rank adapter is merged into a folder whose name
    is that of ``place`` and the adapter's hash, which covers the target it belongs to. Guards and wrappers leave the
    weights as they were, so that nothing could start from them: ``NeedsError``."""
    model = folder / "model"
    if not refusing.is_artifact(model):
        return model
    artifact = Artifact.load(model)
    if artifact.kind != "adapter":
        raise NeedsError(
            "schedule.needs-weights",
            f"{resolved.spec.method.name} leaves an artifact of kind {artifact.kind}; the next request needs weights.",
            "choose a method that changes weights, or a plan whose steps do not follow each other.",
        )

    def merge(empty: Path) -> None:
        adapter: Any = artifact.attach(target.open(resolved.spec.model))
        adapter.module = adapter.module.merge_and_unload()
        adapter.save(empty)

    return publish(place.with_name(f"{place.name}-{content_sha256(model)[:16]}"), merge)


def row(folder: Path, settings: Mapping[str, Any], size: float) -> dict[str, Any]:
    """One step of the table, read from its run directory."""
    stored = json.loads((folder / "scores.json").read_text())
    scores: dict[str, dict[str, Any]] = {}
    for s in stored["scores"]:
        if s["value"] is not None:
            kept = {name: s[name] for name in ("value", "low", "high", "direction", "target", "n")}
            scores.setdefault(s["role"], {})[f"{s['name']}.{s['rows']}"] = kept
    return {
        "size": size,
        "settings": dict(settings),
        "run": folder.name,
        "conclusion": json.loads((folder / "conclusion.json").read_text())["label"],
        "seconds": json.loads((folder / "training.json").read_text()).get("seconds"),
        "scores": scores,
    }


def _start(resolved: Resolved, plan: Plan, progress: Progress) -> Start:
    """Base and target, made from the rows of the first step."""
    values = resolved.spec.model_dump(mode="json")
    values["data"]["settings"] |= dict(plan.steps[0])
    spec = parse_spec(values)
    data, _ = load_data(spec)
    base = build.base(spec, data, progress)
    return Start(base, build.made("target", spec, data, base, progress) or base)


def _table(resolved: Resolved, kind: str, plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": 1,
        "plan": kind,
        "benchmark": resolved.spec.data.benchmark,
        "method": resolved.spec.method.name,
        "spec_hash": resolved.hash,
        "sequential": plan.sequential,
        "axis": plan.axis,
        "steps": rows,
        "curves": curves(rows),
    }
