"""RunSpec: everything one run depends on, typed, with the origin of every value and a hash.

Precedence: default < recipe < file < ``--set``. An unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import field_validator

from efface import suites
from efface.engine.settings import TrainSettings
from efface.errors import SpecError
from efface.merging import leaves, merge, merge_into, nested
from efface.plain_yaml import BadYaml, parse_plain, read_plain
from efface.recipes import recipe
from efface.settings import Settings, parse, setting

SOURCES = ("target", "reference", "reference_2")  # roles that a run trains or is given
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class TinySpec(Settings):
    """Size of the model trained from scratch when ``model.name`` is ``tiny``."""

    width: int = setting(192, "hidden size", source="stack.md 2.3", ge=8)
    layers: int = setting(3, "decoder layers", source="stack.md 2.3", ge=1)
    ff: int = setting(512, "MLP size", source="stack.md 2.3", ge=8)
    heads: int = setting(4, "attention heads", source="stack.md 2.3", ge=1)


class ModelSpec(Settings):
    """The base model."""

    name: str = setting("tiny", "alias (smollm2-135m, tiny, cnn), local folder, GGUF file or hub id")
    template: str = setting("auto", "auto, chat, plain, or a format string with {question}")
    compute: Literal["auto", "bf16", "fp32"] = setting("auto", "compute dtype; weights are always float32 masters")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 ...")
    context: int | None = setting(None, "longest sequence in tokens (none: the model's own limit)", ge=8)
    tiny: TinySpec = setting(TinySpec(), "size of the tiny model")


class DataSpec(Settings):
    """Where the rows come from; ``request`` of the run spec overrides it."""

    benchmark: str = setting("people", "benchmark (`efface list benchmarks`)")
    settings: dict[str, Any] = setting({}, "settings of the benchmark")


class SourceSpec(Settings):
    """How the target or the reference comes about."""

    kind: Literal["train", "folder", "none"] = setting(
        "train", "train: fine-tune the base model on the benchmark's rows; folder: yours; none: there is none"
    )
    path: str | None = setting(None, "folder of the model (kind: folder)")
    train: TrainSettings = setting(TrainSettings(), "training settings (kind: train)")
    seed: int | None = setting(None, "seed of its training (none: the run's seed)")


class SecondSpec(Settings):
    """Another reference: what two models that never saw the forget rows differ in is noise of the seed."""

    kind: Literal["train", "folder", "none"] = setting(
        "none", "train: as the reference, with another seed; folder: yours; none: there is none"
    )
    path: str | None = setting(None, "folder of the model (kind: folder)")
    seed: int | None = setting(None, "seed of its training (none: the reference's seed and 1)")


class MethodSpec(Settings):
    """Which method, with its settings."""

    name: str = setting("npo", "method (`efface list methods`)")
    settings: dict[str, Any] = setting({}, "settings of the method (`efface show NAME`)")


class AuditSpec(Settings):
    """What is measured."""

    suite: str = setting(
        "people", "suite (`efface list suites`) or a YAML file; the one made for the rows where none is named"
    )
    attacks: tuple[str, ...] | None = setting(
        None,
        "only these attacks, of the suite or at their defaults; `all`: those of the suite and every other one there is "
        "(none: those of the suite)",
    )
    threat: Literal["black-box", "grey-box", "white-box"] = setting("white-box", "strongest attacker considered")
    minutes: float | None = setting(
        None, "time for attacks: cheapest first, what does not fit is left out by name (none: all of them)", gt=0
    )
    judge: str | None = setting(
        None, "folder of an NLI model that judges open answers (none: by their words, marked as a proxy)"
    )
    score_base: bool = setting(
        False, "also score the base model, if there is one: what was known before any fine-tuning (a pass more a set)"
    )
    max_new_tokens: int | None = setting(None, "longest greedy answer in tokens (none: what the suite says)", ge=1)
    resamples: int = setting(1000, "bootstrap resamples over entities", ge=100)
    token_budget: int = setting(4096, "padded tokens per evaluation batch; only memory and speed depend on it", ge=64)

    @field_validator("attacks", mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        """A single name stands for a list of one."""
        return (value,) if isinstance(value, str) else value


class RunSpec(Settings):
    """One run: model, data, method, training, audit, seed."""

    model: ModelSpec = setting(ModelSpec(), "the base model")
    data: DataSpec = setting(DataSpec(), "the rows")
    request: str | None = setting(None, "path of a ForgetRequest (JSON); overrides data")
    target: SourceSpec = setting(SourceSpec(), "the model to be unlearned")
    reference: SourceSpec = setting(SourceSpec(), "the model retrained without the forget set")
    reference_2: SecondSpec = setting(SecondSpec(), "a second reference: a residue must exceed both")
    method: MethodSpec = setting(MethodSpec(), "how it forgets")
    train: TrainSettings = setting(TrainSettings(), "training settings of the method")
    audit: AuditSpec = setting(AuditSpec(), "what is measured")
    seed: int = setting(0, "seed of everything random in the run", ge=0)
    keep_text: bool = setting(False, "write forget text into the record (off: keyed hashes)")
    out: str = setting("runs", "folder of run directories")


@dataclass(frozen=True)
class Resolved:
    """A spec with the origin of each leaf ({"train.lr": "recipe npo/tiny", ...}) and its hash (without ``out``)."""

    spec: RunSpec
    origins: dict[str, str]

    @property
    def hash(self) -> str:
        """Hex digest of everything that changes results."""
        data = self.spec.model_dump(mode="json", exclude={"out"})
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved spec as YAML, with the origin of everything that is not a default in a table beside it."""
        body = {"spec": self.spec.model_dump(mode="json"), "origins": self.origins, "hash": self.hash}
        return yaml.safe_dump(body, sort_keys=False, allow_unicode=True)


def resolve(*layers: tuple[str, Mapping[str, Any]]) -> Resolved:
    """Merge ``layers`` ((origin, values), weakest first) over the recipes of the model and the method they name."""
    given = merge(layers)
    model = _text(given, "model", "name", "tiny")
    method = _text(given, "method", "name", "npo")
    asked = _asked_by_suite(given)
    benchmark = _text(merge([*asked, *layers]), "data", "benchmark", "people")
    recipes = [
        (f"recipe {name}/{section}", values)
        for name, (section, values) in ((n, recipe(n, model, benchmark)) for n in ("models", method))
        if values
    ]
    layers = (*recipes, *asked, *_fitting_suite(given, benchmark), *_published(benchmark), *layers)
    spec: RunSpec = parse(RunSpec, merge(layers), "")
    origins = {path: origin for origin, layer in layers for path in leaves(layer)}
    return Resolved(spec, origins)


def _asked_by_suite(given: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The rows that the suite is made for, where the user names a suite and no data."""
    name = _text(given, "audit", "suite", "")
    if not name or given.get("request") or _text(given, "data", "benchmark", ""):
        return []
    benchmark = suites.load(name).benchmark
    return [(f"suite {name}", {"data": {"benchmark": benchmark}})] if benchmark else []


def _fitting_suite(given: Mapping[str, Any], benchmark: str) -> list[tuple[str, dict[str, Any]]]:
    """The suite made for the rows, where the user names none: the benchmark's own, or the one for people's own rows."""
    name = "deletion_request" if given.get("request") or benchmark == "files" else benchmark
    if name == "people_axis":
        name = _text(given, "data", "settings", "axis", "muse")
    return [("suite of the rows", {"audit": {"suite": name}})] if name in suites.names() else []


def _published(benchmark: str) -> list[tuple[str, dict[str, Any]]]:
    """The prompt format of the benchmark's published protocol, where it has one."""
    from efface.data.benchmarks.base import BENCHMARKS

    template = BENCHMARKS.get(benchmark).template if benchmark in BENCHMARKS.names() else ""
    return [(f"protocol of {benchmark}", {"model": {"template": template}})] if template else []


def load(path: Path) -> dict[str, Any]:
    """A spec file (YAML), as plain values. Also reads the ``spec.yaml`` of a run directory."""
    if not path.is_file():
        raise SpecError(
            "spec.missing-file", f"There is no spec file {path}.", "check the path, or start from `efface new spec`."
        )
    try:
        values = read_plain(path)
    except BadYaml as error:
        raise SpecError("spec.bad-yaml", f"{path} is not readable YAML: {error}.", "fix what is named above.") from None
    if isinstance(values, dict) and set(values) == {"spec", "origins", "hash"}:
        values = values["spec"]
    if not isinstance(values, dict):
        raise SpecError(
            "spec.bad-yaml", f"{path} does not hold a mapping.", "write keys such as `method:` at the top level."
        )
    return values


def parse_spec(values: Mapping[str, Any]) -> RunSpec:
    """Complete values (as in the ``spec.yaml`` of a run) as a spec, without recipes."""
    return parse(RunSpec, dict(values), "")


def overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["train.lr=1e-4", "method.beta=0.2"]`` as nested values. ``method.X`` is short for ``method.settings.X``,
    ``data.X`` for ``data.settings.X``."""
    values: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path.strip():
            raise SpecError(
                "spec.bad-set",
                f"--set {pair!r} is not of the form path=value.",
                "write for example --set train.lr=1e-4.",
            )
        keys = path.strip().split(".")
        if keys[0] in ("method", "data") and len(keys) == 2 and keys[1] not in ("name", "settings", "benchmark"):
            keys.insert(1, "settings")
        merge_into(values, nested(keys, _value(text, pair)))
    return values


def _value(text: str, pair: str) -> Any:
    """YAML value; ``1e-4`` is a number although YAML 1.1 wants a dot."""
    if NUMBER.fullmatch(text.strip()):
        return float(text)
    try:
        return parse_plain(text)
    except BadYaml as error:
        raise SpecError(
            "spec.bad-set",
            f"--set {pair[:200]!r}: the value is not readable YAML ({error}).",
            "put it in quotes, e.g. --set 'a.b=\"text\"'.",
        ) from None


def _text(values: Mapping[str, Any], *path: Any) -> str:
    *keys, default = path
    place: Any = values
    for key in keys:
        place = place.get(key, {}) if isinstance(place, Mapping) else {}
    return place if isinstance(place, str) else default
