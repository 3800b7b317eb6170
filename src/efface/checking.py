"""``check``: what a run would do, need and leave out, found with nothing loaded but the data."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from efface.attacks.base import ATTACKS
from efface.audit import planning
from efface.audit.measure import pairs
from efface.audit.roles import ROLE_TEXT
from efface.data.rows import Bundle
from efface.estimating import attack_minutes, memory_gib, parameters, training_seconds
from efface.refusing import check_unlearned, method_for, refuse_early
from efface.spec import SOURCES, Resolved, RunSpec
from efface.suites import Suite

ROUGH = "a rough estimate from figures of a 2-core CPU"


def plan(resolved: Resolved, unlearned: Path | None = None) -> dict[str, Any]:
    """Everything ``efface check`` prints; with the folder of a model that exists already, what its audit would do.

    Raises the error a run would raise before it loads weights.
    """
    spec = resolved.spec
    data, _, suite = refuse_early(spec)
    if unlearned is None:
        method_for(spec, data)
    else:
        check_unlearned(unlearned, spec, data)
    roles = {role for role in SOURCES if getattr(spec, role).kind != "none"}
    roles |= {"unlearned"} if unlearned else {"unlearned", "target"}
    size = parameters(spec)
    seconds = training_seconds(spec, data, size) if unlearned is None else None
    result = {
        "method": spec.method.name if unlearned is None else "audit",
        "model": spec.model.name,
        "benchmark": data.name,
        "hash": resolved.hash,
        "train": {k: len(v) for k, v in data.train.items()},
        "eval": {k: len(v) for k, v in data.eval.items()},
        "not_computed": list(dict.fromkeys(not_computed(roles, data, suite))),
        "parameters": size,
        "memory_gib": memory_gib(size),
        "minutes": round(sum(seconds.values()) / 60, 1) if seconds else None,
        **priced(spec, data, suite, roles, size),
        "origins": resolved.origins,
    }
    return result | {"lines": list(_lines(result))}


def not_computed(roles: Set[str], data: Bundle, suite: Suite) -> Iterator[str]:
    """One line for each metric and attack that the models at hand and the data rule out."""
    for metric, rows in pairs(suite):
        for need in metric.bound_needs(rows):
            lacking = next((role for role in (need.role, *need.others) if role not in ("subject", *roles)), None)
            if lacking is not None:
                yield f"{metric.name}: {ROLE_TEXT.get(lacking, lacking)}"
            elif need.rows and not data.eval.get(need.rows):  # the weight pass and the harness read no rows of ours
                yield f"{metric.name} on {rows}: the data has no {need.rows} rows"
    for entry in suite.attacks:
        attack = ATTACKS.get(entry.name)(**entry.settings)
        reason = attack.check(data) if data.eval.get("forget") else "the data has no forget rows"
        controls = [c for c in attack.controls if c not in roles]
        if reason or controls:
            yield f"attack {entry.label or entry.name}: {reason or 'excess, ' + ROLE_TEXT[controls[0]]}"


def priced(spec: RunSpec, data: Bundle, suite: Suite, roles: Set[str], size: int | None) -> dict[str, Any]:
    """Attacks of the suite that can run, cheapest first: {label, forwards (row forwards on all models together),
    minutes (None: not estimated), fits (into ``audit.minutes``, by this estimate)}; and what is left out, with why."""
    entries, left_out = planning.allowed(suite.attacks, spec.audit.threat, spec.audit.attacks)
    planned = [p for p in planning.by_price(entries, data, sorted(roles)) if p.forwards]
    attacks, spent = [], 0.0
    for one, minutes in zip(planned, attack_minutes(spec, data, size, planned), strict=True):
        fits = spec.audit.minutes is None or minutes is None or spent + minutes <= spec.audit.minutes
        spent += minutes if fits and minutes else 0.0
        label = one.entry.label or one.entry.name
        attacks.append({"label": label, "forwards": round(one.forwards), "minutes": minutes, "fits": fits})
    return {"audit_minutes": spec.audit.minutes, "attacks": attacks, "attacks_left_out": left_out}


def _lines(r: dict[str, Any]) -> Iterator[str]:
    yield f"{r['method']} on {r['model']}, benchmark {r['benchmark']}, spec {r['hash'][:12]}"
    yield "trained on: " + ", ".join(f"{k} {n}" for k, n in r["train"].items())
    yield "scored on: " + ", ".join(f"{k} {n}" for k, n in r["eval"].items())
    if r["parameters"]:
        yield f"{r['parameters'] / 1e6:.1f} M parameters; about {r['memory_gib']} GiB of memory at the peak"
    yield "time: " + (
        f"{_about(r['minutes'])} of training on this CPU ({ROUGH})"
        if r["minutes"] is not None
        else "training is not estimated for this device, model or data"
    )
    yield from _attack_lines(r)
    yield from (f"not computed - {line}" for line in r["not_computed"])


def _attack_lines(r: dict[str, Any]) -> Iterator[str]:
    """Every attack with its price; what a time limit leaves out by this estimate (the run itself measures)."""
    limit = r["audit_minutes"]
    if r["attacks"]:
        known = [a["minutes"] for a in r["attacks"] if a["minutes"] is not None]
        total = f", {_about(sum(known))} in all ({ROUGH})" if known else ""
        allowed = f"{limit:g} minutes are allowed" if limit else "no limit is set"
        yield f"attacks, cheapest first{total}; {allowed} (audit.minutes)"
    for a in r["attacks"]:
        time = f", {_about(a['minutes'])}" if a["minutes"] is not None else ""
        yield f"  {a['label']}: {a['forwards']:,} row forwards{time}" + ("" if a["fits"] else "; does not fit any more")
    yield from (f"  left out - {reason}" for reason in r["attacks_left_out"])


def _about(minutes: float) -> str:
    return "less than 0.1 minutes" if minutes < 0.05 else f"about {minutes:.1f} minutes"
