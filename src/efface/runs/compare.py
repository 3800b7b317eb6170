"""Runs side by side: one line a metric and evaluation set, each run against the first, or why they do not compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from efface.errors import RecordError
from efface.runs.loading import LoadedRun, load_run
from efface.runs.paired import Difference, paired, row_values
from efface.runs.results import Curve, ScoreRow, Scores

ROLE = "unlearned"


@dataclass(frozen=True)
class Head:
    """One compared run."""

    name: str
    method: str
    model: str
    suite: str
    suite_version: int
    seed: Any
    conclusion: str
    complete: bool


@dataclass(frozen=True)
class Cell:
    """One number of one run; ``reason`` says why there is none. Of attacks ``at`` is the budget it was found at, and
    ``area`` (value, low, high) the mean of the same over the whole curve."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    target: float | None = None
    reason: str = ""
    at: dict[str, float] | None = None
    area: tuple[float | None, float | None, float | None] | None = None


@dataclass(frozen=True)
class Line:
    """One metric on one set, or its excess under ``attack``. ``cells`` and ``differences`` follow the order of runs;
    differences are run - first run, None for the first and wherever rows are not at hand. ``problem``: why it does not
    compare."""

    name: str
    rows: str
    direction: str
    cells: tuple[Cell, ...]
    differences: tuple[Difference | None, ...]
    problem: str = ""
    attack: str = ""


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` returns. ``render`` gives "text", "md", "html" or "json"."""

    runs: tuple[Head, ...]
    scores: tuple[Line, ...]
    attacks: tuple[Line, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {"schema": 1, **asdict(self)}

    def render(self, format: str = "text") -> str:
        """For a person: "text", "md" or "html"; "json" for a program."""
        from efface.report.comparison import render

        return render(self, format)


def compare(runs: Sequence[Path | str | LoadedRun], *, seed: int = 0, resamples: int = 1000) -> Comparison:
    """Align the unlearned models' scores and attack results of two or more runs.

    Differences are paired by row and resample entities; they are left out, with the reason in ``Line.problem``, where
    suite, versions, data or direction differ. Raises "compare.needs-two", "compare.no-scores", and what ``load_run``
    raises.
    """
    loaded = [run if isinstance(run, LoadedRun) else load_run(run) for run in runs]
    if len(loaded) < 2:
        raise RecordError(
            "compare.needs-two", f"{len(loaded)} run given; comparing takes two or more.", "name another run."
        )
    scores = [_scores_of(run) for run in loaded]
    general = _general_problem(loaded, scores)
    lines = tuple(_score_line(loaded, scores, key, general, seed, resamples) for key in _keys(scores))
    lines = _adjusted(lines)
    attacks = tuple(_attack_line(loaded, key, general) for key in _attack_keys(loaded))
    return Comparison(
        tuple(_head(run, s) for run, s in zip(loaded, scores, strict=True)),
        lines,
        attacks,
        tuple(_notes(loaded, general)),
    )


def _scores_of(run: LoadedRun) -> Scores:
    if run.scores is None:
        raise RecordError(
            "compare.no-scores", f"{run.path} has no scores: its audit did not finish.", "run the same command again."
        )
    return run.scores


def _head(run: LoadedRun, scores: Scores) -> Head:
    spec = run.spec
    label = run.conclusion.label if run.conclusion else ""
    method = run.training.method if run.training else ""
    return Head(
        run.name,
        method or "audit",
        str(_at(spec, "model", "name")),
        scores.suite,
        scores.suite_version,
        spec.get("seed"),
        label,
        run.complete,
    )


def _at(values: Any, *path: str) -> Any:
    for key in path:
        values = values.get(key, "") if isinstance(values, dict) else ""
    return values


def _general_problem(runs: Sequence[LoadedRun], scores: Sequence[Scores]) -> str:
    """Why nothing of these runs compares ("" if it does)."""
    first = scores[0]
    for other in scores[1:]:
        if other.suite != first.suite:
            return f"the suite differs ({first.suite}, {other.suite})"
        if other.suite_version != first.suite_version:
            return f"the version of suite {first.suite} differs ({first.suite_version}, {other.suite_version})"
    hashes = [str(_at(run.provenance.data, "sha256")) if run.provenance else "" for run in runs]
    return "the data differ" if len({h for h in hashes if h}) > 1 else ""


def _notes(runs: Sequence[LoadedRun], general: str) -> Iterator[str]:
    if general:
        yield f"These runs are not comparable because {general}; their numbers are shown, differences are not."
    for run in runs:
        if not run.complete:
            yield f"{run.name} is not complete."


# -- scores ----------------------------------------------------------------------------------------------------
def _keys(scores: Sequence[Scores]) -> list[tuple[str, str]]:
    """(metric, set) of every unlearned score, in the order they first appear."""
    return list(dict.fromkeys((row.name, row.rows) for s in scores for row in s.scores if row.role == ROLE))


def _score_line(
    runs: Sequence[LoadedRun], scores: Sequence[Scores], key: tuple[str, str], general: str, seed: int, resamples: int
) -> Line:
    name, rows = key
    found = [next((r for r in s.scores if (r.role, r.name, r.rows) == (ROLE, *key)), None) for s in scores]
    there = [row for row in found if row is not None]
    cells = tuple(_cell(row) for row in found)
    values = [row_values(run, ROLE, rows, name) for run in runs]
    problem = general or _line_problem(there, by_row=all(values))
    differences: tuple[Difference | None, ...] = (None,) * len(runs)
    if not problem and (first := values[0]):
        differences = (None, *(paired(first, v, seed=seed, resamples=resamples) if v else None for v in values[1:]))
    return Line(name, rows, there[0].direction, cells, differences, problem)


def _adjusted(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """The lines with Holm-adjusted p-values: each run is compared on many lines, which are many chances to be wrong."""
    from efface.metrics.stats import holm

    out = [list(line.differences) for line in lines]
    for run in range(len(out[0]) if out else 0):
        at = [(k, d) for k, differences in enumerate(out) if (d := differences[run]) is not None]
        for (k, d), p in zip(at, holm([d.p for _, d in at]).tolist(), strict=True):
            out[k][run] = replace(d, adjusted=p)
    return tuple(replace(line, differences=tuple(found)) for line, found in zip(lines, out, strict=True))


def _line_problem(found: Sequence[ScoreRow], *, by_row: bool) -> str:
    """Why this line does not compare. A different number of rows only matters where rows are not paired."""
    versions, directions = sorted({r.version for r in found}), sorted({r.direction for r in found})
    if len(versions) > 1:
        return f"the version of the metric differs ({', '.join(map(str, versions))})"
    if len(directions) > 1:
        return f"the direction differs ({', '.join(directions)})"
    counts = sorted({r.n for r in found if r.value is not None})
    return f"the number of rows differs ({', '.join(map(str, counts))})" if len(counts) > 1 and not by_row else ""


def _cell(row: ScoreRow | None) -> Cell:
    if row is None:
        return Cell(None, reason="it was not asked for")
    return Cell(row.value, row.low, row.high, row.n, row.target, row.reason)


# -- attacks ---------------------------------------------------------------------------------------------------
def _attack_keys(runs: Sequence[LoadedRun]) -> list[tuple[str, str, str]]:
    curves = (c for run in runs for c in run.curves if c.rows in ("", "forget"))
    return list(dict.fromkeys((c.attack, c.metric, c.rows) for c in curves))


def _attack_line(runs: Sequence[LoadedRun], key: tuple[str, str, str], general: str) -> Line:
    """Excess over the reference under the same attack: lower is better, and 0 is what the reference shows."""
    curves = [next((c for c in run.curves if (c.attack, c.metric, c.rows) == key), None) for run in runs]
    budgets = {
        tuple(tuple(sorted(p.budget.items())) for p in c.points if p.role == ROLE) for c in curves if c and c.points
    }
    problem = general or ("the budgets differ" if len(budgets) > 1 else "")
    attack, metric, rows = key
    cells = tuple(_excess_cell(c) for c in curves)
    return Line(metric, rows, "lower", cells, (None,) * len(runs), problem, attack)


def _excess_cell(curve: Curve | None) -> Cell:
    if curve is None:
        return Cell(None, reason="the attack was not run")
    if curve.excess is None or curve.excess.value is None:
        return Cell(None, reason=curve.reason or "there is no control")
    gap, whole = curve.excess, curve.area_excess
    area = None if whole is None else (whole.value, whole.low, whole.high)
    return Cell(gap.value, gap.low, gap.high, at=dict(gap.at), area=area)
