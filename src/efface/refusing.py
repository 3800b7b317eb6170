"""What can be refused before weights are loaded and before anything is written."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from efface import suites
from efface.attacks.base import ATTACKS
from efface.audit import planning
from efface.audit.measure import pairs
from efface.build import base_is_target
from efface.data.benchmarks.base import BENCHMARKS
from efface.data.rows import Bundle
from efface.engine.rules.base import RULES
from efface.errors import ModelError, NeedsError, SpecError
from efface.loading import load_data
from efface.methods.base import METHODS, Context, Method
from efface.metrics.base import METRICS
from efface.models.folder_check import check_folder
from efface.models.nli import check_nli
from efface.request import ForgetRequest
from efface.spec import SOURCES, RunSpec
from efface.suites import Suite


def refuse_early(spec: RunSpec) -> tuple[Bundle, ForgetRequest, Suite]:
    """(rows, request, suite with the attacks that are asked for), after everything that can be refused before weights
    are loaded or anything is written: rows, names and settings of every component, model folders."""
    data, request = load_data(spec)
    suite = suites.load(spec.audit.suite)
    _check_suite(suite, spec, data)
    suite = planning.with_asked(suite, spec.audit.attacks)
    _check_sources(spec, data)
    return data, request, suite


def method_for(spec: RunSpec, data: Bundle) -> Method:
    """The method with its settings; refuses what it can refuse without a model (missing forget or retain rows, ...)."""
    method = METHODS.get(spec.method.name)(**spec.method.settings)
    model: Any = _NotLoaded({"image": "classifier"}.get(data.modality, "causal_lm"))
    context = Context(
        model,
        data.train.get("forget", ()),
        data.train.get("retain", ()),
        spec.train,
        spec.seed,
        base=None if base_is_target(spec) else lambda: model,
    )
    with suppress(_NeedsModel):  # what comes after that is looked at again when the model is there
        method.check(context)
    RULES.get(spec.train.rule or getattr(method, "update_rule", "sum"))(**spec.train.rule_settings)
    return method


class _NeedsModel(Exception):
    """A check came to a question that only a loaded model can answer."""


class _NotLoaded:
    """Stands for a model of which nothing but the family is known yet."""

    def __init__(self, family: str) -> None:
        self.family = family

    def __getattr__(self, name: str) -> Any:
        raise _NeedsModel(name)


def check_unlearned(folder: Path, spec: RunSpec, data: Bundle) -> None:
    """The model that ``audit`` is given: a full folder, or an artifact whose target is named."""
    if not is_artifact(folder):
        _check_folder(folder, data)
    elif spec.target.kind == "none":
        raise NeedsError(
            "audit.needs-target",
            f"{folder} holds an artifact, which needs its target.",
            "name the target with --target.",
        )


def audit_defaults(unlearned: Path, target: Path | None) -> dict[str, Any]:
    """The weakest values of an audit: no other model, and the audited folder (an artifact's target) as the model, which
    decides on recipe, threads, cost and title."""
    alone: dict[str, Any] = {"target": {"kind": "none"}, "reference": {"kind": "none"}}
    audited = target if is_artifact(unlearned) else unlearned
    return alone | ({"model": {"name": str(audited)}} if audited is not None and audited.is_dir() else {})


def is_artifact(folder: Path) -> bool:
    """Whether ``folder`` holds what is put on a target, and no model of its own."""
    return (folder / "artifact.json").is_file() and not (folder / "config.json").is_file()


def _check_suite(suite: Suite, spec: RunSpec, data: Bundle) -> None:
    if suite.modality != data.modality:
        raise SpecError(
            "suite.wrong-modality",
            f"Suite {suite.name} is about {suite.modality}, and {data.name} holds {data.modality}.",
            "set audit.suite to one that fits (`efface list suites`).",
        )
    for name in [*(m.name for m, _ in pairs(suite)), *suite.attack_metrics]:
        METRICS.get(name)
    for entry in suite.attacks:
        ATTACKS.get(entry.name)(**entry.settings)
    if spec.audit.judge:
        check_nli(Path(spec.audit.judge).expanduser())


def _check_sources(spec: RunSpec, data: Bundle) -> None:
    """Models that are there, and rows to train the others on."""
    if BENCHMARKS.get(spec.data.benchmark).pretrained and spec.target.kind == "train" and not spec.request:
        raise NeedsError(
            "target.pretrained",
            f"{data.name} asks for what a pretrained model knows; training a target would teach it the corpus first.",
            "set target.kind and reference.kind to none (the base model is the target), or name your own by folder.",
        )
    folder = Path(spec.model.name).expanduser()
    if data.modality == "image" and spec.model.name != "cnn" and not folder.is_dir():
        raise SpecError(
            "spec.wrong-model",
            f"Benchmark {data.name} holds images, and model {spec.model.name!r} is none for images.",
            "set model.name to cnn, or to a folder with an image classifier.",
        )
    if folder.is_dir():
        _check_folder(folder, data)
    for role in SOURCES:
        source = getattr(spec, role)
        if source.kind == "folder":
            if not source.path:
                raise SpecError(
                    "spec.no-path",
                    f"{role}.kind is folder, but {role}.path is not set.",
                    f"set {role}.path to the model's folder.",
                )
            _check_folder(Path(source.path).expanduser(), data)
    if spec.reference_2.kind == "train" and spec.reference.kind != "train":
        raise NeedsError(
            "reference.no-training",
            f"The second reference is trained as the first one is, and reference.kind is {spec.reference.kind}.",
            "set reference_2.kind to folder (with reference_2.path) or to none.",
        )
    if spec.reference.kind == "train" and base_is_target(spec):
        raise NeedsError(
            "reference.base-knows",
            "A reference is trained from a model that never saw the forget rows, and the only one named is the target.",
            "name the model before fine-tuning with model.name, or set reference.kind to none (or to folder).",
        )
    if spec.reference.kind == "train" and not len(data.train.get("retain", ())):
        raise NeedsError(
            "reference.needs-retain",
            "A reference model is trained on the retain rows, and there are none.",
            "add retain rows to the request, or set reference.kind to none (or to folder, with reference.path).",
        )


def _check_folder(folder: Path, data: Bundle) -> None:
    if data.modality == "text":
        check_folder(folder)
    elif not folder.is_dir():
        raise ModelError("model.missing", f"There is no model folder {folder}.", "check the path.")
