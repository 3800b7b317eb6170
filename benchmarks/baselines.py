"""Every registered language method on the tiny world: what it forgets, what it keeps, what it costs.

    python benchmarks/baselines.py                       # what is missing; goes on after an interruption
    python benchmarks/baselines.py --methods npo,rmu     # only these
    python benchmarks/baselines.py --again npo           # once more, after a change of the code

Each line is a real run (``efface.api.unlearn``) of benchmark ``people`` with the recipe ``tiny``, suite ``people``,
attacks off. A line counts as finished while its spec has the same hash; a changed recipe is run again by itself.
Seconds are CPU seconds of one thread inside ``Method.apply``, so a busy machine does not change them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from efface import api
from efface.errors import EffaceError
from efface.methods.base import METHODS
from efface.runs.files import write_json, write_text
from efface.spec import Resolved, resolve

COLUMNS = (
    ("forget", "probability"),
    ("forget", "rouge"),
    ("forget", "extraction_strength"),
    ("retain", "probability"),
    ("retain", "rouge"),
    ("neighbour", "probability"),
    ("neighbour", "rouge"),
    ("retain", "truth_ratio"),
)
SHORT = {"probability": "P", "rouge": "ROUGE", "extraction_strength": "ES", "truth_ratio": "truth ratio (utility)"}


def spec_of(method: str, seed: int, out: str) -> Resolved:
    """The spec of one line."""
    values = {
        "model": {"name": "tiny"},
        "data": {"benchmark": "people"},
        "method": {"name": method},
        "audit": {"suite": "people", "attacks": []},
        "seed": seed,
        "out": out,
    }
    return resolve(("benchmarks/baselines.py", values))


def language_methods() -> list[str]:
    """Names of all registered methods that work on language models."""
    return [name for name, cls in METHODS.items() if "causal_lm" in cls.families]


@contextmanager
def timed(method: str) -> Iterator[list[float]]:
    """CPU seconds spent in ``apply`` of ``method`` inside the block."""
    cls, spent = METHODS.get(method), []
    plain = cls.apply

    def apply(self: Any, context: Any) -> None:
        started = time.process_time()
        plain(self, context)
        spent.append(time.process_time() - started)

    cls.apply = apply  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        cls.apply = plain  # type: ignore[method-assign]


def run(method: str, seed: int) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """(line, scores of target and reference) of one run in a folder of its own."""
    with tempfile.TemporaryDirectory() as place, timed(method) as spent:
        resolved = spec_of(method, seed, place)
        line: dict[str, Any] = {"method": method, "seed": seed, "spec_hash": resolved.hash}
        try:
            folder = api.unlearn(resolved)
        except EffaceError as error:
            return line | {"error": f"{error.code}: {error.cause}"}, {}
        training, scores = _read(folder, "training"), _read(folder, "scores")["scores"]
        line |= {
            "values": values(scores, "unlearned"),
            "conclusion": _read(folder, "conclusion")["label"],
            "cpu_seconds": round(sum(spent), 2),
            "steps": training.get("steps"),
            "stopped": training.get("stopped", ""),
            "warnings": [w for w in training["warnings"] if "scored" not in w],
            "train": resolved.spec.train.model_dump(mode="json", exclude_defaults=True),
            "settings": resolved.spec.method.settings,
            "error": "",
        }
    return line, {role: values(scores, role) for role in ("target", "reference")}


def values(scores: list[dict[str, Any]], role: str) -> dict[str, float]:
    """{"forget.probability": value, ...} of one role."""
    found = {(s["rows"], s["name"]): s["value"] for s in scores if s["role"] == role}
    return {f"{rows}.{name}": round(found[rows, name], 4) for rows, name in COLUMNS}


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def collect(methods: list[str], seeds: list[int], again: set[str], out: Path) -> None:
    """Run what is missing; write after every line."""
    path = out / "results.json"
    table = json.loads(path.read_text()) if path.is_file() else {"schema": 1, "rows": [], "controls": []}
    for seed in seeds:
        for method in methods:
            old = next((r for r in table["rows"] if (r["method"], r["seed"]) == (method, seed)), None)
            done = old and not old["error"] and old["spec_hash"] == spec_of(method, seed, "runs").hash
            if done and method not in again:
                continue
            line, controls = run(method, seed)
            table["rows"] = [r for r in table["rows"] if r is not old] + [line]
            table["rows"].sort(key=lambda r: (r["method"], r["seed"]))
            others = [c for c in table["controls"] if c["seed"] != seed or not controls]
            table["controls"] = others + [{"role": r, "seed": seed, "values": v} for r, v in controls.items()]
            table["spec"] = spec_of("grad_diff", 0, "runs").spec.model_dump(
                mode="json", exclude={"method", "train", "out"}
            )
            write_json(path, table)
            write_text(out / "results.md", markdown(table))
            print(method, seed, line.get("values") or line["error"], line.get("cpu_seconds"), flush=True)
    if path.is_file():
        write_text(out / "results.md", markdown(table))


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown: mean over seeds, smallest and largest value in brackets."""
    data, audit = table["spec"]["data"], table["spec"]["audit"]
    seeds = sorted({r["seed"] for r in table["rows"]})
    heads = [f"{rows} {SHORT[name]}" for rows, name in COLUMNS]
    lines = [
        f"# Baselines: {data['benchmark']} on the tiny model, seeds {', '.join(map(str, seeds))}",
        "",
        "Forget columns should come down to the reference; the others should stay where the target has them. Mean over "
        "seeds, smallest and largest in brackets. P: mean probability of the answer (geometric mean over its tokens). "
        "Attacks were off, so a conclusion says nothing about recovery. Cost: CPU seconds of one thread in the method "
        "itself, preparation included; x: per step, relative to grad_diff.",
        "",
        "| method | " + " | ".join(heads) + " | seconds | steps | x | conclusion |",
        "|---|" + "---|" * (len(heads) + 4),
    ]
    for role in ("target", "reference"):
        found = [c["values"] for c in table["controls"] if c["role"] == role]
        lines.append(f"| *{role}* | " + " | ".join(_cell(found, f"{r}.{n}") for r, n in COLUMNS) + " | | | | |")
    unit = _per_step([r for r in table["rows"] if r["method"] == "grad_diff" and not r["error"]])
    for method in sorted({r["method"] for r in table["rows"]}):
        mine = [r for r in table["rows"] if r["method"] == method]
        lines.append(_line(method, [r for r in mine if not r["error"]], [r for r in mine if r["error"]], unit))
    spec = json.dumps({k: v for k, v in table["spec"].items() if k != "seed"}, sort_keys=True)
    made = f"`python benchmarks/baselines.py`; suite {audit['suite']}; settings of each line: results.json."
    return "\n".join([*lines, "", f"Made by {made}", "", "Spec, the same for every line:", "", f"    {spec}", ""])


def _line(method: str, good: list[dict[str, Any]], failed: list[dict[str, Any]], unit: float) -> str:
    if not good:
        return f"| {method} | failed: {failed[0]['error']} |"
    found = [r["values"] for r in good]
    labels = sorted({r["conclusion"] for r in good})
    counted = ", ".join(f"{x} {sum(r['conclusion'] == x for r in good)}/{len(good)}" for x in labels)
    stepped = [r for r in good if r["steps"]]
    steps = f"{mean(r['steps'] for r in stepped):.0f}" if stepped else "-"
    each = f"{_per_step(stepped) / unit:.2f}" if stepped and unit else "-"
    seconds = f"{mean(r['cpu_seconds'] for r in good):.1f}"
    cells = " | ".join(_cell(found, f"{r}.{n}") for r, n in COLUMNS)
    return f"| {method} | {cells} | {seconds} | {steps} | {each} | {counted} |"


def _per_step(rows: list[dict[str, Any]]) -> float:
    return mean(r["cpu_seconds"] / r["steps"] for r in rows) if rows else 0.0


def _cell(found: list[dict[str, float]], key: str) -> str:
    numbers = [f[key] for f in found]
    return f"{mean(numbers):.3f} [{min(numbers):.3f}, {max(numbers):.3f}]" if numbers else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="", help="comma-separated (none: all language methods)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--again", default="", help="methods to run once more although they are finished")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parent.parent / "results" / "baselines_tiny"
    )
    args = parser.parse_args()
    methods = args.methods.split(",") if args.methods else language_methods()
    collect(methods, [int(s) for s in args.seeds.split(",")], {*filter(None, args.again.split(","))}, args.out)


if __name__ == "__main__":
    main()
