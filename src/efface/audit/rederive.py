"""``verify``: hashes first, then every score once more from the tables in the run directory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from efface import suites
from efface.audit.measure import measure, pairs
from efface.audit.store import PassSettings, Role, Store
from efface.data.rows import Row
from efface.metrics.base import Need
from efface.runs import manifest
from efface.runs.files import read_json
from efface.runs.record import load_run
from efface.settings import parse
from efface.spec import load, parse_spec
from efface.suites import Suite

TOLERANCE = 1e-9


def verify_run(folder: Path) -> dict[str, Any]:
    """{files, findings: [{file, what}], rederived, not_rederived}."""
    found = [{"file": f.file, "what": f.what} for f in manifest.verify(folder)]
    counts = {"rederived": 0, "not_rederived": 0}
    if not found:
        load_run(folder)
        found += _scores(folder, counts)
    return {"run": str(folder), "files": manifest.count(folder), "findings": found, **counts}


def _scores(folder: Path, counts: dict[str, int]) -> list[dict[str, str]]:
    spec = parse_spec(load(folder / "spec.yaml"))
    index = json.loads((folder / "tables" / "index.json").read_text())
    stored = {(s["role"], s["name"], s["rows"]): s for s in json.loads((folder / "scores.json").read_text())["scores"]}
    suite, store, out = _suite(folder, spec.audit.suite), _store(folder, index), []
    lost = _lost(suite, index)
    for role in store.roles:
        for score in measure(store, suite, role, seed=spec.seed, resamples=spec.audit.resamples):
            old = stored.get((role, score.name, score.rows))
            if old is None or old["value"] is None or score.value is None or (score.name, score.rows) in lost:
                counts["not_rederived"] += old is not None and old["value"] is not None
                continue
            counts["rederived"] += 1
            if not math.isclose(old["value"], score.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                out.append(
                    {
                        "file": "scores.json",
                        "what": f"{score.name} on {score.rows} ({role}) says {old['value']:.6g}, "
                        f"the tables give {score.value:.6g}",
                    }
                )
    return out


def _lost(suite: Suite, index: dict[str, Any]) -> set[tuple[str, str]]:
    """(metric, set) of the scores that were computed from text which the record conceals."""
    gone = {(t["rows"], t["prompt"], t["name"]) for t in index["tables"] if t.get("concealed")}
    other = {(rows, kind) for rows, kind, _ in gone}  # passes of the registry stand under their kind

    def reads_text(need: Need) -> bool:
        return (
            (need.rows, need.prompt, "greedy") in gone if need.kind == "generate" else (need.rows, need.kind) in other
        )

    zlib = not index["text"]  # the compressed size of the answer needs the answer
    return {
        (metric.name, rows)
        for metric, rows in pairs(suite)
        if any(map(reads_text, metric.bound_needs(rows))) or (zlib and metric.name.startswith("mia_zlib"))
    }


def _suite(folder: Path, name: str) -> Suite:
    """The suite as the run saw it; a file of the user's need not be there any more."""
    path = folder / "suite.json"
    return parse(Suite, read_json(path), "suite.json") if path.is_file() else suites.load(name)


def _store(folder: Path, index: dict[str, Any]) -> Store:
    """A store whose tables are all at hand and that can compute nothing else."""
    import pyarrow.feather as feather

    tables = {
        (t["role"], t["rows"], t["prompt"], t["name"]): feather.read_table(folder / "tables" / Path(t["file"]).name)
        for t in index["tables"]
    }
    sets: dict[str, list[Row]] = {}
    for (_, rows, _, name), table in tables.items():
        if rows and "row" in table.schema.names and (name == "answer" or rows not in sets):
            wrong = len({key[3] for key in tables if key[1] == rows and key[3].startswith("wrong:")})
            ids = dict.fromkeys(table["row"].to_pylist())  # some passes have several lines per row
            sets[rows] = [Row(id=r, answer="", wrong=("",) * wrong) for r in ids]
    store = Store({role: Role(_nothing) for role in dict.fromkeys(key[0] for key in tables)}, sets, PassSettings())
    store.load_tables(tables)
    return store


def _nothing() -> Any:
    raise RuntimeError("verification computes nothing with a model")
