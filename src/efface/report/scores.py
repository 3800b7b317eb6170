"""Scores of a run as groups of lines: the forget side, and what was to be kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from efface.report.charts import Plot, Series
from efface.report.glossary import FORMS, MEASURES, title
from efface.report.model import Cell, ScoreGroup, ScoreLine
from efface.report.score_notes import OVER_ROWS, figure, note, resampled
from efface.report.text import SET_NOTES, direction, interval, number, role_title, set_title, signed, visible
from efface.runs.loading import LoadedRun
from efface.runs.paired import paired, row_values
from efface.runs.results import ScoreRow

ORDER = ("target", "unlearned", "reference", "reference_2", "base")
FORGET_SIDE = ("forget", "holdout")
COMPAT = "_compat"
MOST_LAYERS, LARGEST = 200, 1e6  # of a curve by layer


@dataclass(frozen=True)
class NoteLine(ScoreLine):
    """A row without numbers, below the measure it belongs to: ``title`` is the note. ``plot``: its curve by layer."""

    beside: bool = True
    plot: Plot | None = None


def heading(name: str) -> str:
    """Title of a measure, with its form where that is not the corrected one."""
    if not name.endswith(COMPAT):
        return title(name)
    return f"{title(name.removesuffix(COMPAT))} ({FORMS.get(name, 'common harness form')})"


def roles_of(run: LoadedRun) -> tuple[str, ...]:
    """Roles that were scored, in the order before, after, never saw it."""
    found = {row.role for row in run.scores.scores} if run.scores else set()
    return tuple(role for role in ORDER if role in found) + tuple(sorted(found - set(ORDER)))


def groups(run: LoadedRun, roles: tuple[str, ...]) -> tuple[tuple[ScoreGroup, ...], tuple[ScoreGroup, ...]]:
    """Groups of the forget side, and of everything else (there with the change from before to after). A measure is
    explained where it first appears."""
    found = run.scores.scores if run.scores else []
    told: set[str] = set()
    sides: tuple[list[ScoreGroup], list[ScoreGroup]] = ([], [])
    sets = sorted(dict.fromkeys(row.rows for row in found), key=lambda rows: not rows.startswith(FORGET_SIDE))
    for rows in sets:
        forget = rows.startswith(FORGET_SIDE)
        group = _group(run, roles, rows, [row for row in found if row.rows == rows], told)
        sides[0 if forget else 1].append(group)
    return tuple(sides[0]), tuple(sides[1])


def _group(run: LoadedRun, roles: tuple[str, ...], rows: str, found: list[ScoreRow], told: set[str]) -> ScoreGroup:
    lines: list[ScoreLine] = []
    for name in dict.fromkeys(row.name for row in found):
        by_role = {row.role: row for row in found if row.name == name}
        change = None if rows.startswith(FORGET_SIDE) else _change(run, rows, name, by_role)
        gloss = MEASURES.get(name, MEASURES.get(name.removesuffix(COMPAT), ""))
        lines.append(_line(name, by_role, roles, change, "" if name in told else gloss))
        lines += _beside(name, by_role, roles, change)
        told.add(name)
    count = run.scores.sets.get(rows) if run.scores else None
    narrow = OVER_ROWS if any(resampled(row.extra) for row in found) else ""
    about = ", ".join(filter(None, (SET_NOTES.get(rows, ""), f"{count:,} rows" if count else "")))
    return ScoreGroup(set_title(rows), "; ".join(filter(None, (about, narrow))), tuple(lines))


def _line(
    name: str, by_role: dict[str, ScoreRow], roles: tuple[str, ...], change: Cell | None, gloss: str
) -> ScoreLine:
    shown = by_role.get("unlearned") or next(iter(by_role.values()))
    target = shown.target
    if target is None and shown.direction == "match" and "reference" in by_role:
        target = by_role["reference"].value
    picture = tuple(
        (role, row.value, row.low, row.high) for role in roles if (row := by_role.get(role)) and row.value is not None
    )
    return ScoreLine(
        heading(name),
        gloss,
        direction(shown.direction, target),
        tuple(cell(by_role.get(role)) for role in roles),
        picture,
        change,
    )


def _beside(
    name: str, by_role: Mapping[str, ScoreRow], roles: tuple[str, ...], change: Cell | None
) -> Iterator[NoteLine]:
    """The note of the model that was unlearned (of the first role that has one, if it has none), and its layers."""
    order = [by_role[role] for role in ("unlearned", *roles) if role in by_role]
    empty = tuple(Cell() for _ in roles)
    after = None if change is None else Cell()
    if (found := next(((row, text) for row in order if (text := note(row))), None)) is not None:
        row, text = found
        yield NoteLine(f"{role_title(row.role)}: {text}.", "", "", empty, change=after)
    if (plot := layer_plot(name, [by_role[r] for r in roles if r in by_role])) is not None:
        text = next(told for row in order if (told := by_layer(row)))
        yield NoteLine(text, "", "", empty, change=after, plot=plot)


def curve(row: ScoreRow, key: str = "curve") -> dict[int, float]:
    """Value by layer number; empty without two of them. Layers count from 1 where they are not named."""
    values, names = row.extra.get(key), row.extra.get("layers")
    if row.value is None or not isinstance(values, list) or len(values) > MOST_LAYERS:
        return {}
    named = (
        isinstance(names, list)
        and len(names) == len(values)
        and all(type(n) is int and 0 <= n < LARGEST for n in names)
    )
    found = zip(names if named else range(1, len(values) + 1), values, strict=True)
    kept = {layer: round(v, 9) for layer, value in found if (v := _finite(value)) is not None}
    return kept if len(kept) > 1 else {}


def _finite(value: object) -> float | None:
    found = figure({"value": value}, "value")
    return found if found is not None and abs(found) < LARGEST else None


def by_layer(row: ScoreRow) -> str:
    """``After, by layer: 1: 1.000, 2: 0.120.``; empty without a curve."""
    places = ", ".join(f"{layer}: {number(value)}" for layer, value in curve(row).items())
    return f"{role_title(row.role)}, by layer: {places}." if places else ""


def layer_plot(name: str, rows: Sequence[ScoreRow]) -> Plot | None:
    """One line for each role that has a curve, with the ceiling's and the floor where a score has them."""
    found = [(row, values) for row in rows if (values := curve(row))]
    if not found:
        return None
    main = next((row for row, _ in found if row.role == "unlearned"), found[0][0])
    lines = [(row.role, role_title(row.role), values) for row, values in found]
    lines += [("other", "ceiling", top)] if (top := curve(main, "ceiling_curve")) else []
    places = sorted({layer for *_, values in lines for layer in values})
    floor = _finite(main.extra.get("floor"))
    return Plot(
        f"{heading(name)}, by layer",
        f"{heading(name)} at {len(places)} layers of each model; the numbers stand beside it.",
        "layer",
        heading(name),
        tuple((float(layer), str(layer)) for layer in places),
        tuple(
            Series(kind, label, tuple((float(layer), v, None, None) for layer, v in values.items()))
            for kind, label, values in lines
        ),
        None if floor is None else (floor, "floor"),
        height=190,
        width=560,
        labels=110,
        markers=len(places) < 16,
    )


def cell(row: ScoreRow | None) -> Cell:
    """One score as text; never a number where there is none."""
    if row is None:
        return Cell(reason="it was not asked for")
    if row.value is None:
        return Cell(reason=visible(row.reason, 300) or "no reason was recorded")
    note = f"{row.unscored} of {row.n + row.unscored} rows not scored" if row.unscored else ""
    return Cell(number(row.value), interval(row.low, row.high), note)


def _change(run: LoadedRun, rows: str, name: str, by_role: dict[str, ScoreRow]) -> Cell:
    """After minus before, paired by row where the rows are at hand."""
    before, after = by_role.get("target"), by_role.get("unlearned")
    if before is None or after is None or before.value is None or after.value is None:
        return Cell(reason="before or after is missing")
    a, b = (row_values(run, role, rows, name) for role in ("target", "unlearned"))
    found = paired(a, b) if a and b else None
    if found is None:
        return Cell(signed(after.value - before.value), "", "no interval: rows are not kept")
    note = "over rows, few entities" if found.unit == "rows" else ""
    return Cell(signed(found.value), interval(found.low, found.high, sign=True), note)


def not_computed(run: LoadedRun) -> list[str]:
    """One sentence for each measure of the unlearned model that was not computed."""
    found: Iterable[ScoreRow] = run.scores.scores if run.scores else ()
    return [
        f"{heading(row.name)} on {set_title(row.rows).lower()}: not computed, because "
        f"{visible(row.reason, 300) or 'no reason was recorded'}."
        for row in found
        if row.role == "unlearned" and row.value is None
    ]
