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
    "attacks": {attack: {rung: {flagged, tested, brought}}}, "sheets": {attack: {rungs: named by its sheet, found: all
    of them flagged in every seed, silent: no flag on a model that never knew}}, ...}
    """
    from efface.testing.ladder import EXPECTED, MUST_FLAG, NEVER_KNEW, RUNGS

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
        "sheets": {n: _sheet(row, MUST_FLAG.get(n, ()), NEVER_KNEW) for n, row in attacks.items()},
        "erased": _share([c["conclusion"]["label"] == "erased" for c in cells if c["rung"] in NEVER_KNEW]),
        "metrics": {r: _told([f for c in cells if c["rung"] == r for f in c["conclusion"]["findings"]]) for r in rungs},
        "attack_seconds": seconds,
        "not_run": not_run,
        "audit_seconds": {r: float(np.mean([c["seconds"] for c in cells if c["rung"] == r])) for r in rungs},
    }


def _cell(findings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Flags, audits, and the mean of what the attack brought back beyond the reference."""
    brought = [min(f["evidence"]["value"], f["evidence"]["gain"]["value"]) for f in findings if "gain" in f["evidence"]]
    return {
        "flagged": sum(bool(f["flag"]) for f in findings),
        "tested": len(findings),
        "brought": float(np.mean(brought)) if brought else None,
    }


def _sheet(row: dict[str, dict[str, Any]], named: Sequence[str], clean: Sequence[str]) -> dict[str, Any]:
    """Whether an attack does what its sheet says: flags the rungs that it names, and none that never knew."""
    wanted = [row[r] for r in named if r in row and row[r]["tested"]]
    quiet = [row[r] for r in clean if r in row]
    return {
        "rungs": list(named),
        "found": all(cell["flagged"] == cell["tested"] for cell in wanted) if wanted else None,
        "silent": not any(cell["flagged"] for cell in quiet),
    }


def _share(hits: Sequence[bool]) -> dict[str, Any] | None:
    """How often, of how many, and the exact 95% interval of the share (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    if not hits:
        return None
    interval = binomtest(sum(hits), len(hits)).proportion_ci()
    return {"hits": sum(hits), "of": len(hits), "low": float(interval.low), "high": float(interval.high)}


def _told(findings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the comparisons of a metric on forget rows with itself on their surrogates: how many say that it follows
    sentences more than facts, and the median of what is left of its fall (rho)."""
    found = [f["evidence"] for f in findings if f["kind"] == "consistency"]
    ratios = [e["rho"] for e in found if e["rho"] is not None]
    return {
        "flagged": sum(bool(e["flag"]) for e in found),
        "tested": len(found),
        "rho": float(np.median(ratios)) if ratios else None,
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
        _erased(table["erased"]),
        "",
        "Recovery flagged (after Holm's correction over the attacks of one audit) / audits, and the mean of what the "
        "attack brought back beyond R1 at its clearest point (the smaller of the excess over R1 and of the gain over "
        "the unattacked model). R2 and R3 never knew: a flag there is a false alarm. `sheet`: the rungs the attack is "
        "there for, and whether it flags them in every seed while it is silent on R2 and R3.",
        "",
        "| attack | sheet | " + " | ".join(rungs) + " | seconds a curve |",
        "|" + "---|" * (len(rungs) + 3),
    ]
    for name, row in table["attacks"].items():
        cells = " | ".join(_text(row[r]) for r in rungs)
        sheet = _sheet_text(table["sheets"][name])
        lines.append(f"| {name} | {sheet} | {cells} | {table['attack_seconds'][name]:.1f} |")
    told = [f"{r} {m['flagged']}/{m['tested']}" + _rho(m["rho"]) for r, m in table["metrics"].items() if m["tested"]]
    lines += [
        "",
        "What surrogates say of the metrics (sheet E6): comparisons in which a metric follows sentences more than "
        f"facts, and the median share of its fall that is left on surrogates (rho): {'; '.join(told)}."
        if told
        else "",
    ]
    lines += [""] + [f"- {name} was not run: {why}." for name, why in table["not_run"].items()]
    return "\n".join([*lines, ""])


def _text(cell: dict[str, Any]) -> str:
    if not cell["tested"]:
        return "-"
    brought = "" if cell["brought"] is None else f" ({cell['brought']:+.2f})"
    return f"{cell['flagged']}/{cell['tested']}{brought}"


def _sheet_text(sheet: dict[str, Any]) -> str:
    alarm = "" if sheet["silent"] else ", FALSE ALARM"
    if not sheet["rungs"]:
        return "names none" + alarm
    found = {True: "yes", False: "NO", None: "not run"}[sheet["found"]]
    return f"{', '.join(sheet['rungs'])}: {found}{alarm}"


def _erased(share: dict[str, Any] | None) -> str:
    if share is None:
        return ""
    return (
        f"Models that never knew are called erased {share['hits']} times of {share['of']} (95% interval of the share "
        f"{share['low']:.2f} to {share['high']:.2f})."
    )


def _rho(value: float | None) -> str:
    return "" if value is None else f", rho {value:.2f}"
