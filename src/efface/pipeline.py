"""One straight line from request to report. Each stage reads what the one before it wrote and can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import build, checking, refusing
from efface.artifact import Artifact, Edit, LoRA, Weights
from efface.audit import audit as auditing
from efface.build import Made
from efface.data.rows import Bundle
from efface.errors import ModelError
from efface.models.base import ModelAdapter
from efface.models.folder_check import adapter_base, is_adapter
from efface.models.folders import content_sha256
from efface.models.open import open_adapter
from efface.progress import SILENT, Progress
from efface.running import Run, running
from efface.runs import provenance
from efface.runs.layout import write_json
from efface.spec import SOURCES, Resolved, RunSpec

if TYPE_CHECKING:
    from efface.methods.base import Method


def unlearn(resolved: Resolved, progress: Progress = SILENT) -> Path:
    """Build or find target and reference, make the target forget, audit, write the record; the run directory's path."""
    spec = resolved.spec
    threads(spec)
    data, request, suite = refusing.refuse_early(spec)
    method = refusing.method_for(spec, data)
    with running(resolved, data, request, suite, spec.method.name, progress) as run:
        with run.stage("models"):
            start = build.base(spec, data, progress)
            target = build.made("target", spec, data, start, progress, run.record.training_log("target")) or start
            references = {
                role: build.made(role, spec, data, start, progress, run.record.training_log(role))
                for role in SOURCES[1:]
            }
        with run.stage("unlearn"):
            training = _unlearn(run, method, start, target)
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        made = {"target": target, **references, "base": None if build.base_is_target(spec) else start}
        return _finish(run, made, lambda: open_unlearned(run.folder / "model", target, resolved), training)


def audit(unlearned: Path, resolved: Resolved, progress: Progress = SILENT) -> Path:
    """Audit a model that exists already; nothing is trained but what attacks train."""
    resolved = checking.on_target(resolved, unlearned)
    spec = resolved.spec
    threads(spec)
    data, request, suite = refusing.refuse_early(spec)
    checking.check_unlearned(unlearned, spec, data)
    content = content_sha256(unlearned)
    key = hashlib.sha256(f"audit {content} {resolved.hash}".encode()).hexdigest()  # the spec does not name the model
    with running(resolved, data, request, suite, "audit", progress, key) as run:
        start, warnings = _base(unlearned, spec, data, progress)
        first = start or Made(unlearned, "folder", content)
        made = {role: build.made(role, spec, data, first, progress) for role in SOURCES}
        warnings += _foreign(unlearned, made["target"])
        return _finish(
            run,
            made | {"base": start},
            lambda: open_unlearned(unlearned, made["target"], resolved),
            {"warnings": warnings} if warnings else {},
        )


def _base(unlearned: Path, spec: RunSpec, data: Bundle, progress: Progress) -> tuple[Made | None, list[str]]:
    """(the model before any fine-tuning, warnings). An audit goes on without one unless something is to be trained from
    it; its weights are loaded when a table or an attack asks for them."""
    if not checking.has_base(spec, unlearned):
        return None, []
    try:
        return build.base(spec, data, progress), []
    except ModelError as error:
        if any(getattr(spec, role).kind == "train" for role in SOURCES):
            raise
        return None, [f"There is no base model: [{error.code}] {error.cause}"]


def _foreign(unlearned: Path, target: Made | None) -> list[str]:
    """A warning where a PEFT adapter names another model than the target that it is put on."""
    if target is None or not is_adapter(unlearned):
        return []
    named = adapter_base(unlearned)
    if not named or checking.same_folder(named, target.folder):
        return []
    name = Path(named).name if Path(named).is_absolute() else named
    return [
        f"The adapter was put on the target that was given, {target.folder.name}; it says itself that it belongs to "
        f"{name[:200]!r} (base_model_name_or_path), which was not opened."
    ]


def threads(spec: RunSpec) -> None:
    """One thread for the models that are too small to gain from two; on a busy machine waiting for each other costs far
    more than it gains. An explicit OMP_NUM_THREADS is left alone."""
    import torch

    if spec.model.name in ("tiny", "cnn") and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def open_unlearned(folder: Path, target: Made | None, resolved: Resolved) -> ModelAdapter:
    """The unlearned model: a full folder, or an artifact or PEFT adapter put on its target."""
    if refusing.is_artifact(folder) and target is not None:
        return Artifact.load(folder).attach(target.open(resolved.spec.model))
    if is_adapter(folder) and target is not None:
        return open_adapter(folder, target.open(resolved.spec.model))
    return Made(folder, "folder", "").open(resolved.spec.model)


def _unlearn(run: Run, method: Method, start: Made, target: Made) -> dict[str, Any]:
    """Run the method on a copy of the target and save the artifact; skipped when it is there."""
    folder = run.folder / "model"
    if (folder / "artifact.json").is_file():
        return json.loads((run.folder / "training.json").read_text())
    from efface.methods.base import Context

    spec = run.resolved.spec
    before = target.open(spec.model)
    context = Context(
        before.clone(),
        run.data.train["forget"],
        run.data.train.get("retain", ()),
        spec.train,
        spec.seed,
        base=None if build.base_is_target(spec) else lambda: start.open(spec.model),
        progress=run.progress,
        checkpoints=run.checkpoints,
        log=run.record.training_log("unlearn"),
    )
    started = time.perf_counter()
    method.apply(context)
    training = {
        "method": method.name,
        "seconds": round(time.perf_counter() - started, 2),
        "history": run.record.history("unlearn"),
        **context.notes.get("training", {}),
    }
    artifact = artifact_of(method, before, context.adapter)
    training |= _moved(artifact, before, spec.method.name, context)
    write_json(run.folder / "training.json", training)
    _save(artifact, context.adapter, folder)
    return training


def artifact_of(method: Any, before: ModelAdapter, after: ModelAdapter) -> Artifact:
    """The artifact of a trained copy: its LoRA tensors if it was wrapped, otherwise every tensor that differs."""
    if (guard := method.guard(before, after)) is not None:
        return guard
    if hasattr(after.module, "peft_config"):
        return LoRA.of(after, before, method.name)
    return (Edit if method.artifact == "edit" else Weights).between(before, after, method.name)


def _save(artifact: Artifact, after: ModelAdapter, folder: Path) -> None:
    """Full weights are written as a loadable model folder, adapters as their tensors; the folder appears whole."""
    temp = folder.with_name(".model.partial")
    shutil.rmtree(temp, ignore_errors=True)
    try:
        temp.mkdir()
        if isinstance(artifact, Weights):
            after.save(temp)
            artifact.save_head(temp)
        else:
            artifact.save(temp)
        temp.rename(folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _moved(artifact: Artifact, before: ModelAdapter, name: str, context: Any) -> dict[str, Any]:
    """Share of the trained weights that changed, and a warning when updates vanished. A tensor that two layers share (a
    tied head) counts once, and buffers are no weights."""
    if not isinstance(artifact, Weights):
        return {"moved_share": None, "warnings": []}
    params = dict(before.module.named_parameters())  # each tensor under its first name only
    total = sum(p.numel() for p in params.values())
    changed = ((params[k], value) for k, value in artifact.tensors.items() if k in params)
    moved = sum(int((value.to(p.device) != p).sum()) for p, value in changed)
    free = context.notes.get("training", {}).get("trained_parameters", total) or total
    share = moved / free
    warnings = []
    if share < 0.05 and context.train.select.mask == "none":
        warnings.append(
            f"{name} changed only {share:.2%} of the weights it trained: updates vanish. Raise train.lr or train.steps."
        )
    return {"moved_share": share, "warnings": warnings}


def _finish(
    run: Run, made: dict[str, Made | None], unlearned: Callable[[], ModelAdapter], training: dict[str, Any]
) -> Path:
    """Audit, provenance, report, manifest."""
    spec = run.resolved.spec
    there = {role: m for role, m in made.items() if m}
    with run.stage("audit"):
        for left in (run.folder / name for name in ("attacks", "tables", "samples")):
            shutil.rmtree(left, ignore_errors=True)  # of an earlier try, which may have had other attacks or sets
        result = auditing.run(spec, run.data, there, unlearned, run.folder, run.progress)
    about = {"name": run.data.name, "sha256": run.data.digest(), **run.data.facts}
    with run.stage("record"):
        warnings = list(dict.fromkeys([*training.get("warnings", ()), *result.warnings]))
        write_json(run.folder / "training.json", training | {"stages": run.seconds, "warnings": warnings})
        write_json(
            run.folder / "provenance.json",
            provenance.collect(
                seeds={"run": spec.seed},
                models={r: m.to_json() for r, m in there.items()},
                fingerprints=result.fingerprints,
                data=run.privacy.values(about) if run.privacy else about,
            ),
        )
    from efface.report import write_reports

    run.record.complete(lambda: write_reports(run.folder))
    return run.folder
