"""The audit of one model: scores of every role, attacks with controls, samples, conclusion; all written to the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from efface import suites
from efface.attacks.base import ATTACKS
from efface.audit import findings as find
from efface.audit import planning
from efface.audit.attacks import AttackResult, Runner
from efface.audit.conclude import Conclusion, conclude
from efface.audit.consistency import of_curve
from efface.audit.export import Basis, write_attacks, write_samples, write_scores, write_tables
from efface.audit.measure import measure, plan, with_targets
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.build import Made
from efface.data.rows import Bundle
from efface.metrics.base import Score
from efface.models.base import ModelAdapter
from efface.models.cachedir import cache_root
from efface.passes.cache import Cache
from efface.progress import SILENT, Progress
from efface.runs.layout import write_json
from efface.runs.privacy import for_run
from efface.spec import RunSpec
from efface.suites import Suite

HEADLINE = ("probability", "rouge", "accuracy")


@dataclass
class Audit:
    """Everything an audit found, and the tables it found it in."""

    suite: Suite
    scores: dict[str, list[Score]]
    attacks: list[AttackResult]
    conclusion: Conclusion
    store: Store
    roles: dict[str, Role]
    warnings: list[str] = field(default_factory=list)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Weight hash of every role, and the hash of the judge's files where one judged."""
        judge = dict(zip(("judge",), self.store.settings.judge_key(), strict=False))
        return {name: role.fingerprint for name, role in self.roles.items()} | judge


def run(
    spec: RunSpec,
    data: Bundle,
    made: Mapping[str, Made],
    unlearned: Callable[[], ModelAdapter],
    folder: Path,
    progress: Progress,
) -> Audit:
    """Measure, attack, conclude, write."""
    roles = {"unlearned": Role(unlearned)} | {name: Role(lambda m=m: m.open(spec.model)) for name, m in made.items()}
    found = examine(spec, suites.load(spec.audit.suite), data, roles, progress)
    privacy = for_run(data, keep_text=spec.keep_text)
    write_scores(folder, found.suite, found.scores, roles, data, privacy)
    basis = Basis(found.scores.get("target", ()), spec.seed, spec.audit.resamples)
    write_attacks(folder, found.suite, found.attacks, privacy, basis)
    write_tables(folder, found.store, privacy=privacy)
    write_samples(folder, found.store, found.scores, data, privacy=privacy)
    conclusion = found.conclusion.to_json()
    write_json(folder / "conclusion.json", privacy.values(conclusion) if privacy else conclusion)
    return found


def examine(spec: RunSpec, suite: Suite, data: Bundle, roles: Mapping[str, Role], progress: Progress = SILENT) -> Audit:
    """Measure, attack and conclude, on the roles at hand (``unlearned`` at least); nothing is written but caches."""
    suite = planning.with_asked(suite, spec.audit.attacks)
    passes = PassSettings.of(spec.audit, suite, spec.seed)
    controls = tuple({"base"} - set(scored(spec)))
    store = Store(roles, data.eval, passes, Cache(cache_root() / "tables"), progress, data.world, controls)
    plan(store, suite)
    scores = _scores(spec, suite, store, progress)
    entries, left_out = planning.allowed(suite.attacks, spec.audit.threat, spec.audit.attacks)
    left_out += planning.not_in_suite(suite, spec.audit.threat, spec.audit.attacks, data)
    runner = Runner(
        roles,
        data,
        suite,
        passes,
        seed=spec.seed,
        resamples=spec.audit.resamples,
        cache=cache_root(),
        built_with=spec.target.train if spec.target.kind == "train" else None,
        store=store,
        progress=progress,
    )
    budget = planning.Budget(spec.audit.minutes, roles["unlearned"].adapter() if entries else None, data)
    planned = planning.by_price(entries, data, list(roles))
    results = [runner.run(one.entry, seconds=one.seconds) for one in budget.fitting(planned, left_out)]
    conclusion = conclusion_of(spec, suite, scores, results, left_out, len(data.eval.get("forget", ())))
    return Audit(suite, scores, results, conclusion, store, dict(roles), _warnings(scores))


def scored(spec: RunSpec) -> tuple[str, ...]:
    """Roles that are scored, as far as they are there."""
    return (*(("base",) if spec.audit.score_base else ()), "reference", "reference_2", "target", "unlearned")


def _scores(spec: RunSpec, suite: Suite, store: Store, progress: Progress) -> dict[str, list[Score]]:
    scores: dict[str, list[Score]] = {}
    for role in scored(spec):
        if role in store.roles:
            with progress.step(f"measure {role}"):
                scores[role] = measure(store, suite, role, seed=spec.seed, resamples=spec.audit.resamples)
    options = {"seed": spec.seed, "resamples": spec.audit.resamples}
    return {role: with_targets(found, scores.get("reference"), **options) for role, found in scores.items()}


def conclusion_of(
    spec: RunSpec,
    suite: Suite,
    scores: dict[str, list[Score]],
    results: list[AttackResult],
    left_out: list[str],
    n: int,
) -> Conclusion:
    """The conclusion from scores by role and attack results; ``left_out``: attacks that were not run, ``n``: forget
    rows."""
    u, o, r, second = (scores.get(role, []) for role in ("unlearned", "target", "reference", "reference_2"))
    headline = [name for name in HEADLINE if any(s.name == name and s.rows == "forget" for s in u)]
    options = {"seed": spec.seed, "resamples": spec.audit.resamples}
    found = find.residue(u, [r, second] if second else [r], o, headline, **options)
    sets = [rows for rows in suite.metrics if rows not in ("forget", "all", "forget_test", "holdout")]
    found += find.utility(u, o, sets, headline)
    for result in results:
        own = ATTACKS.get(result.name).reads
        metric = own if own in suite.attack_metrics else suite.attack_metrics[0]
        found += find.recovery(result, metric, _gap(o, r, metric), **options)
        if result.name == "surrogates":
            found += of_curve(result, _measured(result), **options)
        if result.reason:
            left_out.append(f"{result.label}: {result.reason}.")
    return conclude(found, has_reference=bool(r), n=n, not_tested=left_out)


def _measured(result: AttackResult) -> list[str]:
    """The metrics along an attack's curve."""
    points = result.curves["unlearned"].points if "unlearned" in result.curves else []
    return list(dict.fromkeys(s["name"] for s in points[0]["scores"])) if points else []


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
