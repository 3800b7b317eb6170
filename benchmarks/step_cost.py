"""Cost of one optimizer step of every training method, relative to grad_diff.

    python benchmarks/step_cost.py                  # writes benchmarks/results/step-cost-tiny.json

All methods in one process on the same tiny target and the same rows, each with its recipe ``tiny``, in turns: one step
of every method, then the next of every method, so that what else the machine does falls on all of them alike. CPU
seconds of one thread; the median of several steps. Preparation (reference values, targets, alternatives) is apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from efface import build
from efface.engine.loop import Run, start
from efface.loading import load_data
from efface.methods.base import METHODS, Context, LossMethod
from efface.spec import RunSpec, resolve

UNIT = "grad_diff"


def spec_of(method: str) -> RunSpec:
    """The spec of one method on the built-in world."""
    values = {"model": {"name": "tiny"}, "data": {"benchmark": "people"}, "method": {"name": method}}
    return resolve(("benchmarks/step_cost.py", values)).spec


def training_methods() -> list[str]:
    """Language methods that are a loss in the common loop and nothing else."""
    return [
        name
        for name, cls in METHODS.items()
        if "causal_lm" in cls.families and issubclass(cls, LossMethod) and cls.apply is LossMethod.apply
    ]


def prepared(method: str, steps: int) -> tuple[Run, float]:
    """(run before its first step, CPU seconds of preparation)."""
    spec = spec_of(method)
    data, _ = load_data(spec)
    origin = build.base(spec, data)
    target = build.made("target", spec, data, origin)
    assert target is not None
    train = spec.train.model_copy(update={"steps": steps, "stop_nll": 0.0})
    context = Context(target.open(spec.model), data.train["forget"], data.train["retain"], train, spec.seed)
    objective = METHODS.get(method)(**spec.method.settings)
    started = time.process_time()
    objective.check(context)
    run = start(objective, context)
    run.prepare()
    return run, time.process_time() - started


def timed(run: Run) -> float:
    """CPU seconds of the next step."""
    started = time.process_time()
    run.until(run.step + 1)
    return time.process_time() - started


def measure(methods: list[str], steps: int) -> dict[str, dict[str, Any]]:
    """Median CPU seconds per step of each method; the first step of each is a warm-up."""
    runs, ready = {}, {}
    for name in methods:
        runs[name], ready[name] = prepared(name, steps + 1)
        print("prepared", name, f"{ready[name]:.2f}", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(steps + 1):
        for name, run in runs.items():
            spent = timed(run)
            if turn:
                seconds[name].append(spent)
        print("turn", turn, flush=True)
    unit = median(seconds[UNIT])
    return {
        name: {
            "relative": round(median(values) / unit, 3),
            "cpu_seconds_per_step": round(median(values), 4),
            "range": [round(min(values), 4), round(max(values), 4)],
            "preparation_cpu_seconds": round(ready[name], 2),
            "rule": runs[name].rule.name,
            "trained_parameters": sum(p.numel() for p in runs[name].params.values()),
        }
        for name, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="", help="comma-separated (none: all that take steps); grad_diff is added")
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each method")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "step-cost-tiny.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.methods.split(",") if args.methods else training_methods()
    found = measure(sorted({*names, UNIT}), args.steps)
    train = spec_of(UNIT).train
    table = {
        "what": f"CPU seconds of one optimizer step, relative to {UNIT}; recipe tiny, benchmark people",
        "steps": args.steps,
        "rows_per_step": train.batch_size,
        "threads": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "methods": dict(sorted(found.items(), key=lambda item: item[1]["relative"])),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(table, indent=1) + "\n")
    for name, row in table["methods"].items():
        print(f"{name:14} {row['relative']:6.2f} x  {row['cpu_seconds_per_step']:.3f} s")


if __name__ == "__main__":
    main()
