"""The short table at the end of a run, read from the record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from efface.cli.console import table

HEADLINE = ("probability", "rouge", "extraction_strength", "accuracy")
NOTED = "forget_quality"


def summary(run: Path) -> dict[str, Any]:
    """Headline scores by role, recoveries, conclusion and paths of a run directory."""
    scores = json.loads((run / "scores.json").read_text())["scores"]
    rows: dict[tuple[str, str], dict[str, float | None]] = {}
    for s in scores:
        if s["name"] in HEADLINE:
            rows.setdefault((s["name"], s["rows"]), {})[s["role"]] = s["value"]
    conclusion = json.loads((run / "conclusion.json").read_text())
    training = json.loads((run / "training.json").read_text()) if (run / "training.json").is_file() else {}
    return {
        "run": str(run),
        "report": str(run / "report.html"),
        "scores": [{"metric": name, "rows": where, **values} for (name, where), values in rows.items()],
        "notes": list(_notes(scores)),
        "attacks": [f["says"] for f in conclusion["findings"] if f["kind"] in ("recovery", "power")],
        "conclusion": {"label": conclusion["label"], "sentences": conclusion["sentences"]},
        "seconds": training.get("stages", {}),
        "warnings": training.get("warnings", []),
    }


def summary_text(data: dict[str, Any]) -> str:
    """The same for a person."""
    shown = ("target", "unlearned", "reference", "reference_2", "base")
    roles = [r for r in shown if any(r in s for s in data["scores"])]
    body = [[s["metric"], s["rows"], *(_number(s.get(r)) for r in roles)] for s in data["scores"]]
    parts = [
        table(["metric", "rows", *roles], body),
        *(f"  {line}" for line in data["notes"]),
        *(f"  {line}" for line in data["attacks"]),
        *(f"warning: {w}" for w in data["warnings"]),
        f"{data['conclusion']['label'].upper()}: {' '.join(data['conclusion']['sentences'])}",
        f"report: {data['report']}",
    ]
    return "\n".join(parts)


def _notes(scores: list[dict[str, Any]]) -> Iterator[str]:
    """What forget quality is worth with so many rows, and each membership score whose pair of sets is invalid."""
    from efface.report.score_notes import invalid_pair, note
    from efface.runs.results import ScoreRow

    for row in (ScoreRow.model_validate(s) for s in scores if s["role"] == "unlearned" and s["value"] is not None):
        if text := note(row) if row.name == NOTED else invalid_pair(row.extra):
            yield f"{row.name} on {row.rows}: {text}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
