"""UWC, unlearning with control: what is left of the forget set once every method keeps the same share of the rest.

theta_alpha = (1 - alpha) theta_O + alpha theta_U, alpha* the largest alpha with ES_retain(alpha) >= tau ES_retain(O);
methods are compared by ES_forget(alpha*), lower is better (Wang et al. 2024, arXiv 2406.09179, section 4). Forget ES is
read in three ways: the original question, a reworded one, and an answer that is only similar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efface.artifact import Artifact
from efface.audit.mixing import entity, mixed, search, split
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Rows
from efface.metrics.base import METRICS, Score, Tables, compute
from efface.progress import SILENT, Progress
from efface.settings import Settings, setting

if TYPE_CHECKING:
    from efface.models.base import ModelAdapter
    from efface.passes.cache import Cache

VERSION = 2  # raised when the same models and settings would give other numbers
MIXABLE = ("weights", "edit", "adapter")
STRENGTH = "extraction_strength"
REWORDED = "extraction_strength_paraphrased_question"
SIMILAR = "extraction_strength_similar"
TINY = 1e-12  # equal means may differ in their last bit


class CalibrateSettings(Settings):
    """How much must be kept, and how finely the mixing weight is searched."""

    tau: float = setting(
        0.95, "share of the target's retain ES that must be left", source="arXiv:2406.09179 (its code .9)", gt=0, le=1
    )
    grid: int = setting(11, "mixing weights tried first, 0 and 1 included", source="sheet M2-8 (h)", ge=2)
    resolution: float = setting(
        0.005, "bisection inside the last passing cell ends at this width", source="derived", gt=0, lt=1
    )
    rows: int = setting(
        100, "most retain rows in each of the two splits, evenly spread", source="derived; the paper's code samples 50"
    )


@dataclass(frozen=True)
class Calibration:
    """What the comparison at equal retention found. ``reason`` non-empty: not computed, because ``reason``.

    ``alpha``: alpha*, 0 where no alpha above 0 keeps enough (``fails``). ``points``: [alpha, retain ES on the split the
    search used], rising. ``scores``: {"forget", "forget_reworded", "retain"} -> {"target", "mixed", "unlearned"} ->
    {value, low, high, n, reason}; retain is measured on the split that the search never saw. "forget_similar" has the
    mixed model only, because it generates text (and is missing in files written before it was measured). ``splits``:
    rows and entities of both splits.
    """

    tau: float
    alpha: float | None = None
    fails: bool = False
    reason: str = ""
    points: tuple[tuple[float, float], ...] = ()
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def value(self, rows: str = "forget", model: str = "mixed") -> float | None:
        """One ES: of the ``mixed`` model (at alpha*), the ``target`` or the ``unlearned`` model (alpha 1)."""
        return self.scores.get(rows, {}).get(model, {}).get("value")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"schema": 1, "version": VERSION} | asdict(self)


def calibrate(
    target: ModelAdapter,
    artifact: Artifact,
    forget: Rows,
    retain: Rows,
    settings: CalibrateSettings | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
    token_budget: int = 4096,
    cache: Cache | None = None,
    progress: Progress = SILENT,
) -> Calibration:
    """Mix ``artifact`` into ``target`` until tau of the retain ES is left, and measure what is left of ``forget``.

    Half of the retain entities (``seed`` says which) decide alpha*, the other half is reported. Every table goes
    through ``cache``. What cannot be mixed or has no retention to control is "not computed, because".
    """
    settings = settings or CalibrateSettings()
    sides = split(retain, seed, settings.rows)
    reason = _impossible(artifact, sides)
    if reason:
        return Calibration(settings.tau, reason=reason)
    sets = {"calibrate": sides[0], "report": sides[1], "forget": forget}
    models = _Models(target, artifact, sets, token_budget, cache, seed, resamples)
    start = models.mean(0.0)
    if not start > 0:
        return Calibration(settings.tau, reason="the target itself has a retain ES of 0, so there is nothing to keep")
    wanted = settings.tau * start - TINY
    with progress.step("calibrate", None):
        alpha = search(lambda a: models.mean(a) >= wanted, settings.grid, settings.resolution)
        return Calibration(
            settings.tau,
            alpha,
            alpha == 0,
            points=tuple(sorted(models.means.items())),
            scores=models.scores(alpha),
            splits={name: _count(rows) for name, rows in sets.items()},
        )


def _count(rows: Rows) -> dict[str, int]:
    return {"rows": len(rows), "entities": len({entity(row) for row in rows})}


def _impossible(artifact: Artifact, sides: tuple[Rows, Rows]) -> str:
    if artifact.kind not in MIXABLE:
        return f"a {artifact.kind.replace('_', ' ')} acts while the model answers, so there are no weights to mix"
    if not (len(sides[0]) and len(sides[1])):
        return "the retain rows belong to fewer than two entities: one part decides alpha, another is reported"
    return ""


class _Models:
    """The mixed models by alpha, each scored when it is asked for and then dropped."""

    def __init__(
        self,
        target: ModelAdapter,
        artifact: Artifact,
        sets: Mapping[str, Rows],
        token_budget: int,
        cache: Cache | None,
        seed: int,
        resamples: int,
    ) -> None:
        self.target, self.artifact, self.sets, self.cache = target, artifact, sets, cache
        self.token_budget, self.options = token_budget, {"seed": seed, "resamples": resamples}
        self.means: dict[float, float] = {}

    def mean(self, alpha: float) -> float:
        """Retain ES on the split that decides alpha."""
        if alpha not in self.means:
            self.means[alpha] = self._score(self._store(alpha), STRENGTH, "calibrate").value or 0.0
        return self.means[alpha]

    def scores(self, alpha: float) -> dict[str, dict[str, Any]]:
        """What is reported, at 0, at ``alpha`` and at 1."""
        asked = (
            ("forget", STRENGTH, "forget"),
            ("forget_reworded", REWORDED, "forget"),
            ("retain", STRENGTH, "report"),
        )
        found: dict[str, dict[str, Any]] = {name: {} for name, _, _ in asked}
        for model, at in (("target", 0.0), ("mixed", alpha), ("unlearned", 1.0)):
            store = self._store(at)
            for name, metric, rows in asked:
                found[name][model] = _brief(self._score(store, metric, rows))
        return found | {"forget_similar": {"mixed": _brief(self._score(self._store(alpha), SIMILAR, "forget"))}}

    def _store(self, alpha: float) -> Store:
        role = Role(lambda: mixed(self.artifact, self.target, alpha))
        return Store({"subject": role}, self.sets, PassSettings(token_budget=self.token_budget), self.cache)

    def _score(self, store: Store, metric: str, rows: str) -> Score:
        return compute(METRICS.get(metric), Tables(store.fetch, rows, "subject"), rows, **self.options)


def _brief(score: Score) -> dict[str, Any]:
    return {"value": score.value, "low": score.low, "high": score.high, "n": score.n, "reason": score.reason}


def calibrate_run(run: Path, settings: CalibrateSettings | None = None, *, progress: Progress = SILENT) -> Calibration:
    """The calibration of a run directory, from its spec, its artifact and its target (built again if it is nowhere)."""
    from efface.build import base, made
    from efface.loading import load_data
    from efface.models.cachedir import cache_root
    from efface.passes.cache import Cache
    from efface.spec import load, parse_spec

    settings, spec = settings or CalibrateSettings(), parse_spec(load(run / "spec.yaml"))
    data, _ = load_data(spec)
    if data.modality != "text":
        return Calibration(settings.tau, reason=f"{data.modality} rows have no answer to extract")
    if not data.eval.get("retain") or not data.eval.get("forget"):
        return Calibration(settings.tau, reason="the data has no retain rows or no forget rows that are scored")
    start = base(spec, data, progress)
    target = made("target", spec, data, start, progress) or start
    return calibrate(
        target.open(spec.model),
        Artifact.load(run / "model"),
        data.eval["forget"],
        data.eval["retain"],
        settings,
        seed=spec.seed,
        resamples=spec.audit.resamples,
        token_budget=spec.audit.token_budget,
        cache=Cache(cache_root() / "tables"),
        progress=progress,
    )


def ranked(values: Iterable[float | None]) -> list[int | None]:
    """Places 1, 2, ... by forget ES, lower first, equal values sharing a place. None for what was not computed."""
    found = list(values)
    known = np.array([v for v in found if v is not None])
    return [None if v is None else 1 + int((known < v - TINY).sum()) for v in found]
