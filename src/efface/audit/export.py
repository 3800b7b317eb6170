"""Writing what an audit found into the run directory: scores, curves, tables, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efface.audit.attacks import AttackResult
from efface.audit.concealed import conceal_table
from efface.audit.findings import point_score
from efface.audit.roles import Role
from efface.audit.store import Store
from efface.data.rows import Bundle
from efface.metrics.base import Score
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


def write_attacks(folder: Path, suite: Suite, results: Sequence[AttackResult], privacy: Privacy | None) -> None:
    """``attacks/<label>/curve.json`` for the headline metric, ``curve-<metric>.<set>.json`` for every other one, and
    ``rows.arrow`` with the values per row behind all of them, from which ``verify`` works out the findings again.
    Why an attack was not run may quote a row, and is concealed by ``privacy``."""
    for result in results:
        place = folder / "attacks" / result.label
        place.mkdir(parents=True, exist_ok=True)
        sets = sorted(
            {s["rows"] for curve in result.curves.values() for point in curve.points for s in point["scores"]}
        ) or ["forget"]
        for metric in suite.attack_metrics:
            for rows in sets:
                head = metric == suite.attack_metrics[0] and rows == "forget"
                curve = _curve(result, metric, rows)
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


def _curve(result: AttackResult, metric: str, rows: str) -> dict[str, Any]:
    points = []
    for role, curve in result.curves.items():
        for number, point in enumerate(curve.points):
            if score := point_score(point, metric, rows):
                points.append(
                    {
                        "number": number,
                        "budget": point["budget"],
                        "role": role,
                        **{k: score[k] for k in ("value", "low", "high", "n")},
                        "supplied": point["supplied"],
                        "seconds": point["seconds"],
                    }
                )
    return {
        "schema": 1,
        "attack": result.label,
        "axis": result.axis,
        "threat": result.threat,
        "metric": metric,
        "rows": rows,
        "points": points,
        "excess": excess(result, metric, rows),
        "recovered": recovered(result, metric, rows),
        "reason": result.reason,
        "partial": result.partial,
    }


def excess(result: AttackResult, metric: str, rows: str) -> dict[str, Any] | None:
    """The point with the largest m(T(U)) - m(T(R)); both means are in the curve, the interval in the conclusion."""
    u, r = result.curves.get("unlearned"), result.curves.get("reference")
    if not u or not r:
        return None
    gaps = [
        (a["value"] - b["value"], p["budget"])
        for p, q in zip(u.points[1:], r.points[1:], strict=False)
        if not p["supplied"].get("contains_answer")  # the attacker gave the answer: repeating it is copying
        and (a := point_score(p, metric, rows))
        and (b := point_score(q, metric, rows))
    ]
    if not gaps:
        return None
    value, budget = max(gaps, key=lambda g: g[0])
    return {"value": value, "low": None, "high": None, "at": budget}


def recovered(result: AttackResult, metric: str, rows: str) -> dict[str, Any] | None:
    """Highest value along the unlearned curve, and where."""
    curve = result.curves.get("unlearned")
    found = [
        (s["value"], p["budget"])
        for p in (curve.points[1:] if curve else ())
        if not p["supplied"].get("contains_answer") and (s := point_score(p, metric, rows))
    ]
    if not found:
        return None
    value, budget = max(found, key=lambda f: f[0])
    return {"value": value, "at": budget}


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
