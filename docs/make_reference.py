"""Writes docs/methods.md, metrics.md and attacks.md from the Cards, and docs/errors.md from the source.

Run it after changing one of them: python docs/make_reference.py. With --check it says which page is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import make_errors

from efface import api
from efface.settings import describe

HERE = Path(__file__).resolve().parent
FIELDS = ("summary", "source", "code", "confirmed", "derived", "differs", "tested", "fooled_by", "systems")


def page(kind: str) -> str:
    """One page: every component of a kind with its Card, facts and settings."""
    lines = [
        f"# {kind.capitalize()}",
        "",
        "Generated from the Cards by `python docs/make_reference.py`; `efface show NAME` prints one.",
        "",
    ]
    for name, item in api.registry(kind).items():
        lines += [f"## {name}", "", f"**{item.card.title}**", ""]
        card = item.card.to_json()
        for field in FIELDS:
            if card[field]:
                value = card[field] if isinstance(card[field], str) else "; ".join(card[field])
                lines.append(f"- {field.replace('_', ' ')}: {value}")
        lines += [f"- {key}: {value}" for key, value in facts(kind, item).items()]
        lines += table(describe(item.Settings)) if hasattr(item, "Settings") else []
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def facts(kind: str, item: Any) -> dict[str, str]:
    """What a reader of that kind wants to know first."""
    if kind == "metrics":
        return {
            "direction": ", ".join(f"{rows}: {way}" for rows, way in item.directions.items()),
            "version": str(item.version),
        }
    if kind == "attacks":
        return {"threat": item.threat, "controls": ", ".join(item.controls), "families": ", ".join(item.families)}
    return {"aim": item.aim, "artifact": item.artifact, "families": ", ".join(item.families)}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Settings with defaults and sources."""
    if not rows:
        return []
    body = [f"| `{r['name']}` | `{r['default']}` | {r['help']} | {r['source']} |".replace("\n", " ") for r in rows]
    return ["", "| setting | default | what | source |", "|---|---|---|---|", *body]


if __name__ == "__main__":
    pages = {kind: page(kind) for kind in ("methods", "metrics", "attacks")} | {"errors": make_errors.page()}
    stale = [
        name
        for name, text in pages.items()
        if not (HERE / f"{name}.md").is_file() or (HERE / f"{name}.md").read_text() != text
    ]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}" if stale else 0)
    for name in stale:
        (HERE / f"{name}.md").write_text(pages[name])
