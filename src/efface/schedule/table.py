"""The table of a schedule as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def markdown(table: Mapping[str, Any]) -> str:
    """The curves as Markdown: a column a step, slope and worst value beside them."""
    sizes = [f"{one['size']:g}" for one in table["steps"]]
    head = f"{table['method']} on {table['benchmark']}, plan {table['plan']}"
    lines = [
        f"# {head}",
        "",
        f"Columns: {table['axis']}. Slope per unit of it; worst by each metric's own direction.",
        "",
    ]
    lines += ["| metric | " + " | ".join(sizes) + " | slope | worst |", "|---|" + "---|" * (len(sizes) + 2)]
    for name, curve in table["curves"].items():
        values = ["-" if v is None else f"{v:.3f}" for v in curve["values"]]
        slope, worst = ("-" if curve[key] is None else f"{curve[key]:+.3g}" for key in ("slope", "worst"))
        lines.append(f"| {name} | " + " | ".join(values) + f" | {slope} | {worst} |")
    for name, line in table.get("line", {}).items():
        values = ["-" if v is None else f"{v:.3f}" for v in line["values"]]
        lines.append(f"| {name} (reference line) | " + " | ".join(values) + " |  |  |")
    return "\n".join([*lines, ""])
