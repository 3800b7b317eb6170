"""Gradient ascent on harmful and copyrighted text (S27) with its two evaluators, on the tiny model.

    python benchmarks/harm_and_book.py       # what is missing; writes results/harm_and_book_tiny/

Each line is a real run (``efface.api.unlearn``) of method ``opt_ascent`` with its recipe ``tiny`` on benchmark ``harm``
(classifier evaluator) or ``book`` (similarity evaluator), attacks off, next to its target and reference.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from efface import api
from efface.runs.files import write_json, write_text
from efface.spec import Resolved, resolve

ROLES = ("target", "reference", "unlearned")
COLUMNS = {
    "harm": (
        "forget harmful_rate",
        "forget_test harmful_rate",
        "forget_test harm_reduction",
        "forget probability",
        "retain probability",
        "retain rouge",
        "retain harmful_rate",
        "forget repetition_rate",
        "forget distinct_2",
    ),
    "book": (
        "forget bleu",
        "forget text_cosine",
        "forget rouge_f1",
        "forget extraction_strength",
        "forget probability",
        "retain bleu",
        "retain probability",
        "forget repetition_rate",
        "forget distinct_2",
    ),
}


def spec_of(benchmark: str, seed: int, out: str) -> Resolved:
    """The spec of one line."""
    values = {
        "model": {"name": "tiny"},
        "data": {"benchmark": benchmark},
        "method": {"name": "opt_ascent"},
        "audit": {"suite": benchmark, "attacks": []},
        "seed": seed,
        "out": out,
    }
    return resolve(("benchmarks/harm_and_book.py", values))


def run(benchmark: str, seed: int) -> dict[str, Any]:
    """Scores of every role of one run."""
    with tempfile.TemporaryDirectory() as place:
        resolved = spec_of(benchmark, seed, place)
        folder = api.unlearn(resolved)
        scores = json.loads((folder / "scores.json").read_text())["scores"]
        training = json.loads((folder / "training.json").read_text())
    found = {(s["role"], f"{s['rows']} {s['name']}"): s for s in scores}
    values = {role: {c: found[role, c]["value"] for c in COLUMNS[benchmark]} for role in ROLES}
    line = {"benchmark": benchmark, "seed": seed, "spec_hash": resolved.hash, "steps": training["steps"]}
    if benchmark == "harm":
        line["judge_accuracy"] = found["unlearned", "forget harmful_rate"]["extra"]["judge_accuracy"]
    return line | {"values": values}


def collect(seeds: list[int], out: Path) -> None:
    """Run what is missing; write after every line."""
    path = out / "results.json"
    table = json.loads(path.read_text()) if path.is_file() else {"schema": 1, "rows": []}
    for seed in seeds:
        for benchmark in COLUMNS:
            old = next((r for r in table["rows"] if (r["benchmark"], r["seed"]) == (benchmark, seed)), None)
            if old and old["spec_hash"] == spec_of(benchmark, seed, "runs").hash:
                continue
            table["rows"] = [r for r in table["rows"] if r is not old] + [run(benchmark, seed)]
            table["rows"].sort(key=lambda r: (r["benchmark"], r["seed"]))
            write_json(path, table)
            write_text(out / "results.md", markdown(table["rows"]))
            print(benchmark, seed, flush=True)
    write_text(out / "results.md", markdown(table["rows"]))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Both tables: mean over seeds, smallest and largest value in brackets."""
    lines = ["# Gradient ascent on harmful and copyrighted text, tiny model", ""]
    for benchmark, columns in COLUMNS.items():
        mine = [r for r in rows if r["benchmark"] == benchmark]
        if not mine:
            continue
        seeds = ", ".join(str(r["seed"]) for r in mine)
        lines += [f"## {benchmark} (seeds {seeds})", "", "| | " + " | ".join(columns) + " |"]
        lines.append("|---|" + "---|" * len(columns))
        for role in ROLES:
            cells = (_cell([r["values"][role][c] for r in mine]) for c in columns)
            lines.append(f"| {role} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, "Made by `python benchmarks/harm_and_book.py`; specs by hash in results.json.", ""])


def _cell(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{mean(known):.3f} [{min(known):.3f}, {max(known):.3f}]" if known else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parent.parent / "results" / "harm_and_book_tiny"
    )
    args = parser.parse_args()
    collect([int(s) for s in args.seeds.split(",")], args.out)


if __name__ == "__main__":
    main()
