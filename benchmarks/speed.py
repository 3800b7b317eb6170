"""Speed and memory of evaluation and of one NPO step, beside the straightforward way, on the same model and rows.

    python benchmarks/speed.py --model smollm2-135m --tofu FOLDER --share 0.2 --out benchmarks/results

CPU seconds of one thread (wall time is noisy on a shared machine); peak memory from processes that do one thing only.
Both ways must give the same numbers, or the script fails.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from naive import Item, NPOStep, greedy, log_probs

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.benchmarks.tofu import Tofu
from efface.engine.settings import Select, TrainSettings
from efface.metrics.base import METRICS, Tables, compute
from efface.models.causal_lm import CausalLM
from efface.models.sources import resolve

LONGEST = 200
SETS = {
    "forget": ("answer", "answer_paraphrase", "wrong"),
    "retain": ("answer", "answer_paraphrase", "wrong"),
    "real_authors": ("answer", "wrong"),
    "world_facts": ("answer", "wrong"),
    "holdout": ("answer",),
}
GENERATED = ("forget", "retain", "real_authors", "world_facts")


def data(folder: str, share: float) -> dict:
    """The default row sets of a TOFU forget01 evaluation, each cut to ``share``."""
    bundle = Tofu(path=folder, split="forget01", authors=16).load()
    return {name: rows[: max(2, math.ceil(share * len(rows)))] for name, rows in bundle.eval.items() if name in SETS}


def ours(adapter: CausalLM, sets: dict) -> dict:
    """One planned audit: every set is scored once, answers start from the scoring pass."""
    store = Store({"subject": Role(lambda: adapter)}, sets, PassSettings(LONGEST, 4096))
    wanted = (
        [("probability", s) for s in GENERATED]
        + [("rouge", s) for s in GENERATED]
        + [("truth_ratio", s) for s in GENERATED]
    )
    wanted += [("extraction_strength", "forget"), ("mia_min_k", "forget")]
    for name, rows in wanted:
        store.plan(METRICS.get(name).bound_needs(rows))
    return {
        f"{name}.{rows}": compute(METRICS.get(name), Tables(store.fetch, rows, "subject"), rows, resamples=100).value
        for name, rows in wanted
    }


def straightforward(adapter: CausalLM, sets: dict) -> dict:
    """A forward per metric, as the common harness does by default."""
    model, pad, stops = adapter.module.to(torch.bfloat16), adapter.pad, sorted(adapter.stops)
    out = {}

    def items(rows, field: str, k: int = 0) -> list[Item]:
        text = [r.wrong[k] if field == "wrong" else getattr(r, field) or r.answer for r in rows]
        return [
            Item(
                adapter.template.prompt_ids(adapter.tokenizer, r.prompt),
                adapter.template.answer_ids(adapter.tokenizer, t),
            )
            for r, t in zip(rows, text, strict=True)
        ]

    for name in GENERATED:
        rows = sets[name]
        answer = log_probs(model, items(rows, "answer"), pad)
        out[f"probability.{name}"] = sum(math.exp(sum(lp) / len(lp)) for lp in answer) / len(answer)
        if "answer_paraphrase" in SETS[name]:
            log_probs(model, items(rows, "answer_paraphrase"), pad)
        for k in range(min(len(r.wrong) for r in rows)):
            log_probs(model, items(rows, "wrong", k), pad)
        greedy(model, items(rows, "answer"), pad, stops, LONGEST)
    log_probs(model, items(sets["forget"], "answer"), pad)  # extraction strength
    for name in ("forget", "holdout"):  # membership
        log_probs(model, items(sets[name], "answer"), pad)
    return out


def npo_ours(adapter: CausalLM, forget: list, retain: list, steps: int) -> list[tuple[float, float]]:
    """``steps`` optimizer steps; reference log-probs are computed once (and counted)."""
    from efface.engine.loop import start
    from efface.methods.base import Context
    from efface.methods.language.npo import NPO

    events: list[dict] = []
    settings = TrainSettings(
        lr=1e-5,
        steps=steps,
        batch_size=len(forget),
        warmup=0.0,
        schedule="constant",
        clip=0.0,
        select=Select(freeze_head=False),
    )
    run = start(NPO(), Context(adapter, forget, retain, settings, 0, log=events.append))
    run.until(steps)
    return [(e["forget_loss"], e["retain_loss"]) for e in events if e["event"] == "step"]


def npo_straightforward(adapter: CausalLM, forget: list, retain: list, steps: int) -> list[tuple[float, float]]:
    """The same number of steps the plain way, on bf16 weights."""

    def items(rows) -> list[Item]:
        return [
            Item(
                adapter.template.prompt_ids(adapter.tokenizer, r.prompt),
                adapter.template.answer_ids(adapter.tokenizer, r.answer),
            )
            for r in rows
        ]

    adapter.module.to(torch.bfloat16).train()
    step = NPOStep(adapter.module, adapter.pad)
    return [step.run(items(forget), items(retain)) for _ in range(steps)]


def timed(function, *args) -> tuple[object, float]:
    started = time.process_time()
    return function(*args), time.process_time() - started


def peak(task: str, args: argparse.Namespace) -> float:
    """GiB of a fresh process that does ``task`` only."""
    command = [
        sys.executable,
        __file__,
        "--task",
        task,
        "--model",
        args.model,
        "--tofu",
        args.tofu,
        "--share",
        str(args.share),
        "--steps",
        "1",
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def high_water() -> float:
    """Peak resident GiB of this process. Not ru_maxrss: a child inherits its parent's through fork and exec."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def load(name: str) -> CausalLM:
    return CausalLM.load(resolve(name).folder, device="cpu")


def one(task: str, args: argparse.Namespace) -> object:
    """Run one task on a fresh model."""
    bundle = Tofu(path=args.tofu, split="forget01", authors=16).load()
    forget, retain = list(bundle.train["forget"])[:32], list(bundle.train["retain"])[:32]
    if task in ("evaluate-ours", "evaluate-plain"):
        return (ours if task.endswith("ours") else straightforward)(load(args.model), data(args.tofu, args.share))
    return (npo_ours if task.endswith("ours") else npo_straightforward)(load(args.model), forget, retain, args.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tofu", required=True)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--label", default="", help="name of the model in the result (none: --model)")
    parser.add_argument("--task", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    METRICS.names()
    if args.task:
        one(args.task, args)
        print(high_water())
        return
    result = {
        "what": "evaluation and NPO step, ours against the straightforward way",
        "model": args.label or args.model,
        "share": args.share,
        "rows": {k: len(v) for k, v in data(args.tofu, args.share).items()},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": 1,
    }
    for kind, plain, mine in (("evaluation", "evaluate-plain", "evaluate-ours"), ("npo_step", "npo-plain", "npo-ours")):
        base, slow = timed(one, plain, args)
        found, fast = timed(one, mine, args)
        per = args.steps if kind == "npo_step" else 1
        memory = {"ours": peak(mine, args), "plain": peak(plain, args)}
        result[kind] = {
            "cpu_seconds": {"ours": fast / per, "plain": slow / per},
            "speedup": slow / fast,
            "peak_gib": memory,
            "memory_ratio": memory["ours"] / memory["plain"],
            "agreement": agreement(kind, found, base),
        }
        print(kind, json.dumps(result[kind], indent=1))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"speed-{args.label or args.model}.json").write_text(json.dumps(result, indent=1))


def agreement(kind: str, found, base) -> dict[str, float]:
    """Largest difference between both ways; fails where it is more than low-precision noise."""
    if kind == "evaluation":
        worst = max(abs(found[key] - value) for key, value in base.items())
        limit = 0.02
    else:
        worst, limit = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found[0], base[0], strict=True)), 0.05
    if worst > limit:
        raise SystemExit(f"{kind}: the two ways disagree by {worst:.4f}")
    return {"worst_difference": worst, "limit": limit}


if __name__ == "__main__":
    main()
