"""Writing what an audit found into the run directory: scores, curves, tables, samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efface.audit.attacks import AttackResult
from efface.audit.concealed import conceal_table
from efface.audit.findings import difference, point_score
from efface.audit.roles import Role
from efface.audit.store import Store
from efface.data.rows import Bundle
from efface.metrics.base import Score
from efface.metrics.stats import bootstrap_difference
from efface.runs.layout import write_json
from efface.runs.privacy import Privacy
from efface.runs.samples import write_sample_rows
from efface.suites import Suite

CURVE_ROWS = "rows.arrow"
CURVE_COLUMNS = {
    "role": "string",
    "point": "int32",
    "metric": "string",
    "rows": "string",
    "row": "string",
    "entity": "string",
    "value": "double",
}
WEIGHT_BITS = 32  # of one number, as the attacks train and copy them
OWN_WEIGHTS = ("trained_parameters", "original_weights")  # what an attack calls the weights that it puts in


@dataclass(frozen=True)
class Basis:
    """What the summary of a curve needs beside its points. ``target``: scores of the model before unlearning, with
    their rows; ``seed`` and ``resamples``: of the intervals, as of the conclusion's."""

    target: Sequence[Score] = ()
    seed: int = 0
    resamples: int = 1000


def write_scores(
    folder: Path,
    suite: Suite,
    scores: Mapping[str, Sequence[Score]],
    roles: Mapping[str, Role],
    data: Bundle,
    privacy: Privacy | None,
) -> None:
    """``scores.json``: every score of every role; ``rows.json``: the per-row values that paired comparisons need, by
    row id and entity as ``privacy`` leaves them."""
    flat = [{"role": role, **s.to_json()} for role, found in scores.items() for s in found]
    write_json(
        folder / "scores.json",
        {
            "schema": 1,
            "suite": suite.name,
            "suite_version": suite.version,
            "n_forget": len(data.eval.get("forget", ())),
            "roles": {name: {"fingerprint": role.fingerprint} for name, role in roles.items()},
            "sets": {name: len(rows) for name, rows in data.eval.items()},
            "scores": flat,
            "notes": [],
        },
    )
    write_json(
        folder / "rows.json",
        {
            "schema": 1,
            "rows": [
                {"role": role, "name": s.name, "rows": s.rows, **_by_row(s.rows, s.per_row, s.entities, privacy)}
                for role, found in scores.items()
                for s in found
                if s.per_row
            ],
        },
    )


def _by_row(
    rows: str, values: Mapping[str, float | None], entities: Mapping[str, str], privacy: Privacy | None
) -> dict[str, dict[str, Any]]:
    """Values and entities by row id, as ``privacy`` leaves the ids and entities of set ``rows``."""
    if privacy is None:
        return {"values": dict(values), "entities": dict(entities)}
    ids = {row: privacy.row(rows, row, entities.get(row, "")) for row in values}
    return {
        "values": {ids[row]: value for row, value in values.items()},
        "entities": {ids[row]: privacy.entity(rows, e) for row, e in entities.items() if row in ids},
    }


def write_attacks(
    folder: Path, suite: Suite, results: Sequence[AttackResult], privacy: Privacy | None, basis: Basis | None = None
) -> None:
    """``attacks/<label>/curve.json`` for the headline metric, ``curve-<metric>.<set>.json`` for every other one, and
    ``rows.arrow`` with the values per row behind all of them, from which ``verify`` works out the findings again.
    Why an attack was not run may quote a row, and is concealed by ``privacy``. Without a ``basis`` curves are not
    summarised by more than their highest points."""
    for result in results:
        place = folder / "attacks" / result.label
        place.mkdir(parents=True, exist_ok=True)
        scores = [s for curve in result.curves.values() for point in curve.points for s in point["scores"]]
        sets = sorted({s["rows"] for s in scores}) or ["forget"]
        for metric in dict.fromkeys([*suite.attack_metrics, *(s["name"] for s in scores)]):
            for rows in sets:
                head = metric == suite.attack_metrics[0] and rows == "forget"
                curve = _curve(result, metric, rows, basis)
                name = "curve.json" if head else f"curve-{metric}.{rows}.json"
                write_json(place / name, privacy.values(curve) if privacy else curve)
        _write_rows(place / CURVE_ROWS, result, privacy)


def _write_rows(path: Path, result: AttackResult, privacy: Privacy | None) -> None:
    """One line for each role, point, metric, set and row that has a value per row."""
    import pyarrow as pa
    import pyarrow.feather as feather

    lines: list[tuple[Any, ...]] = []
    for role, curve in result.curves.items():
        for number, point in enumerate(curve.points):
            for score in point["scores"]:
                found = _by_row(score["rows"], score["per_row"], score["entities"], privacy)
                where = (role, number, score["name"], score["rows"])
                lines += [(*where, row, found["entities"].get(row, ""), v) for row, v in found["values"].items()]
    columns = [list(column) for column in zip(*lines, strict=True)] or [[] for _ in CURVE_COLUMNS]
    arrays = [
        pa.array(column, kind)
        for column, kind in zip(columns, map(pa.type_for_alias, CURVE_COLUMNS.values()), strict=True)
    ]
    feather.write_feather(pa.table(arrays, names=list(CURVE_COLUMNS)), path, compression="zstd")


def _curve(result: AttackResult, metric: str, rows: str, basis: Basis | None) -> dict[str, Any]:
    points = [
        _point(number, role, point, score)
        for role, curve in result.curves.items()
        for number, point in enumerate(curve.points)
        if (score := point_score(point, metric, rows))
    ]
    return {
        "schema": 1,
        "attack": result.label,
        "axis": result.axis,
        "threat": result.threat,
        "metric": metric,
        "rows": rows,
        "points": points,
        **summary(result, metric, rows, basis),
        "reason": result.reason,
        "partial": result.partial,
    }


def _point(number: int, role: str, point: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
    """One point as it is stored, with its price; ``this_try`` where the value is the best of several tries."""
    tries = score.get("extra", {})
    return {
        "number": number,
        "budget": point["budget"],
        "role": role,
        **{k: score[k] for k in ("value", "low", "high", "n")},
        "supplied": point["supplied"],
        "bits": bits(point["supplied"]),
        "seconds": point["seconds"],
        "measuring_seconds": point.get("measuring_seconds"),
        **({"this_try": tries["this_try"]} if "this_try" in tries else {}),
    }


def bits(supplied: Mapping[str, float]) -> float | None:
    """Bits that the attacker put in: as the attack counts them itself, else 32 for each parameter that it trained and
    each weight that it took from the original model, which is the most that these can hold. Tokens are not counted
    here, they stand in ``supplied`` by themselves. None where none of this was put in."""
    if "bits" in supplied:
        return float(supplied["bits"])
    weights = [supplied[name] for name in OWN_WEIGHTS if name in supplied]
    return float(WEIGHT_BITS * sum(weights)) if weights else None


# -- what a curve comes to ---------------------------------------------------------------------------------------------
def summary(result: AttackResult, metric: str, rows: str, basis: Basis | None) -> dict[str, Any]:
    """``excess``, ``recovered``, ``rec``, ``area`` and ``area_excess`` of one curve (``runs.results.Curve``)."""
    highest = {"excess": excess(result, metric, rows, basis), "recovered": recovered(result, metric, rows)}
    if basis is None:
        return highest
    return highest | {
        "rec": rec(result, metric, rows, basis.target),
        "area": area(result, metric, rows),
        "area_excess": area_excess(result, metric, rows, basis),
    }


def excess(result: AttackResult, metric: str, rows: str, basis: Basis | None = None) -> dict[str, Any] | None:
    """The point with the largest m(T(U)) - m(T(R)), row by row where the metric is the mean of its rows. The interval
    is that of the point alone: it is not corrected for having chosen the largest."""
    pairs = [(budget, a, b) for number, budget, a, b in _pairs(result, metric, rows) if number]
    if not pairs:
        return None
    budget, a, b = max(pairs, key=lambda pair: pair[1]["value"] - pair[2]["value"])
    plain = {"value": a["value"] - b["value"], "low": None, "high": None, "at": budget}
    if basis is None or not (_is_mean(a) and _is_mean(b)):
        return plain
    options = {"seed": basis.seed, "resamples": basis.resamples}
    found = difference(a["per_row"], b["per_row"], a["entities"], **options)
    return plain if found is None else plain | {"value": found.value, "low": found.low, "high": found.high}


def recovered(result: AttackResult, metric: str, rows: str) -> dict[str, Any] | None:
    """Highest value along the unlearned curve, and where."""
    found = [(score["value"], budget) for number, budget, score in _line(result, "unlearned", metric, rows) if number]
    if not found:
        return None
    value, budget = max(found, key=lambda f: f[0])
    return {"value": value, "at": budget}


def rec(result: AttackResult, metric: str, rows: str, target: Sequence[Score]) -> dict[str, Any] | None:
    """(m(T(U)) - m(U)) / (m(O) - m(U)) where m(T(U)) is highest: the share of what unlearning took that the attack
    brought back. None where the target O is not above U, or was not scored on these rows."""
    top, start = recovered(result, metric, rows), _start(result, "unlearned", metric, rows)
    if top is None or start is None:
        return None
    own = _start(result, "target", metric, rows)
    before = own["value"] if own else _on_rows(target, metric, rows, start)
    if before is None or before <= start["value"]:
        return None
    return {"value": (top["value"] - start["value"]) / (before - start["value"]), "at": top["at"]}


def area(result: AttackResult, metric: str, rows: str) -> float | None:
    """Mean height of the unlearned curve from no attack to the strongest (trapezoid over ``places``)."""
    line = _line(result, "unlearned", metric, rows)
    if len(line) < 2 or line[0][0] != 0:
        return None
    widths = _widths(places([budget for _, budget, _ in line], result.axis))
    return float(widths @ np.array([score["value"] for *_, score in line]))


def area_excess(result: AttackResult, metric: str, rows: str, basis: Basis) -> dict[str, Any] | None:
    """The same of unlearned minus reference, over the points that both have. Interval from the areas of single rows
    (those scored at every point), resampling entities; none where the metric is not the mean of its rows."""
    pairs = _pairs(result, metric, rows)
    if len(pairs) < 2 or pairs[0][0] != 0:
        return None
    widths = _widths(places([budget for _, budget, *_ in pairs], result.axis))
    sides = [[pair[side] for pair in pairs] for side in (2, 3)]
    gaps = np.array([a["value"] - b["value"] for a, b in zip(*sides, strict=True)])
    plain = {"value": float(widths @ gaps), "low": None, "high": None}
    if not all(map(_is_mean, sum(sides, []))):
        return plain
    entities = sides[0][0]["entities"]
    names = list(sides[0][0]["per_row"])
    mine, theirs = (_by_row_area(scores, names, widths) for scores in sides)
    groups = [entities.get(row) or row for row in names]
    found = bootstrap_difference(mine, theirs, groups, seed=basis.seed, resamples=basis.resamples)
    return plain if found is None else {"value": found.value, "low": found.low, "high": found.high}


def places(budgets: Sequence[Mapping[str, float]], axis: str) -> list[float]:
    """Where points lie between 0 (no attack) and 1: to scale where their number on the axis rises from point to point,
    else evenly in the order they were run (bits fall; several quantisers have the same number of bits)."""
    values = [budget.get(axis, math.nan) for budget in budgets]
    if not all(a < b for a, b in zip(values, values[1:], strict=False)):  # a NaN is below nothing
        values = [float(i) for i in range(len(budgets))]
    return [(v - values[0]) / (values[-1] - values[0]) for v in values]


def _widths(at: Sequence[float]) -> np.ndarray:
    """What each value counts in the trapezoid over ``at``; they sum to 1."""
    steps = np.diff(np.asarray(at, dtype=float)) / 2
    return np.append(steps, 0.0) + np.append(0.0, steps)


def _by_row_area(scores: Sequence[Mapping[str, Any]], names: Sequence[str], widths: np.ndarray) -> np.ndarray:
    """Float[rows]: area under the values of each row; NaN for a row without a value at some point."""
    values = [[_number(score["per_row"].get(name)) for score in scores] for name in names]
    return np.array(values, dtype=float) @ widths


def _line(result: AttackResult, role: str, metric: str, rows: str) -> list[tuple[int, Mapping[str, float], Any]]:
    """(place along the curve, budget, score) of one role. Where the attacker gave the answer, repeating it is copying:
    those points are left out."""
    curve = result.curves.get(role)
    return [
        (number, point["budget"], score)
        for number, point in enumerate(curve.points if curve else ())
        if not point["supplied"].get("contains_answer") and (score := point_score(point, metric, rows))
    ]


def _pairs(result: AttackResult, metric: str, rows: str) -> list[tuple[int, Mapping[str, float], Any, Any]]:
    """(place, budget, score of the unlearned model, score of the reference) where both were scored."""
    theirs = {number: score for number, _, score in _line(result, "reference", metric, rows)}
    mine = _line(result, "unlearned", metric, rows)
    return [(number, budget, score, theirs[number]) for number, budget, score in mine if number in theirs]


def _start(result: AttackResult, role: str, metric: str, rows: str) -> dict[str, Any] | None:
    """The score of one role without an attack."""
    curve = result.curves.get(role)
    return point_score(curve.points[0], metric, rows) if curve and curve.points else None


def _on_rows(target: Sequence[Score], metric: str, rows: str, like: Mapping[str, Any]) -> float | None:
    """Mean of the target over the rows that ``like`` was scored on (an attack may ask only some); None where it has no
    value for one of them, or the metric is no mean of rows."""
    found = next((s for s in target if (s.name, s.rows) == (metric, rows)), None)
    scored = [row for row, value in like["per_row"].items() if math.isfinite(_number(value))]
    if found is None or not _is_mean(like):
        return None
    values = [_number(found.per_row.get(row)) for row in scored]
    return float(np.mean(values)) if np.isfinite(values).all() else None


def _is_mean(score: Mapping[str, Any]) -> bool:
    """Whether a score is the mean of its values per row."""
    values = [v for v in map(_number, score["per_row"].values()) if math.isfinite(v)]
    return bool(values) and math.isclose(float(np.mean(values)), score["value"], rel_tol=1e-6, abs_tol=1e-9)


def _number(value: Any) -> float:
    """A stored value; NaN for null (infinities of a cached curve are strings)."""
    return math.nan if value is None else float(value)


def write_tables(folder: Path, store: Store, *, privacy: Privacy | None) -> None:
    """``tables/``: what the scores were computed from, so that ``verify`` can compute them again, concealed by
    ``privacy``. The index names the columns whose text is gone: metrics that read them are then not recomputable."""
    import pyarrow.feather as feather

    place = folder / "tables"
    place.mkdir(exist_ok=True)
    index = []
    for k, ((role, rows, prompt, name), table) in enumerate(sorted(store.tables(), key=lambda item: item[0])):
        table, gone = conceal_table(table, rows, privacy) if privacy else (table, [])
        feather.write_feather(table, place / f"{k:03d}.arrow", compression="zstd")
        place_of = {"file": f"{k:03d}.arrow", "role": role, "rows": rows, "prompt": prompt, "name": name}
        index.append(place_of | ({"concealed": gone} if gone else {}))
    write_json(place / "index.json", {"schema": 1, "text": privacy is None, "tables": index})


def write_samples(
    folder: Path, store: Store, scores: Mapping[str, Sequence[Score]], data: Bundle, *, privacy: Privacy | None
) -> None:
    """``samples/<role>.jsonl``: question, gold and output of every row whose greedy answer is at hand."""
    for role in scores:
        values = {(s.rows, row): {} for s in scores[role] for row in s.per_row}
        for s in scores[role]:
            for row, value in s.per_row.items():
                values[s.rows, row][s.name] = value
        out = []
        for (r, rows, prompt, name), table in store.tables():
            if r != role or name != "greedy":
                continue
            asked = {row.id: getattr(row, prompt, "") for row in data.eval[rows]}
            for line in table.to_pylist():
                out.append(
                    {
                        "row": line["row"],
                        "entity": line["entity"],
                        "set": rows,
                        "prompt": asked[line["row"]],
                        "gold": line["gold"],
                        "output": line["text"],
                        "scores": values.get((rows, line["row"]), {}),
                        "problem": line["problem"],
                    }
                )
        if out:
            write_sample_rows(folder / "samples" / f"{role}.jsonl", out, privacy=privacy)
