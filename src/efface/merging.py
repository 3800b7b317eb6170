"""Nested mappings: building one from a path, laying one over another, naming what one holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` for keys a, b."""
    return {keys[0]: nested(keys[1:], value) if len(keys) > 1 else value}


def merge(layers: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """All ``layers`` ((origin, values), weakest first) in one."""
    out: dict[str, Any] = {}
    for _, layer in layers:
        merge_into(out, layer)
    return out


def merge_into(out: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay ``layer`` over ``out``: mappings are merged, everything else is replaced."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(out.get(key), dict):
            merge_into(out[key], value)
        else:
            out[key] = json.loads(json.dumps(value)) if isinstance(value, Mapping) else value


def leaves(layer: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths of everything in ``layer`` that is not a mapping itself."""
    return [
        leaf
        for key, value in layer.items()
        for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else [f"{prefix}{key}"])
    ]
