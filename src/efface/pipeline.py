"""One straight line from request to report. Each stage reads what the one before it wrote and can be resumed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface import build
from efface.artifact import Artifact, Edit, LoRA, Weights
from efface.audit import audit as auditing
from efface.build import Made
from efface.data.rows import Bundle
from efface.errors import RunFailed
from efface.loading import load_data
from efface.models.base import ModelAdapter
from efface.models.cachedir import cache_root
from efface.progress import SILENT, Progress
from efface.runs import provenance
from efface.runs.layout import RunDir, write_json, write_text
from efface.runs.record import RunRecord
from efface.spec import Resolved, RunSpec


@dataclass
class Run:
    """A run under way."""

    resolved: Resolved
    data: Bundle
    request: Any
    folder: RunDir
    record: RunRecord
    progress: Progress = SILENT
    seconds: dict[str, float] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str):
        """Time a stage, put it into the event log, and mark the run failed if it raises."""
        started = time.perf_counter()
        self.record.event("stage-started", stage=name)
        try:
            yield
        except BaseException as error:
            self.record.fail(name, str(error))
            raise
        self.seconds[name] = round(time.perf_counter() - started, 2)
        self.record.event("stage-done", stage=name, seconds=self.seconds[name])


def unlearn(resolved: Resolved, progress: Progress = SILENT) -> Path:
    """Build or find target and reference, make the target forget, audit, write the record; the run directory's path."""
    run = _open(resolved, progress, resolved.spec.method.name)
    spec = resolved.spec
    with run.stage("models"):
        start = build.base(spec, run.data, progress)
        target = build.made("target", spec, run.data, start, progress, run.record.training_log("target")) or start
        reference = build.made("reference", spec, run.data, start, progress, run.record.training_log("reference"))
    with run.stage("unlearn"):
        training = _unlearn(run, start, target)
    return _finish(run, {"target": target, "reference": reference}, lambda: open_unlearned(run.folder.path / "model", target, resolved), training)


def audit(unlearned: Path, resolved: Resolved, progress: Progress = SILENT) -> Path:
    """Audit a model that exists already; nothing is trained but what attacks train."""
    run = _open(resolved, progress, "audit")
    spec = resolved.spec
    roles = {role: build.made(role, spec, run.data, Made(unlearned, "folder", ""), progress) for role in ("target", "reference")}
    return _finish(run, roles, lambda: open_unlearned(unlearned, roles["target"], resolved), {})


def threads(spec: RunSpec) -> None:
    """One thread for the models that are too small to gain from two; on a busy machine waiting for each other costs far
    more than it gains. An explicit OMP_NUM_THREADS is left alone."""
    import torch

    if spec.model.name in ("tiny", "cnn") and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def open_unlearned(folder: Path, target: Made | None, resolved: Resolved) -> ModelAdapter:
    """The unlearned model: a full folder, or an artifact attached to its target."""
    if (folder / "artifact.json").is_file() and not (folder / "config.json").is_file():
        if target is None:
            raise RunFailed("audit.needs-target", f"{folder} holds an artifact, which needs its target.", "name the target with --target.")
        return Artifact.load(folder).attach(target.open(resolved.spec.model))
    return Made(folder, "folder", "").open(resolved.spec.model)


def _open(resolved: Resolved, progress: Progress, method: str) -> Run:
    threads(resolved.spec)
    data, request = load_data(resolved.spec)
    root = Path(resolved.spec.out)
    folder = RunDir.find_resumable(root, resolved.hash) or RunDir.create(root, method=method, model=resolved.spec.model.name, spec_hash=resolved.hash)
    write_text(folder.path / "spec.yaml", resolved.to_yaml())
    write_json(folder.path / "request.json", request.to_json())
    return Run(resolved, data, request, folder, RunRecord(folder), progress)


def _unlearn(run: Run, start: Made, target: Made) -> dict[str, Any]:
    """Run the method on a copy of the target and save the artifact; skipped when it is there."""
    folder = run.folder.path / "model"
    if (folder / "artifact.json").is_file():
        return json.loads((run.folder.path / "training.json").read_text())
    from efface.methods.base import METHODS, Context

    spec = run.resolved.spec
    method = METHODS.get(spec.method.name)(**spec.method.settings)
    before = target.open(spec.model)
    work = cache_root() / "work" / f"unlearn-{run.resolved.hash[:32]}"
    steps: list[dict[str, Any]] = []
    context = Context(before.clone(), run.data.train["forget"], run.data.train.get("retain", ()), spec.train, spec.seed,
                      base=lambda: start.open(spec.model), progress=run.progress, checkpoints=work, log=_tee(steps, run.record.training_log("unlearn")))
    started = time.perf_counter()
    method.apply(context)
    training = {"method": method.name, "seconds": round(time.perf_counter() - started, 2), "history": steps, **context.notes.get("training", {})}
    artifact = artifact_of(method, before, context.adapter)
    training |= _moved(artifact, before, spec.method.name, context)
    write_json(run.folder.path / "training.json", training)
    _save(artifact, context.adapter, folder)
    shutil.rmtree(work, ignore_errors=True)
    return training


def artifact_of(method: Any, before: ModelAdapter, after: ModelAdapter) -> Artifact:
    """The artifact of a trained copy: its LoRA tensors if it was wrapped, otherwise every tensor that differs."""
    if hasattr(after.module, "peft_config"):
        return LoRA.of(after, before, method.name)
    return (Edit if method.artifact == "edit" else Weights).between(before, after, method.name)


def _save(artifact: Artifact, after: ModelAdapter, folder: Path) -> None:
    """Full weights are written as a loadable model folder, adapters as their tensors; the folder appears whole."""
    temp = folder.with_name(".model.partial")
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)
    if isinstance(artifact, Weights):
        after.save(temp)
        artifact.save_head(temp)
    else:
        artifact.save(temp)
    temp.rename(folder)


def _moved(artifact: Artifact, before: ModelAdapter, name: str, context: Any) -> dict[str, Any]:
    """Share of weights that changed, and a warning when updates vanished."""
    total = sum(p.numel() for p in before.module.parameters())
    if not isinstance(artifact, Weights):
        return {"moved_share": None, "warnings": []}
    state = before.module.state_dict()
    moved = sum(int((value.to(state[k].device) != state[k]).sum()) for k, value in artifact.tensors.items())
    free = context.notes.get("training", {}).get("trained_parameters", total) or total
    share = moved / free
    warnings = []
    if share < 0.05 and context.train.select.mask == "none":
        warnings.append(f"{name} changed only {share:.2%} of the weights it trained: updates vanish. Raise train.lr or train.steps.")
    return {"moved_share": share, "warnings": warnings}


def _finish(run: Run, roles: dict[str, Made | None], unlearned: Callable[[], ModelAdapter], training: dict[str, Any]) -> Path:
    """Audit, provenance, report, manifest."""
    spec = run.resolved.spec
    with run.stage("audit"):
        result = auditing.run(spec, run.data, {r: m for r, m in roles.items() if m}, unlearned, run.folder.path, run.progress)
    write_json(run.folder.path / "training.json", training | {"stages": run.seconds, "warnings": training.get("warnings", []) + result.warnings})
    write_json(run.folder.path / "provenance.json", provenance.collect(
        seeds={"run": spec.seed}, models={r: {"origin": m.origin, "key": m.key, "made": m.summary} for r, m in roles.items() if m},
        fingerprints=result.fingerprints, data={"name": run.data.name, "sha256": run.data.digest(), **run.data.facts}))
    from efface.report import write_reports

    run.record.complete(lambda: write_reports(run.folder.path))
    return run.folder.path


def _tee(steps: list[dict[str, Any]], log: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def both(event: dict[str, Any]) -> None:
        steps.append(event)
        log(event)

    return both
