"""``check``: what a run would do, need and leave out, found with nothing loaded but the data."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface import build, refusing
from efface.attacks.base import ATTACKS
from efface.audit import planning
from efface.audit.attacks import OPTIONAL
from efface.audit.measure import pairs
from efface.audit.roles import ROLE_TEXT
from efface.data.rows import Bundle
from efface.errors import NeedsError
from efface.estimating import attack_minutes, memory_gib, parameters, training_seconds
from efface.models.folder_check import check_adapter, is_adapter
from efface.spec import SOURCES, Resolved, RunSpec
from efface.suites import Suite

ROUGH = "a rough estimate from figures of a 2-core CPU"


def plan(resolved: Resolved, unlearned: Path | None = None) -> dict[str, Any]:
    """Everything ``efface check`` prints; with the folder of a model that exists already, what its audit would do.

    Raises the error a run would raise before it loads weights.
    """
    resolved = resolved if unlearned is None else on_target(resolved, unlearned)
    spec = resolved.spec
    data, _, suite = refusing.refuse_early(spec)
    if unlearned is None:
        refusing.method_for(spec, data)
    else:
        check_unlearned(unlearned, spec, data)
    roles = _roles(spec, unlearned)
    size = parameters(spec)
    seconds = training_seconds(spec, data, size) if unlearned is None else None
    result = {
        "method": spec.method.name if unlearned is None else "audit",
        "model": spec.model.name,
        "benchmark": data.name,
        "hash": resolved.hash,
        "train": {k: len(v) for k, v in data.train.items()},
        "eval": {k: len(v) for k, v in data.eval.items()},
        "not_computed": list(dict.fromkeys(not_computed(roles, data, _planned(spec, suite)))),
        "parameters": size,
        "memory_gib": memory_gib(size),
        "minutes": round(sum(seconds.values()) / 60, 1) if seconds else None,
        **priced(spec, data, suite, roles, size),
        "origins": resolved.origins,
    }
    return result | {"lines": list(_lines(result))}


def on_target(resolved: Resolved, unlearned: Path) -> Resolved:
    """The spec of an audit of a PEFT adapter: its model is the target that it is put on, not the adapter's folder."""
    spec = resolved.spec
    alone = is_adapter(unlearned) and same_folder(spec.model.name, unlearned)
    if not alone or spec.target.kind != "folder" or not spec.target.path:
        return resolved
    model = spec.model.model_copy(update={"name": spec.target.path})
    return replace(resolved, spec=spec.model_copy(update={"model": model}))


def same_folder(one: str | Path, other: str | Path) -> bool:
    """Whether two names are of one folder."""
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def has_base(spec: RunSpec, unlearned: Path) -> bool:
    """Whether an audit has a base model: one is named, and it is neither the audited folder nor the target."""
    return not build.base_is_target(spec) and not same_folder(spec.model.name, unlearned)


def check_unlearned(unlearned: Path, spec: RunSpec, data: Bundle) -> None:
    """The model that ``audit`` is given: a full folder, an artifact or a PEFT adapter; the last two need a target."""
    if not is_adapter(unlearned):
        refusing.check_unlearned(unlearned, spec, data)
        return
    check_adapter(unlearned)
    if spec.target.kind == "none":
        raise NeedsError(
            "audit.adapter-needs-target",
            f"{unlearned} holds a PEFT adapter, which needs the model it is put on.",
            "name that model with --target.",
        )


def _roles(spec: RunSpec, unlearned: Path | None) -> set[str]:
    """Models that the run has."""
    roles = {role for role in SOURCES if getattr(spec, role).kind != "none"}
    if unlearned is None:
        return roles | {"unlearned", "target"} | (set() if build.base_is_target(spec) else {"base"})
    return roles | {"unlearned"} | ({"base"} if has_base(spec, unlearned) else set())


def not_computed(roles: Set[str], data: Bundle, suite: Suite) -> Iterator[str]:
    """One line for each metric and attack that the models at hand and the data rule out."""
    for metric, rows in pairs(suite):
        for need in (n for n in metric.bound_needs(rows) if not n.optional):
            lacking = next((role for role in (need.role, *need.others) if role not in ("subject", *roles)), None)
            if lacking is not None:
                yield f"{metric.name}: {ROLE_TEXT.get(lacking, lacking)}"
            elif need.rows and not data.eval.get(need.rows):  # the weight pass and the harness read no rows of ours
                yield f"{metric.name} on {rows}: the data has no {need.rows} rows"
    for entry in suite.attacks:
        forget = data.eval.get("forget")
        reason = planning.cannot_run(entry, data, roles) if forget else "the data has no forget rows"
        wanted = (c for c in ATTACKS.get(entry.name)(**entry.settings).controls if c not in OPTIONAL)
        controls = [c for c in wanted if c not in roles]
        if reason or controls:
            yield f"attack {planning.label_of(entry)}: {reason or 'excess, ' + ROLE_TEXT[controls[0]]}"


def _planned(spec: RunSpec, suite: Suite) -> Suite:
    """``suite`` with the attacks that are to run only."""
    entries, _ = planning.allowed(suite.attacks, spec.audit.threat, spec.audit.attacks)
    return suite.model_copy(update={"attacks": entries})


def priced(spec: RunSpec, data: Bundle, suite: Suite, roles: Set[str], size: int | None) -> dict[str, Any]:
    """Attacks of the suite that can run, cheapest first: {label, forwards (row forwards on all models together),
    minutes (None: not estimated), fits (into ``audit.minutes``, by this estimate)}; and what is left out, with why."""
    entries, left_out = planning.allowed(suite.attacks, spec.audit.threat, spec.audit.attacks)
    left_out += planning.not_in_suite(suite, spec.audit.threat, spec.audit.attacks, data)
    planned = [p for p in planning.by_price(entries, data, sorted(roles)) if p.forwards]
    attacks, spent = [], 0.0
    for one, minutes in zip(planned, attack_minutes(spec, data, size, planned), strict=True):
        fits = spec.audit.minutes is None or minutes is None or spent + minutes <= spec.audit.minutes
        spent += minutes if fits and minutes else 0.0
        label = planning.label_of(one.entry)
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
