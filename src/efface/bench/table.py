"""The table of a comparison: one line a method, over its seeds, with everything that belongs to a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from efface.audit.calibrate import ranked
from efface.bench.rows import COLUMNS, FULL_STACK
from efface.spec import Resolved

BASELINE = "grad_diff"  # step costs are told relative to it where it is among the methods


def table(specs: Sequence[Resolved], rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """{schema, what, spec, seeds, budget, jobs, calibrate, columns, full_stack, controls, methods, rows}.

    ``methods``: one line each, numbers as {value, low, high, min, max, seeds}: with one seed ``low`` and ``high`` are
    the 95% interval over entities, with several ``value`` is their mean and ``min``, ``max`` their range (the intervals
    of each run are in ``rows``). ``controls``: the same for target and reference, over all runs that have them.
    """
    spec = specs[0].spec.model_dump(mode="json", exclude={"method", "train", "out", "seed"})
    done = [r for r in rows if not r["error"]]
    names = list(dict.fromkeys(one.spec.method.name for one in specs))
    lines = [_line(name, [r for r in rows if r["method"] == name]) for name in names]
    lines = [line for line in lines if line["seeds"] or line["failed"]]
    _relative(lines)
    _ranks(lines)
    known = {key for r in done for key, number in r["values"].items() if number[0] is not None}
    return {
        "schema": 2,
        "what": "methods",
        "spec": spec,
        "seeds": sorted({one.spec.seed for one in specs}),
        **about,
        "columns": [f"{n}.{s}" for n, s in COLUMNS if f"{n}.{s}" in known],
        "full_stack": [f"{n}.{s}" for n, s in FULL_STACK if f"{n}.{s}" in known],
        "controls": {role: _controls(done, role) for role in ("target", "reference")},
        "methods": lines,
        "rows": list(rows),
    }


def over_seeds(values: Iterable[Sequence[float | None] | None]) -> dict[str, Any] | None:
    """[value, low, high] of each seed as one number; None where no seed has a value."""
    known = [v for v in values if v is not None and isinstance(v[0], int | float) and math.isfinite(v[0])]
    if not known:
        return None
    plain = [float(v[0]) for v in known]  # type: ignore[arg-type]
    low, high = (known[0][1], known[0][2]) if len(known) == 1 else (None, None)
    return {
        "value": sum(plain) / len(plain),
        "low": low,
        "high": high,
        "min": min(plain),
        "max": max(plain),
        "seeds": len(plain),
    }


def _line(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    done = [r for r in rows if not r["error"]]
    line: dict[str, Any] = {
        "method": name,
        "seeds": [r["seed"] for r in done],
        "failed": [{"seed": r["seed"], "error": r["error"]} for r in rows if r["error"]],
        "values": _together([r["values"] for r in done]),
        "conclusions": [r["conclusion"] for r in done],
        "settings": done[0]["settings"] if done else [],
        "uwc": _calibrated(done),
        "robustness": _robust(done),
    }
    for key in ("seconds", "steps", "seconds_per_step", "trained_parameters", "moved_share"):
        line[key] = over_seeds([r[key], None, None] for r in done)
    return line


def _together(dicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = dict.fromkeys(key for one in dicts for key in one)
    return {key: found for key in keys if (found := over_seeds(one.get(key) for one in dicts))}


def _controls(done: Sequence[dict[str, Any]], role: str) -> dict[str, Any]:
    """A control once a seed: all methods of a seed share it."""
    by_seed = {r["seed"]: r["controls"][role] for r in done if role in r["controls"]}
    return _together(list(by_seed.values()))


def _calibrated(done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """UWC over seeds: alpha*, forget ES there and without control, retain ES on the split that the search never saw."""
    found = [r["uwc"] for r in done if r.get("uwc")]
    kept = [c for c in found if not c["reason"]]

    def score(rows: str, model: str) -> dict[str, Any] | None:
        places = (c["scores"].get(rows, {}).get(model) for c in kept)
        return over_seeds([p["value"], p["low"], p["high"]] for p in places if p)

    return {
        "reason": "; ".join(dict.fromkeys(c["reason"] for c in found if c["reason"])),
        "alpha": over_seeds([c["alpha"], None, None] for c in kept),
        "fails": [r["seed"] for r in done if r.get("uwc") and r["uwc"]["fails"]],
        **{
            f"{rows}_{model}": score(rows, model)
            for rows in ("forget", "forget_reworded", "retain")
            for model in ("target", "mixed", "unlearned")
        },
        "forget_similar_mixed": score("forget_similar", "mixed"),
    }


def _robust(done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    labels = dict.fromkeys(p["attack"] for r in done for p in r["robustness"])
    out = []
    for label in labels:
        mine = [p for r in done for p in r["robustness"] if p["attack"] == label]
        numbers = {k: over_seeds([p.get(k), None, None] for p in mine) for k in ("ue", "reference", "ut")}
        reasons = dict.fromkeys(p["reason"] for p in mine if p["reason"])
        out.append({"attack": label, "reason": "; ".join(reasons), **numbers})
    return out


def _relative(lines: Sequence[dict[str, Any]]) -> None:
    """Seconds per step over those of grad_diff."""
    base = next((line["seconds_per_step"] for line in lines if line["method"] == BASELINE), None)
    for line in lines:
        own = line["seconds_per_step"]
        line["relative_step_cost"] = own["value"] / base["value"] if own and base else None


def _ranks(lines: Sequence[dict[str, Any]]) -> None:
    """Places by the mean forget ES, with control and without."""
    for key, model in (("rank", "mixed"), ("rank_without_control", "unlearned")):
        found = (line["uwc"][f"forget_{model}"] for line in lines)
        for line, place in zip(lines, ranked(f and f["value"] for f in found), strict=True):
            line[key] = place
