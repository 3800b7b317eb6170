"""Recovery curves of finished runs under the attacks of a suite, in one table.

    python benchmarks/recovery.py runs/*tofu* --suite tofu_attacks --attacks round_weights --out results/x

Each run is audited again with that suite: its model, target and reference are those of its spec (from the cache). Every
finished method is one file below ``--out``, so that an interrupted call goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efface import build, pipeline, suites
from efface.audit.audit import examine
from efface.audit.findings import point_score
from efface.audit.roles import Role
from efface.loading import load_data
from efface.progress import Progress
from efface.runs.files import write_json, write_text
from efface.spec import Resolved, load, parse_spec


def audited(run: Path, suite: str, attacks: tuple[str, ...] | None, progress: Progress) -> dict[str, Any]:
    """Curves and findings of one run."""
    spec = parse_spec(load(run / "spec.yaml"))
    audit = spec.audit.model_copy(update={"suite": suite, "attacks": attacks})
    spec = spec.model_copy(update={"audit": audit})
    data, _ = load_data(spec)
    start = build.base(spec, data, progress)
    made = {role: build.made(role, spec, data, start, progress) for role in ("target", "reference")}
    resolved = Resolved(spec, {})
    roles = {"unlearned": Role(lambda: pipeline.open_unlearned(run / "model", made["target"], resolved))}
    roles |= {name: Role(lambda m=m: m.open(spec.model)) for name, m in made.items() if m}
    started = time.monotonic()
    found = examine(spec, suites.load(suite), data, roles, progress)
    curves = {
        result.label: {
            role: [_point(p, found.suite.attack_metrics) for p in curve.points if point_score(p, "probability")]
            for role, curve in result.curves.items()
        }
        for result in found.attacks
    }
    conclusion = found.conclusion.to_json()
    return {
        "run": run.name,
        "method": spec.method.name,
        "mask": spec.train.select.mask,
        "spec_hash": Resolved(spec, {}).hash,
        "seconds": round(time.monotonic() - started, 1),
        "conclusion": conclusion["label"],
        "findings": [f for f in conclusion["findings"] if f["kind"] in ("residue", "recovery", "power")],
        "curves": curves,
    }


def _point(point: dict[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """Budget, forget probability with its interval, and every metric's value."""
    first = point_score(point, "probability") or {}
    values = {name: (point_score(point, name) or {}).get("value") for name in metrics}
    return {"budget": point["budget"], **{k: first[k] for k in ("value", "low", "high")}, "values": values}


def kept_order(cells: Sequence[dict[str, Any]]) -> list[tuple[str, str, int, float]]:
    """(attack, metric, models, Pearson's r of the models' values before the attack and at its last point): a metric
    that can be trusted says of an attacked model what it said before (sheet M2-8, verification)."""
    found = []
    for label in dict.fromkeys(label for c in cells for label in c["curves"]):
        ends = [
            (c["curves"][label]["unlearned"][0], c["curves"][label]["unlearned"][-1])
            for c in cells
            if c["curves"].get(label, {}).get("unlearned")
        ]
        for name in dict.fromkeys(name for pair in ends for name in pair[0]["values"]):
            pairs = [(a["values"][name], b["values"][name]) for a, b in ends]
            pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
            if len(pairs) >= 3 and np.std([a for a, _ in pairs]) > 0 and np.std([b for _, b in pairs]) > 0:
                found.append((label, name, len(pairs), float(np.corrcoef(*zip(*pairs, strict=True))[0, 1])))
    return found


def markdown(cells: list[dict[str, Any]], suite: str) -> str:
    """Forget probability along every curve, the reference's in brackets."""
    labels = list(dict.fromkeys(label for c in cells for label in c["curves"]))
    lines = [
        f"# Recovery curves, suite {suite}",
        "",
        "Forget probability of the unlearned model at each budget, point 0 first; in brackets the reference under the "
        "same attack; after rounding also the target (it must keep the facts, or the width has no power). `*`: brought "
        "back - significantly more than the reference (Holm over the attacks of one audit), raised by the attack, and "
        "by over a tenth of the gap.",
        "",
        "| method | " + " | ".join(labels) + " | conclusion | seconds |",
        "|" + "---|" * (len(labels) + 3),
    ]
    for c in cells:
        flags = {f["name"].split(": ")[-1] for f in c["findings"] if f["kind"] == "recovery" and f["flag"]}
        name = c["method"] + ("" if c["mask"] == "none" else f" + {c['mask']} mask")
        told = [_curve(c["curves"].get(label, {})) + ("*" if label in flags else "") for label in labels]
        lines.append(f"| {name} | " + " | ".join(told) + f" | {c['conclusion']} | {c['seconds']:.0f} |")
    orders = kept_order(cells)
    if orders:
        lines += ["", "Pearson's r over the methods between a metric before an attack and at its last point:", ""]
        lines += ["| attack | metric | methods | r |", "|---|---|---|---|"]
        lines += [f"| {label} | {name} | {n} | {r:.2f} |" for label, name, n, r in orders]
    return "\n".join([*lines, ""])


def _curve(curves: dict[str, Any]) -> str:
    def values(role: str) -> str:
        return " ".join(f"{p['value']:.2f}" for p in curves.get(role, ()))

    parts = [values("unlearned"), f"({values('reference')})"] if curves.get("unlearned") else ["-"]
    return " ".join([*parts, *([f"target {values('target')}"] if curves.get("target") else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--suite", default="tofu_attacks")
    parser.add_argument("--attacks", default="", help="labels, separated by commas (none: all of the suite)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    from efface.cli.console import Console

    wanted = tuple(filter(None, args.attacks.split(","))) or None
    cells = []
    for run in args.runs:
        place = args.out / "recovery" / f"{run.name}.json"
        asked = {"suite": args.suite, "attacks": list(wanted) if wanted else None}
        stored = json.loads(place.read_text()) if place.is_file() else {}
        if any(stored.get(k, "") != v for k, v in asked.items()):
            write_json(place, audited(run, args.suite, wanted, Console()) | asked)
        cells.append(json.loads(place.read_text()))
        write_text(args.out / "recovery.md", markdown(cells, args.suite))


if __name__ == "__main__":
    main()
