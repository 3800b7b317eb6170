"""``bench``: several methods under one spec, one table. What is done already is not done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from efface import pipeline
from efface.errors import EffaceError, SpecError
from efface.progress import SILENT, Progress
from efface.runs.files import write_json, write_text
from efface.spec import Resolved

COLUMNS = (
    ("probability", "forget"),
    ("rouge", "forget"),
    ("extraction_strength", "forget"),
    ("forget_quality", "forget"),
    ("accuracy", "forget"),
    ("probability", "retain"),
    ("rouge", "retain"),
    ("extraction_strength", "retain"),
    ("accuracy", "retain"),
    ("accuracy", "test"),
    ("options_probability", "world_facts"),
    ("model_utility", "retain"),
    ("mia_min_k", "forget"),
)


def methods(specs: Sequence[Resolved], out: Path, progress: Progress = SILENT) -> dict[str, Any]:
    """Run every spec (finished runs with the same hash are taken as they are) and write ``leaderboard.json`` and
    ``leaderboard.md`` to ``out``. A method that fails stays in the table with its error."""
    if not specs:
        raise SpecError("bench.no-methods", "No method was named.", "name some with --methods npo,grad_diff.")
    rows: list[dict[str, Any]] = []
    for resolved in specs:
        name = resolved.spec.method.name
        try:
            folder = finished(resolved) or pipeline.unlearn(resolved, progress)
        except EffaceError as error:
            rows.append({"method": name, "error": f"{error.code}: {error.cause}"})
            continue
        rows.append(row(folder, name))
        progress.note(f"{name}: {rows[-1]['conclusion']}")
        table = _table(specs[0], rows)
        write_json(out / "leaderboard.json", table)
        write_text(out / "leaderboard.md", markdown(table))
    return _table(specs[0], rows)


def finished(resolved: Resolved) -> Path | None:
    """A complete run of exactly this spec below its ``out`` folder, or None."""
    root = Path(resolved.spec.out)
    for status in sorted(root.glob("*/status.json")) if root.is_dir() else []:
        if (status.parent / "manifest.json").is_file() and json.loads(status.read_text()).get(
            "spec_hash"
        ) == resolved.hash:
            return status.parent
    return None


def row(folder: Path, name: str) -> dict[str, Any]:
    """One line of the leaderboard, read from a run directory."""
    stored = json.loads((folder / "scores.json").read_text())
    values = {
        f"{s['name']}.{s['rows']}": [s["value"], s["low"], s["high"]]
        for s in stored["scores"]
        if s["role"] == "unlearned" and (s["name"], s["rows"]) in COLUMNS
    }
    others = {
        role: {
            f"{s['name']}.{s['rows']}": s["value"]
            for s in stored["scores"]
            if s["role"] == role and (s["name"], s["rows"]) in COLUMNS
        }
        for role in stored["roles"]
        if role != "unlearned"
    }
    training = json.loads((folder / "training.json").read_text())
    conclusion = json.loads((folder / "conclusion.json").read_text())
    spec = yaml.safe_load((folder / "spec.yaml").read_text())
    return {
        "method": name,
        "run": folder.name,
        "spec_hash": spec["hash"],
        "conclusion": conclusion["label"],
        "values": values,
        "controls": others,
        "seconds": training.get("seconds"),
        "steps": training.get("steps"),
        "moved_share": training.get("moved_share"),
        "recovery": [f["says"] for f in conclusion["findings"] if f["kind"] == "recovery"],
        "train": spec["spec"]["train"],
        "settings": spec["spec"]["method"]["settings"],
        "seed": spec["spec"]["seed"],
        "error": "",
    }


def _table(first: Resolved, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    spec = first.spec.model_dump(mode="json", exclude={"method", "train", "out"})
    return {"schema": 1, "spec": spec, "rows": list(rows)}


def markdown(table: dict[str, Any]) -> str:
    """The leaderboard as Markdown, controls first."""
    good = [r for r in table["rows"] if not r["error"]]
    names = [f"{n}.{s}" for n, s in COLUMNS if any(f"{n}.{s}" in r["values"] for r in good)]
    spec = table["spec"]
    lines = [
        f"# {spec['data']['benchmark']} on {spec['model']['name']}, suite {spec['audit']['suite']}, seed {spec['seed']}",
        "",
        "95% intervals in brackets; forget columns should match the reference, the others should stay high.",
        "",
        "| method | " + " | ".join(names) + " | seconds | conclusion |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for role in ("target", "reference"):
        found = next((r["controls"][role] for r in good if role in r["controls"]), None)
        if found:
            lines.append(f"| *{role}* | " + " | ".join(_number(found.get(n)) for n in names) + " | | |")
    for r in table["rows"]:
        if r["error"]:
            lines.append(f"| {r['method']} | " + " | ".join("" for _ in names) + f" | | failed: {r['error']} |")
        else:
            lines.append(
                f"| {r['method']} | "
                + " | ".join(_interval(r["values"].get(n)) for n in names)
                + f" | {r['seconds'] or 0:.0f} | {r['conclusion']} |"
            )
    return "\n".join([*lines, "", "Settings, spec hashes and recoveries of every row: `leaderboard.json`.", ""])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 0.001 else f"{value:.3f}"


def _interval(value: list[float | None] | None) -> str:
    if not value or value[0] is None:
        return "-"
    return _number(value[0]) + (f" [{_number(value[1])}, {_number(value[2])}]" if value[1] is not None else "")
