"""Proximal surrogates: texts that come from the forget set and lie far from it, to test a metric rather than a
method."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from efface.data.rows import Row
from efface.data.telling import plain
from efface.data.worlds.objects import objects
from efface.data.worlds.surrogates import Surrogate
from efface.engine.seeds import derive
from efface.passes.hidden import hidden
from efface.passes.mixed_sampling import Mixing, mixed_samples
from efface.passes.score import score
from efface.settings import Settings, setting

if TYPE_CHECKING:
    from efface.data.worlds.graph import World
    from efface.models.causal_lm import CausalLM

CHECKS = ("derived", "far", "fluent", "relevant")


class SurrogateSettings(Settings):
    """Generation and filters (PSG, arXiv:2512.19025; sheet 6)."""

    frame: str = setting("Say in other words: {text}", "question under which rephrases are drawn", source="derived")
    candidates: int = setting(32, "rephrases per round", source="sheet 6 (g), in place of GCG", ge=1)
    rounds: int = setting(
        5, "rounds per source; each goes on from the farthest text so far", source="sheet 6 (g)", ge=1
    )
    max_new_tokens: int = setting(50, "longest rephrase in tokens", source="paper: 20 to 50", ge=1)
    gap_percentile: float = setting(
        25.0, "G1: least gap, as a percentile of the forget set's", source="paper", ge=0, le=100
    )
    distance: float = setting(
        1.5, "G2: least distance over that of the source; depends on the embedding", source="paper", gt=0
    )
    neighbours: int = setting(
        100, "G2: forget rows nearest to a text that its distance is the mean over", source="paper", ge=1
    )
    fluency_percentile: float = setting(
        25.0, "G3: least log-prob, as a percentile of the forget set's", source="paper", ge=0, le=100
    )
    seconds: float | None = setting(
        None, "stop drawing after so long (none: never); not in an audit, where every model is asked the same", gt=0
    )


@dataclass(frozen=True)
class Judged:
    """A surrogate with its filter values: ``gap`` nats per token by which the model that knows finds it likelier,
    ``distance`` to the forget set over that of its source, ``fluency`` mean log-prob of the model that does not know.
    ``checks`` {G1 derived, G2 far, G3 fluent, relevant}."""

    surrogate: Surrogate
    gap: float
    distance: float
    fluency: float
    checks: Mapping[str, bool]

    def passes(self, *names: str) -> bool:
        """Whether it passes the named checks (none: all)."""
        return all(self.checks[name] for name in names or CHECKS)


class Filter:
    """G1 to G3 and the relevance check, with thresholds from the forget rows ``rows``.

    ``knows``: the model fine-tuned on them (theta_ft); ``naive``: one that never saw them (theta; a reference or the
    base where the model before unlearning is all there is [derived]). Embedding: mean last hidden state of ``naive``.
    Judge rows of the form of ``rows``: questions with questions, plain texts with plain texts.
    """

    def __init__(
        self,
        knows: CausalLM,
        naive: CausalLM,
        rows: Sequence[Row],
        settings: SurrogateSettings,
        world: World | None = None,
    ) -> None:
        self.knows, self.naive, self.settings, self.rows = knows, naive, settings, {r.id: r for r in rows}
        known = objects(world) if world is not None else {}
        self._told = {r.id: {plain(t) for t in (r.entity, known.get(r.fact, "")) if t} for r in rows}
        gaps, fluency = self._gaps(rows)
        self.least_gap = float(np.percentile(gaps, settings.gap_percentile))
        self.least_fluency = float(np.percentile(fluency, settings.fluency_percentile))
        self._embedded = self._embed(rows)
        own = [self._distance(e, skip=i) for i, e in enumerate(self._embedded)]
        self._own = dict(zip(self.rows, own, strict=True))

    def judge(self, surrogates: Sequence[Surrogate]) -> list[Judged]:
        """Filter values of every surrogate."""
        if not surrogates:
            return []
        rows = [replace(s.row, id=f"{i}") for i, s in enumerate(surrogates)]
        gaps, fluency = self._gaps(rows)
        out = []
        for s, gap, easy, place in zip(surrogates, gaps, fluency, self._embed(rows), strict=True):
            distance = self._distance(place) / max(self._own[s.source], 1e-12)
            text = f" {plain(f'{s.row.prompt} {s.row.answer}')} "
            checks = {
                "derived": bool(gap >= self.least_gap and gap > 0),
                "far": distance > self.settings.distance,
                "fluent": bool(easy >= self.least_fluency),
                "relevant": any(f" {told} " in text for told in self._told[s.source]),
            }
            out.append(Judged(s, float(gap), distance, float(easy), checks))
        return out

    def _gaps(self, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
        """(mean log p_knows - mean log p_naive, mean log p_naive) of every row, nats per token."""
        sides = [
            [np.mean(lp) if lp else np.nan for lp in score(m, rows).tokens["lp"].to_pylist()]
            for m in (self.knows, self.naive)
        ]
        return np.array(sides[0]) - np.array(sides[1]), np.array(sides[1])

    def _embed(self, rows: Sequence[Row]) -> np.ndarray:
        last = len(self.naive.blocks)
        return np.array(hidden(self.naive, rows, layers=[last], pooling="mean_all")["vector"].to_pylist())

    def _distance(self, place: np.ndarray, skip: int | None = None) -> float:
        far = np.sort(np.linalg.norm(np.delete(self._embedded, [] if skip is None else [skip], axis=0) - place, axis=1))
        return float(far[: self.settings.neighbours].mean())


def as_texts(rows: Sequence[Row]) -> list[Row]:
    """Forget rows as plain texts: what surrogates that are drawn are compared with."""
    return [replace(r, prompt="", paraphrase="", answer_paraphrase="", wrong=()) for r in rows]


def draw(given: Filter, seed: int, sources: Sequence[str] | None = None) -> tuple[list[Judged], dict[str, float]]:
    """(for each source the farthest text that passes every check, where one does; acceptance rates over all
    candidates).

    Each round draws rephrases of the current text under the mixed sampler of both models and goes on from the farthest
    candidate that passes G1, G3 and relevance (CPU variant of PSG: candidate search in place of gradient steps
    [derived]).
    """
    started, settings, seen, found = time.monotonic(), given.settings, [], []
    mixing = Mixing(max_new_tokens=settings.max_new_tokens)
    for source in sources if sources is not None else list(given.rows):
        best: Judged | None = None
        text = given.rows[source].answer
        for number in range(settings.rounds):
            if settings.seconds is not None and time.monotonic() - started > settings.seconds:
                break
            judged = given.judge(_rephrased(given, source, text, mixing, derive(seed, source, number)))
            seen += judged
            near = [j for j in judged if j.passes("derived", "fluent", "relevant")]
            farthest = max(near, key=lambda j: j.distance, default=None)
            if farthest is not None and (best is None or farthest.distance > best.distance):
                best, text = farthest, farthest.surrogate.row.answer
        if best is not None and best.passes():
            found.append(best)
    return found, acceptance(seen)


def acceptance(judged: Sequence[Judged]) -> dict[str, float]:
    """Share of candidates that pass each check, and all of them; with their number."""
    rates = {name: sum(j.checks[name] for j in judged) / len(judged) if judged else 0.0 for name in CHECKS}
    return rates | {"all": sum(j.passes() for j in judged) / max(1, len(judged)), "candidates": len(judged)}


def _rephrased(given: Filter, source: str, text: str, mixing: Mixing, seed: int) -> list[Surrogate]:
    """Distinct rephrases of ``text``, the text itself and empty ones left out."""
    model, row = given.knows, given.rows[source]
    prompt = model.template.prompt_ids(model.tokenizer, given.settings.frame.replace("{text}", text))
    said = mixed_samples(model, given.naive, [prompt] * given.settings.candidates, mixing, seed)
    fresh = [t for t in dict.fromkeys(said) if t and plain(t) != plain(row.answer)]
    return [Surrogate(replace(row, id=f"{source}~{seed}~{i}", answer=t), source, "drawn") for i, t in enumerate(fresh)]
