"""The table of ``bench metrics``: does a metric tell models that know from models that never knew; what fools it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from efface.audit.findings import MARGIN, MARGINS
from efface.metrics.base import METRICS
from efface.metrics.stats import Difference, auc, bootstrap_difference, percentile
from efface.testing.ladder import KNOWS, RUNGS

CLEAN = ("R2", "R3")
LINEAGE = 0.9  # an AUC this high for a model that holds nothing reads descent, not knowledge
PLAIN = tuple(rung for rung in RUNGS if rung not in CLEAN)


def separation(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``cells``: one per (seed, rung), as ``ladder.metrics`` stores them.

    Per metric and evaluation set: AUC "knows" (O and the planted rungs against R2 and R3) with an interval over seeds,
    AUC of each rung alone, the same after rounding and relearning, whether the direction is as declared, and how often
    R2 and R3 are flagged against R1.
    """
    values = {(c["seed"], c["rung"]): dict(_values(c)) for c in cells}
    seeds = sorted({c["seed"] for c in cells})
    names = sorted({name for found in values.values() for name in found})
    rows = []
    for name in names:
        at = {key: found.get(name) for key, found in values.items()}
        row: dict[str, Any] = {"metric": name[0], "rows": name[1]}
        row["auc"], row["low"], row["high"] = _with_interval(at, seeds, KNOWS, CLEAN)
        row["by_rung"] = {r: _auc(at, seeds, (r,), CLEAN) for r in PLAIN}
        row["rounded"] = _auc(at, seeds, ("O@4bit",), ("R2@4bit",))
        row["relearned"] = _auc(at, seeds, ("O@relearned",), ("R2@relearned",))
        row["direction"] = _direction(at, seeds)
        row["flagged"] = _flagged(cells, name, at)
        row["means"] = {r: _mean(at, seeds, r) for r in ("O", *CLEAN, *PLAIN[1:])}
        rows.append(row)
    return {"schema": 1, "seeds": seeds, "rungs": sorted({c["rung"] for c in cells}), "rows": rows}


def _values(cell: dict[str, Any]) -> Iterator[tuple[tuple[str, str], float]]:
    """((metric, rows), value turned so that larger means more knowledge)."""
    targets = {(s["name"], s["rows"]): s["value"] for s in cell["reference"]}
    for s in cell["scores"]:
        key = s["name"], s["rows"]
        if s["value"] is not None and (turned := _turned(s, targets.get(key))) is not None:
            yield key, turned


def _turned(score: dict[str, Any], target: float | None) -> float | None:
    if METRICS.get(score["name"]).orientation == "knowledge":
        return score["value"]
    if score["direction"] == "match":
        return None if target is None else abs(score["value"] - target)
    return -score["value"] if score["direction"] == "higher" else score["value"]


def _pick(at: dict[Any, float | None], seeds: Sequence[int], rungs: Sequence[str]) -> list[float]:
    found = [at.get((seed, rung)) for seed in seeds for rung in rungs]
    return [v for v in found if v is not None and np.isfinite(v)]


def _auc(
    at: dict[Any, float | None], seeds: Sequence[int], knowing: Sequence[str], clean: Sequence[str]
) -> float | None:
    a, b = _pick(at, seeds, knowing), _pick(at, seeds, clean)
    return float(auc(np.array(a), np.array(b))) if a and b else None


def _with_interval(
    at: dict[Any, float | None], seeds: Sequence[int], knowing: Sequence[str], clean: Sequence[str], draws: int = 500
) -> tuple[float | None, float | None, float | None]:
    """AUC and its 95% bootstrap interval over seeds."""
    value = _auc(at, seeds, knowing, clean)
    if value is None or len(seeds) < 2:
        return value, None, None
    rng = np.random.default_rng(0)
    drawn = [_auc(at, list(rng.choice(seeds, len(seeds))), knowing, clean) for _ in range(draws)]
    low, high = percentile(np.array([d for d in drawn if d is not None], dtype=float), len(seeds))
    return value, low, high


def _mean(at: dict[Any, float | None], seeds: Sequence[int], rung: str) -> float | None:
    found = _pick(at, seeds, (rung,))
    return float(np.mean(found)) if found else None


def _direction(at: dict[Any, float | None], seeds: Sequence[int]) -> bool | None:
    """Whether O lies on the knowing side of the models that never knew, in every seed."""
    pairs = [(at.get((s, "O")), _pick(at, [s], CLEAN)) for s in seeds]
    told = [o > max(r) for o, r in pairs if o is not None and r]
    return all(told) if told else None


def _flagged(cells: Sequence[dict[str, Any]], name: tuple[str, str], at: dict[Any, float | None]) -> dict[str, int]:
    """How often a model that never knew shows significantly more than R1 (95% interval over entities); ``beyond``: and
    by more than the share of the distance from O to R1 that the conclusion lets pass; ``second``: and more than the
    third model that never knew, too (a second reference)."""
    clean = {(c["seed"], c["rung"]): c for c in cells if c["rung"] in CLEAN}
    flags = beyond = second = tested = 0
    for (seed, rung), cell in clean.items():
        mine, theirs = (_per_row(cell[side], name) for side in ("scores", "reference"))
        sign = _sign(mine) if mine else 0
        found, o = _above(mine, theirs, sign), at.get((seed, "O"))
        if not sign or found is None or theirs is None or o is None:
            continue
        tested += 1
        if found.low <= 0:  # type: ignore[operator]
            continue
        flags += 1
        gap = o - sign * theirs["value"]
        beyond += gap > 0 and found.value > MARGINS.get(name[0], MARGIN) * gap
        third = clean.get((seed, next(other for other in CLEAN if other != rung)))
        again = _above(mine, _per_row(third["scores"], name), sign) if third else None
        second += again is not None and again.low > 0  # type: ignore[operator]
    return {"flags": flags, "beyond": int(beyond), "second": int(second), "tested": tested}


def _sign(score: dict[str, Any]) -> int:
    """1 where larger values mean more knowledge, -1 where smaller ones do, 0 where neither does (only a distance)."""
    if METRICS.get(score["name"]).orientation == "knowledge" or score["direction"] == "lower":
        return 1
    return -1 if score["direction"] == "higher" else 0


def _above(mine: dict[str, Any] | None, theirs: dict[str, Any] | None, sign: int) -> Difference | None:
    """How much more knowledge, over the rows both have; None without an interval."""
    if not mine or not theirs:
        return None
    rows = [r for r in mine["per_row"] if r in theirs["per_row"]]
    a, b = (sign * np.array([side["per_row"][r] for r in rows], dtype=float) for side in (mine, theirs))
    found = bootstrap_difference(a, b, [mine["entities"][r] for r in rows])
    return found if found is not None and found.low is not None else None


def _per_row(scores: Sequence[dict[str, Any]], name: tuple[str, str]) -> dict[str, Any] | None:
    return next((s for s in scores if (s["name"], s["rows"]) == name and s["per_row"]), None)


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown, best separation first."""
    head = ["metric", "rows", "AUC knows", "rounded", "relearned", "R flagged", *PLAIN]
    lines = [
        f"# Metrics on the planted ladder, seeds {', '.join(map(str, table['seeds']))}",
        "",
        "AUC of telling a model that knows from R2 and R3, which never did (1: always; .5: never; below .5: it points "
        "the wrong way). A column per rung: the same for that rung alone; a low one is a metric that this rung fools. "
        "Collapse and B hold no knowledge; a number far from .5 there shows what else the metric reacts to. `lineage`: "
        "the metric says of Collapse, which descends from O and holds no knowledge, that it knows: it tells whose "
        "descendant a model is, and R1 to R3 are nobody's. `rounded` "
        "and `relearned`: O against R2 after 4-bit rounding and after eight steps on retain rows. `R flagged`: how "
        "often R2 or R3 shows significantly more than R1 (nominal 2.5%: an interval over entities knows nothing of the "
        "noise of the seed), in brackets how often by more than the margin that the conclusion asks for, and how often "
        "more than a second reference, too.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in sorted(table["rows"], key=lambda r: -(r["auc"] if r["auc"] is not None else -1)):
        interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
        told = "{flags}/{tested} ({beyond}, {second})".format(**row["flagged"]) if row["flagged"]["tested"] else "-"
        mark = "" if row["direction"] is not False else " (direction fails)"
        mark += " (lineage)" if (row["by_rung"]["Collapse"] or 0) >= LINEAGE else ""
        cells = [
            row["metric"],
            row["rows"],
            _n(row["auc"]) + interval + mark,
            _n(row["rounded"]),
            _n(row["relearned"]),
            told,
        ]
        lines.append("| " + " | ".join([*cells, *(_n(row["by_rung"][r]) for r in PLAIN)]) + " |")
    return "\n".join([*lines, ""])


def _n(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
