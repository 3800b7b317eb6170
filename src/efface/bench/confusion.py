"""The tables of ``bench attacks``: which attack flags which rung, and what an audit concludes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

LABELS = ("erased", "concealed", "retained", "collapsed", "inconclusive")


def confusion(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``cells``: one per (seed, rung), as ``ladder.attacks`` stores them.

    {"matrix": {rung: {label: count}}, "right": share of audits whose conclusion is among the expected ones,
    "attacks": {attack: {rung: {flagged, tested, excess}}}, ...}
    """
    from efface.testing.ladder import EXPECTED, RUNGS

    rungs = [r for r in RUNGS if any(c["rung"] == r for c in cells)]
    matrix = {r: dict(Counter(c["conclusion"]["label"] for c in cells if c["rung"] == r)) for r in rungs}
    right = [c["conclusion"]["label"] in EXPECTED[c["rung"]] for c in cells]
    found = [(c["rung"], f) for c in cells for f in c["conclusion"]["findings"] if f["kind"] == "recovery"]
    names = list(dict.fromkeys(f["name"].split(": ")[-1] for _, f in found))
    attacks = {
        n: {r: _cell([f for rung, f in found if rung == r and f["name"].endswith(f": {n}")]) for r in rungs}
        for n in names
    }
    seconds = {
        n: float(np.mean([c["attack_seconds"][n] for c in cells if n in c["attack_seconds"]] or [0.0])) for n in names
    }
    not_run = {n: why for c in cells for n, why in c["not_run"].items() if n not in names}
    return {
        "schema": 1,
        "seeds": sorted({c["seed"] for c in cells}),
        "rungs": rungs,
        "expected": {r: EXPECTED[r] for r in rungs},
        "matrix": matrix,
        "right": float(np.mean(right)) if right else None,
        "attacks": attacks,
        "attack_seconds": seconds,
        "not_run": not_run,
        "audit_seconds": {r: float(np.mean([c["seconds"] for c in cells if c["rung"] == r])) for r in rungs},
    }


def _cell(findings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    excess = [f["evidence"]["value"] for f in findings if f["evidence"].get("value") is not None]
    return {
        "flagged": sum(bool(f["flag"]) for f in findings),
        "tested": len(findings),
        "excess": float(np.mean(excess)) if excess else None,
    }


def markdown(table: dict[str, Any]) -> str:
    """Both tables as Markdown."""
    rungs = table["rungs"]
    lines = [
        f"# Audits of the planted ladder, seeds {', '.join(map(str, table['seeds']))}",
        "",
        "R1 is the reference. Conclusions per rung (counts over seeds); expected ones in bold.",
        "",
        "| rung | " + " | ".join(LABELS) + " | seconds |",
        "|" + "---|" * (len(LABELS) + 2),
    ]
    for r in rungs:
        counts = [table["matrix"][r].get(label, 0) for label in LABELS]
        told = [
            f"**{n}**" if label in table["expected"][r] else str(n) for label, n in zip(LABELS, counts, strict=True)
        ]
        lines.append(f"| {r} | " + " | ".join(told) + f" | {table['audit_seconds'][r]:.0f} |")
    lines += [
        "",
        f"Right: {table['right']:.0%} of the audits." if table["right"] is not None else "",
        "",
        "Recovery flagged (after Holm's correction over the attacks of one audit) / audits, and the mean excess over "
        "R1 of the headline metric at the most telling point. R2 and R3 never knew: a flag there is a false alarm.",
        "",
        "| attack | " + " | ".join(rungs) + " | seconds a curve |",
        "|" + "---|" * (len(rungs) + 2),
    ]
    for name, row in table["attacks"].items():
        lines.append(
            f"| {name} | " + " | ".join(_text(row[r]) for r in rungs) + f" | {table['attack_seconds'][name]:.1f} |"
        )
    lines += [""] + [f"- {name} was not run: {why}." for name, why in table["not_run"].items()]
    return "\n".join([*lines, ""])


def _text(cell: dict[str, Any]) -> str:
    if not cell["tested"]:
        return "-"
    excess = "" if cell["excess"] is None else f" ({cell['excess']:+.2f})"
    return f"{cell['flagged']}/{cell['tested']}{excess}"
