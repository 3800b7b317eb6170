"""Show a component: its Card, its settings with their sources, and the file it lives in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from efface.cli.console import emit, table
from efface.cli.options import Json


def command(
    name: Annotated[str, typer.Argument(help="Name of a method, metric, attack, rule, benchmark or suite.")],
    as_json: Json = False,
) -> int:
    from efface import api

    data = api.show(name)
    emit(data, as_json, "\n\n".join(_text(one) for one in (data, *data.get("also", ()))))
    return 0


def _text(data: dict[str, Any]) -> str:
    """One component for a person."""
    lines = [f"{data['name']} ({data['kind']}), {data['file']}", ""]
    for key, value in data["card"].items():
        if value:
            lines += [f"{key}: {value}"] if isinstance(value, str) else [f"{key}:", *(f"  - {v}" for v in value)]
    lines += [f"{key}: {value}" for key, value in data["facts"].items()]
    if data["settings"]:
        lines += [
            "",
            table(
                ["setting", "default", "what", "source"],
                [[s["name"], s["default"], s["help"], s["source"]] for s in data["settings"]],
            ),
        ]
    return "\n".join(lines)
