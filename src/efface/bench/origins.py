"""Where each value of a run came from: the paper, a recipe, the user, the equal budget, or nowhere but the default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from efface.bench.budget import EQUAL
from efface.engine.settings import TrainSettings
from efface.merging import leaves
from efface.methods.base import METHODS
from efface.settings import describe
from efface.spec import RunSpec

OURS = ("derived", "stack.md", "sheet", "measured")


def settings_of(spec: RunSpec, origins: Mapping[str, str]) -> list[dict[str, Any]]:
    """{"setting", "value", "kind", "origin"} of every setting of the method, and of every training setting that is not
    left at its default."""
    return [*_method(spec, origins), *_train(spec, origins)]


def _method(spec: RunSpec, origins: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    cls = METHODS.get(spec.method.name)
    values = cls(**spec.method.settings).settings.model_dump(mode="json")
    sources = {line["name"]: line["source"] for line in describe(cls.Settings)}
    for name, value in values.items():
        given = _given(origins, f"method.settings.{name}")
        yield {"setting": f"method.{name}", "value": value} | (given or _default(sources[name]))


def _train(spec: RunSpec, origins: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    dumped = spec.train.model_dump(mode="json")
    for path in leaves(dumped):
        given, value = _given(origins, f"train.{path}"), dumped
        for key in path.split("."):
            value = value[key]
        if given or path == "lr":
            sources = {line["name"]: line["source"] for line in describe(TrainSettings)}
            yield {"setting": f"train.{path}", "value": value} | (given or _default(sources.get(path, "")))


def _given(origins: Mapping[str, str], path: str) -> dict[str, str] | None:
    """Who set it, None where it is a default. A mapping set as a whole stands for what is in it."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        if origin := origins.get(".".join(parts[:end])):
            kind = "recipe" if origin.startswith("recipe ") else "budget" if origin == EQUAL else "user"
            return {"kind": kind, "origin": origin}
    return None


def _default(source: str) -> dict[str, str]:
    kind = "default" if not source else "derived" if source.lower().startswith(OURS) else "paper"
    return {"kind": kind, "origin": source or "default"}
