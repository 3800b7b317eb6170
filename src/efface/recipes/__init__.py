"""Recipes: settings that are known to work, one file a method with a section per model, made to be overridden."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from efface.errors import SpecError


def recipe(name: str, model: str, benchmark: str) -> tuple[str, dict[str, Any]]:
    """(section, values) of recipe ``name``: the section "model/benchmark", else "model", else "default", else nothing.

    Values have the shape of a run spec; ``method:`` in a recipe holds the method's settings directly.
    """
    file = resources.files(__package__) / f"{name}.yaml"
    if "/" in name or not file.is_file():
        return "", {}
    sections = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    for section in (f"{model}/{benchmark}", model, "default"):
        if section in sections:
            values = dict(sections[section])
            if "method" in values:
                values["method"] = {"settings": values["method"]}
            if unknown := set(values) - {"model", "method", "train", "target", "reference", "data", "audit"}:
                raise SpecError(
                    "recipe.bad-section",
                    f"Recipe {name}.yaml, section {section}: unknown part {sorted(unknown)[0]!r}.",
                    "a recipe holds model, data, target, reference, method, train or audit.",
                )
            return section, values
    return "", {}


def names() -> list[str]:
    """All recipe files, without the ending."""
    return sorted(entry.name[:-5] for entry in resources.files(__package__).iterdir() if entry.name.endswith(".yaml"))
