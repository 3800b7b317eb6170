"""``show``: one component with its Card, settings, facts and file."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from efface.errors import SpecError, nearest
from efface.settings import describe

KINDS = {"method": "methods", "metric": "metrics", "attack": "attacks", "rule": "rules", "benchmark": "benchmarks"}


def describe_component(name: str) -> dict[str, Any]:
    """Everything called ``name``, in every registry and among the suites: the first found, the others under ``also``.
    An unknown name is an error that names the nearest one."""
    from efface import api, suites

    known: list[str] = []
    found: list[dict[str, Any]] = []
    for kind, plural in KINDS.items():
        registry = api.registry(plural)
        known += registry.names()
        if name in registry.names():
            found.append(_component(kind, name, registry.get(name)))
    if name in suites.names():
        found.append(_suite(name))
    if not found:
        raise SpecError("show.unknown", f"Nothing is called {name!r}.", nearest(name, [*known, *suites.names()]))
    return found[0] | ({"also": found[1:]} if len(found) > 1 else {})


def _suite(name: str) -> dict[str, Any]:
    from efface import suites

    suite = suites.load(name)
    return {
        "name": name,
        "kind": "suite",
        "file": f"efface/suites/{name}.yaml",
        "card": {"title": suite.about},
        "settings": [],
        "facts": suite.model_dump(mode="json", exclude={"name", "about"}),
    }


def _component(kind: str, name: str, item: Any) -> dict[str, Any]:
    code = item.function if kind == "metric" else item
    settings = describe(item.Settings) if hasattr(item, "Settings") else []
    return {
        "name": name,
        "kind": kind,
        "file": _file(code),
        "card": item.card.to_json(),
        "settings": settings,
        "facts": _facts(kind, item),
    }


def _facts(kind: str, item: Any) -> dict[str, Any]:
    if kind == "metric":
        return {
            "directions": dict(item.directions),
            "version": item.version,
            "reads": [f"{n.kind} of {n.rows} ({n.role})" for n in item.needs],
        }
    if kind == "method":
        needs = item.needs
        return {
            "aim": item.aim,
            "artifact": item.artifact,
            "families": list(item.families),
            "needs": [n for n in ("retain", "base") if getattr(needs, n)]
            + [
                f"reference {n} of {', '.join(getattr(needs, n))}"
                for n in ("nll", "logp", "top", "hidden")
                if getattr(needs, n)
            ],
        }
    if kind == "attack":
        return {"threat": item.threat, "controls": list(item.controls), "families": list(item.families)}
    return {}


def _file(code: Any) -> str:
    """Path below the package that holds it, with the line."""
    path, line = Path(inspect.getsourcefile(code) or ""), inspect.getsourcelines(code)[1]
    parts = path.parts
    root = len(parts) - 1 - parts[::-1].index("efface") if "efface" in parts[:-1] else max(0, len(parts) - 2)
    return f"{'/'.join(parts[root:])}:{line}"
