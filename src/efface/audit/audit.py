"""The audit of one model: scores of every role, attacks with controls, samples, conclusion; all written to the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface import suites
from efface.audit import findings as find
from efface.audit.attacks import AttackResult, Runner
from efface.audit.conclude import Conclusion, conclude
from efface.audit.export import write_attacks, write_samples, write_scores, write_tables
from efface.audit.measure import measure, plan, with_targets
from efface.audit.store import PassSettings, Role, Store
from efface.build import Made
from efface.data.rows import Bundle
from efface.metrics.base import Score
from efface.models.base import ModelAdapter
from efface.models.cachedir import cache_root
from efface.passes.cache import Cache
from efface.progress import Progress
from efface.runs.layout import write_json
from efface.spec import RunSpec
from efface.suites import Suite

THREATS = ("black-box", "grey-box", "white-box")
HEADLINE = ("probability", "rouge", "accuracy")


@dataclass
class Audit:
    """Everything an audit found."""

    scores: dict[str, list[Score]]
    attacks: list[AttackResult]
    conclusion: Conclusion
    fingerprints: dict[str, str]
    warnings: list[str] = field(default_factory=list)


def run(
    spec: RunSpec,
    data: Bundle,
    made: Mapping[str, Made],
    unlearned: Callable[[], ModelAdapter],
    folder: Path,
    progress: Progress,
) -> Audit:
    """Measure, attack, conclude, write."""
    suite = suites.load(spec.audit.suite)
    passes = PassSettings(spec.audit.max_new_tokens or suite.max_new_tokens, spec.audit.token_budget, spec.seed)
    roles = {"unlearned": Role(unlearned)} | {name: Role(lambda m=m: m.open(spec.model)) for name, m in made.items()}
    store = Store(roles, data.eval, passes, Cache(cache_root() / "tables"), progress)
    plan(store, suite)
    scores = _scores(spec, suite, store, progress)
    entries, left_out = _attacks(spec, suite)
    runner = Runner(
        roles,
        data,
        suite,
        passes,
        seed=spec.seed,
        resamples=spec.audit.resamples,
        cache=cache_root(),
        built_with=spec.target.train if spec.target.kind == "train" else None,
        progress=progress,
    )
    results = [runner.run(entry) for entry in entries]
    conclusion = _conclude(spec, suite, scores, results, left_out, len(data.eval.get("forget", ())))
    write_scores(folder, suite, scores, roles, data)
    write_attacks(folder, suite, results)
    write_tables(folder, store, keep_text=spec.keep_text)
    write_samples(folder, store, scores, data, keep_text=spec.keep_text)
    write_json(folder / "conclusion.json", conclusion.to_json())
    return Audit(
        scores, results, conclusion, {name: role.fingerprint for name, role in roles.items()}, _warnings(scores)
    )


def _scores(spec: RunSpec, suite: Suite, store: Store, progress: Progress) -> dict[str, list[Score]]:
    scores: dict[str, list[Score]] = {}
    for role in ("reference", "target", "unlearned"):
        if role in store.roles:
            with progress.step(f"measure {role}"):
                scores[role] = measure(store, suite, role, seed=spec.seed, resamples=spec.audit.resamples)
    return {role: with_targets(found, scores.get("reference")) for role, found in scores.items()}


def _attacks(spec: RunSpec, suite: Suite) -> tuple[list[Any], list[str]]:
    """Attacks that are allowed by name and threat model, and why the others are not run."""
    from efface.attacks.base import ATTACKS

    entries, left_out = [], []
    for entry in suite.attacks:
        label, threat = entry.label or entry.name, ATTACKS.get(entry.name).threat
        if spec.audit.attacks is not None and label not in spec.audit.attacks:
            left_out.append(f"{label} was not asked for.")
        elif THREATS.index(threat) > THREATS.index(spec.audit.threat):
            left_out.append(f"{label} needs a {threat} attacker; the audit considers a {spec.audit.threat} one.")
        else:
            entries.append(entry)
    return entries, left_out


def _conclude(
    spec: RunSpec,
    suite: Suite,
    scores: dict[str, list[Score]],
    results: list[AttackResult],
    left_out: list[str],
    n: int,
) -> Conclusion:
    u, o, r = (scores.get(role, []) for role in ("unlearned", "target", "reference"))
    headline = [name for name in HEADLINE if any(s.name == name and s.rows == "forget" for s in u)]
    options = {"seed": spec.seed, "resamples": spec.audit.resamples}
    found = find.residue(u, r, o, headline, **options)
    sets = [rows for rows in suite.metrics if rows not in ("forget", "all", "forget_test", "holdout")]
    found += find.utility(u, o, sets, headline)
    main = suite.attack_metrics[0]
    gap = _gap(o, r, main)
    for result in results:
        found += find.recovery(result, main, gap, **options)
        if result.reason:
            left_out.append(f"{result.label}: {result.reason}.")
    return conclude(found, has_reference=bool(r), n=n, not_tested=left_out)


def _gap(target: list[Score], reference: list[Score], name: str) -> float | None:
    values = [
        next((s.value for s in scores if s.name == name and s.rows == "forget"), None) for scores in (target, reference)
    ]
    return values[0] - values[1] if None not in values else None  # type: ignore[operator]


def _warnings(scores: dict[str, list[Score]]) -> list[str]:
    """Rows that could not be scored."""
    return [
        f"{s.unscored} of {s.n + s.unscored} rows could not be scored for {s.name} on {s.rows}."
        for s in scores.get("unlearned", ())
        if s.unscored
    ]
