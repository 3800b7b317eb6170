"""The conformance battery: what every registered component must do. Plug-ins run it over their own.

Each check raises ``AssertionError`` with a sentence. ``METHOD_CHECKS`` and ``ATTACK_CHECKS`` are lists of functions of
(name, bench); ``tests/conformance`` runs all of them over all names.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface.attacks.base import ATTACKS, AttackContext
from efface.data.rows import ImageRow, Row
from efface.errors import NeedsError
from efface.methods.base import METHODS, Context, Method
from efface.models.base import ModelAdapter
from efface.testing.bench import Bench

STEPS = 8


def families(name: str) -> tuple[str, ...]:
    """Families a method is checked on."""
    return METHODS.get(name).families


def prepared(
    name: str, bench: Bench, *, steps: int = STEPS, forget: Sequence[Any] | None = None, **train: Any
) -> tuple[Method, Context]:
    """A method with its recipe's settings and a context on a fresh copy of the bench's target."""
    from efface.spec import resolve

    spec = resolve(
        (
            "battery",
            {
                "model": {"name": bench.spec.model.name},
                "data": {"benchmark": bench.spec.data.benchmark},
                "method": {"name": name},
            },
        )
    ).spec
    settings = spec.train.model_copy(
        update={"steps": steps, "batch_size": 8, "warmup": 0.0, "schedule": "constant", **train}
    )
    chosen = list(bench.data.train["forget"])[:24] if forget is None else list(forget)
    context = Context(
        bench.model("target"),
        chosen,
        list(bench.data.train["retain"])[:48],
        settings,
        seed=3,
        base=lambda: bench.model("base"),
    )
    return METHODS.get(name)(**spec.method.settings), context


def run(name: str, bench: Bench, **options: Any) -> ModelAdapter:
    """Apply a method to a fresh copy of the target; the changed adapter."""
    method, context = prepared(name, bench, **options)
    method.apply(context)
    return context.adapter


def mean_log_prob(adapter: ModelAdapter, rows: Sequence[Any]) -> float:
    """Mean log-prob per label token over rows."""
    from efface.passes.score import score

    values = [v for lp in score(adapter, rows).tokens["lp"].to_pylist() for v in lp]
    return sum(values) / len(values)


def check_default_construction(name: str, bench: Bench) -> None:
    """Constructs without arguments, and its settings survive a round trip."""
    method = METHODS.get(name)()
    again = METHODS.get(name)(**method.settings.model_dump())
    assert again.settings == method.settings, f"{name}: settings do not survive a round trip"
    assert method.card.title and method.card.source, f"{name}: the Card names no title or source"


def check_refuses_missing_inputs(name: str, bench: Bench) -> None:
    """Without forget rows, or without the retain rows or base it declares, it refuses by name."""
    method, context = prepared(name, bench)
    cases = [replace(context, forget=[])]
    cases += [replace(context, retain=[])] if method.needs.retain else []
    cases += [replace(context, base=None)] if method.needs.base else []
    for case in cases:
        try:
            method.apply(case)
        except NeedsError as error:
            assert name in error.cause and error.fix, (
                f"{name}: refusal does not name the method or gives no fix: {error}"
            )
        else:
            raise AssertionError(f"{name}: accepted a context without what it needs")


def check_finite(name: str, bench: Bench) -> None:
    """Weights are finite after three steps."""
    adapter = run(name, bench, steps=3)
    assert all(bool(p.isfinite().all()) for p in adapter.module.parameters()), (
        f"{name}: non-finite weights after three steps"
    )


def check_moves_forget(name: str, bench: Bench) -> None:
    """The likelihood of the forget answers falls, where the method declares that it does."""
    method, context = prepared(name, bench, steps=2 * STEPS)
    before = mean_log_prob(context.adapter, context.forget)
    method.apply(context)
    after = mean_log_prob(context.adapter, context.forget)
    assert math.isfinite(after), f"{name}: forget likelihood is not finite"
    assert method.moves != "down" or after < before - 1e-3, (
        f"{name}: forget log-prob went from {before:.4f} to {after:.4f}, declared down"
    )


def check_reads_labels(name: str, bench: Bench) -> None:
    """Other answers to the same questions give another model (except where forget rows are not read at all)."""
    rows = list(bench.data.train["forget"])[:24]
    plain, other = run(name, bench, forget=rows), run(name, bench, forget=shuffled(rows))
    assert METHODS.get(name).family_tag == "reference" or digest(plain) != digest(other), (
        f"{name}: shuffled answers change nothing"
    )


def check_batch_invariance(name: str, bench: Bench) -> None:
    """One micro-batch of eight rows and eight of one give the same weights up to rounding."""
    whole, split = (run(name, bench, steps=2, token_budget=budget) for budget in (1 << 16, 1))
    for (key, a), b in zip(whole.module.named_parameters(), split.module.parameters(), strict=True):
        worst = float((a - b).abs().max())
        assert worst < 2e-3, f"{name}: {key} differs by {worst:.2e} between 1 x 8 and 8 x 1"


def check_same_seed_same_bits(name: str, bench: Bench) -> None:
    """Two runs with one seed give the same bits."""
    assert digest(run(name, bench, steps=3)) == digest(run(name, bench, steps=3)), f"{name}: same seed, other bits"


def check_artifact(name: str, bench: Bench) -> None:
    """save -> load -> attach gives the trained outputs, strength 0 the target's, bit for bit; the target stays."""
    from efface.artifact import Artifact
    from efface.pipeline import artifact_of

    target, rows = bench.model("target"), list(bench.data.train["forget"])[:4]
    before = digest(target)
    method, context = prepared(name, bench, steps=3)
    method.apply(context)
    artifact = artifact_of(method, target, context.adapter)
    with tempfile.TemporaryDirectory() as place:
        artifact.save(Path(place))
        loaded = Artifact.load(Path(place))
    assert outputs(loaded.attach(target), rows) == outputs(context.adapter, rows), (
        f"{name}: outputs change through save and load"
    )
    assert outputs(loaded.attach(target, 0.0), rows) == outputs(target, rows), f"{name}: strength 0 is not the target"
    assert digest(target) == before, f"{name}: attaching changed the target"


METHOD_CHECKS: list[Callable[[str, Bench], None]] = [
    check_default_construction,
    check_refuses_missing_inputs,
    check_finite,
    check_moves_forget,
    check_reads_labels,
    check_batch_invariance,
    check_same_seed_same_bits,
    check_artifact,
]


def check_attack(name: str, bench: Bench) -> None:
    """Constructs, declares controls, yields rising effort with finite scores, is deterministic, changes no original."""
    attack = ATTACKS.get(name)()
    assert attack.card.title and attack.card.source and attack.controls, f"{name}: no title, source or control"
    reason = attack.check(bench.data)
    if bench.model("target").family not in attack.families or reason:
        return
    target = bench.model("target")
    before, seen = digest(target), []
    for _ in range(2):
        context = AttackContext(
            target.clone(),
            bench.data,
            seed=5,
            original=lambda: bench.model("target"),
            built_with=bench.spec.target.train,
            naive=lambda: bench.model("reference"),
        )
        rows = attack.measured(bench.data)
        trail = []
        for point in attack.points(context):
            measured = {k: point.rows(k, v) if point.rows else v for k, v in rows.items()}
            trail.append((tuple(point.budget.items()), mean_log_prob(point.adapter, list(measured.values())[0])))
            assert point.axis in point.budget, f"{name}: axis {point.axis} is not in its budget"
        assert trail and all(math.isfinite(v) for _, v in trail), f"{name}: no point, or a non-finite score"
        seen.append(trail)
    assert seen[0] == seen[1], f"{name}: same seed, other curve"
    assert digest(target) == before, f"{name}: the attack changed the original"


ATTACK_CHECKS: list[Callable[[str, Bench], None]] = [check_attack]


def shuffled(rows: Sequence[Any]) -> list[Any]:
    """Rows with their answers (or labels) moved on by a third of the set."""
    by = max(1, len(rows) // 3)
    others = [*rows[by:], *rows[:by]]
    if isinstance(rows[0], ImageRow):
        return [replace(r, label=(r.label + 1 + i % 3) % 10) for i, r in enumerate(rows)]
    return [replace(r, answer=o.answer) if isinstance(r, Row) else r for r, o in zip(rows, others, strict=True)]


def digest(adapter: ModelAdapter) -> str:
    """Weight fingerprint, and what lies around the weights."""
    from efface.passes.cache import fingerprint

    around = {k: v for k, v in adapter.identity().items() if k != "layout"}  # known after the first forward only
    return fingerprint(adapter) + json.dumps(around, sort_keys=True, default=str)


def outputs(adapter: ModelAdapter, rows: Sequence[Any]) -> list[list[float]]:
    """Log-probs of the label tokens, exact."""
    from efface.passes.score import score

    return score(adapter, rows).tokens["lp"].to_pylist()
