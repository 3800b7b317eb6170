"""A record read back into what the audit had: tables as a store, scores with their rows, attacks with their curves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from efface import suites
from efface.audit.attacks import AttackResult, Curve
from efface.audit.export import CURVE_COLUMNS, CURVE_ROWS
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Row
from efface.errors import RecordError
from efface.metrics.base import Score
from efface.runs import schema
from efface.runs.files import read_json
from efface.runs.results import Curve as StoredCurve
from efface.runs.results import RowValues, ScoreRow
from efface.settings import parse
from efface.suites import AttackEntry, Suite


class Unreadable(Exception):
    """A file of the record cannot be read; ``finding`` names it."""

    def __init__(self, file: str, why: object) -> None:
        self.finding = {"file": file, "what": f"cannot be read: {str(why).splitlines()[0] if str(why) else type(why)}"}
        super().__init__(self.finding["what"])


class TableEntry(schema.Stored):
    """One table: where it lies and what it is of. ``concealed``: columns whose text was emptied or marked."""

    file: str = Field(pattern=r"^[0-9]+\.arrow$")
    role: str
    rows: str
    prompt: str
    name: str
    concealed: list[str] = []


class TableIndex(schema.File):
    """``tables/index.json``. ``text``: whether texts were kept."""

    text: bool
    tables: list[TableEntry]


def read(model: Any, folder: Path, name: str) -> Any:
    """The file ``name`` of a run as ``model``; ``Unreadable`` if it is not one."""
    try:
        return schema.read(model, folder / name)
    except RecordError as error:
        raise Unreadable(name, error.cause) from None


def suite_of(folder: Path, name: str) -> Suite:
    """The suite as the run saw it; a file of the user's need not be there any more."""
    path = folder / "suite.json"
    return parse(Suite, read_json(path), "suite.json") if path.is_file() else suites.load(name)


def store_of(folder: Path, index: TableIndex, roles: Iterable[str]) -> Store:
    """A store whose tables are all at hand and that can compute nothing else. ``roles``: those of the record; one of
    which only other models' tables tell has none of its own."""
    tables = {
        (t.role, t.rows, t.prompt, t.name): _table(folder / "tables" / t.file, f"tables/{t.file}") for t in index.tables
    }
    sets: dict[str, list[Row]] = {}
    for (_, rows, _, name), table in tables.items():
        if rows and "row" in table.schema.names and (name == "answer" or rows not in sets):
            wrong = len({key[3] for key in tables if key[1] == rows and key[3].startswith("wrong:")})
            ids = dict.fromkeys(table["row"].to_pylist())  # some passes have several lines per row
            sets[rows] = [Row(id=r, answer="", wrong=("",) * wrong) for r in ids]
    names = dict.fromkeys([*roles, *(key[0] for key in tables)])
    store = Store({role: Role(_nothing) for role in names}, sets, PassSettings())
    store.load_tables(tables)
    return store


def _nothing() -> Any:
    raise RuntimeError("verification computes nothing with a model")


def _table(path: Path, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.feather as feather

    try:
        return feather.read_table(path, memory_map=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Unreadable(name, error) from None


# -- scores ------------------------------------------------------------------------------------------------------------
def score_of(stored: ScoreRow, by_row: Mapping[tuple[str, str, str], Any]) -> Score:
    """A stored score with its rows."""
    rows = by_row.get((stored.role, stored.name, stored.rows))
    values = {row: math.nan if v is None else v for row, v in rows.values.items()} if rows else {}
    plain = stored.model_dump(exclude={"role"})
    return Score(**plain, per_row=values, entities=dict(rows.entities) if rows else {})


def rows_of(folder: Path) -> dict[tuple[str, str, str], Any]:
    """{(role, metric, set): its values and entities by row id}."""
    if not (folder / "rows.json").is_file():
        return {}
    return {(r.role, r.name, r.rows): r for r in read(RowValues, folder, "rows.json").rows}


# -- attacks -----------------------------------------------------------------------------------------------------------
def curves_of(folder: Path, label: str) -> list[StoredCurve]:
    """Every stored curve of one attack, the headline first."""
    place = folder / "attacks" / label
    paths = sorted(place.glob("curve*.json"), key=lambda p: (p.name != "curve.json", p.name))
    return [read(StoredCurve, folder, f"attacks/{label}/{path.name}") for path in paths]


def result_of(folder: Path, entry: AttackEntry, stored: list[StoredCurve]) -> AttackResult | None:
    """One attack as the audit had it. None where its values per row are not there (records of older versions)."""
    label, head = entry.label or entry.name, stored[0]
    result = AttackResult(label, entry.name, head.threat, head.axis, reason=head.reason, partial=head.partial)
    if not any(curve.points for curve in stored):
        return result
    name = f"attacks/{label}/{CURVE_ROWS}"
    if not (folder / name).is_file() or any(p.number is None for c in stored for p in c.points):
        return None
    by_row = _curve_rows(folder / name, name)
    for curve in stored:
        for point in curve.points:
            points = result.curves.setdefault(point.role, Curve(point.role, head.axis)).points
            while len(points) <= point.number:  # type: ignore[operator]  # looked at above
                points.append({"budget": {}, "supplied": {}, "seconds": 0.0, "scores": []})
            here = points[point.number]  # type: ignore[index]
            here["budget"], here["supplied"] = dict(point.budget), dict(point.supplied)
            values = by_row.get((point.role, point.number, curve.metric, curve.rows), {"per_row": {}, "entities": {}})
            own = point.model_dump(include={"value", "low", "high", "n"})
            here["scores"].append({"name": curve.metric, "rows": curve.rows, **own, **values})
    return result


def _curve_rows(path: Path, name: str) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """{(role, point, metric, set): {per_row, entities}}."""
    table = _table(path, name)
    if table.schema.names != list(CURVE_COLUMNS):
        raise Unreadable(name, f"it has the columns {', '.join(table.schema.names)}")
    found: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(lambda: {"per_row": {}, "entities": {}})
    for *where, row, entity, value in zip(*(column.to_pylist() for column in table.columns), strict=True):
        here = found[tuple(where)]
        here["per_row"][row], here["entities"][row] = math.nan if value is None else value, entity
    return found
