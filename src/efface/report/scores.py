"""Scores of a run as groups of lines: the forget side, and what was to be kept."""

from __future__ import annotations

from collections.abc import Iterable

from efface.report.glossary import MEASURES, title
from efface.report.model import Cell, ScoreGroup, ScoreLine
from efface.report.text import SET_NOTES, direction, interval, number, set_title, signed, visible
from efface.runs.loading import LoadedRun
from efface.runs.paired import paired, row_values
from efface.runs.results import ScoreRow

ORDER = ("target", "unlearned", "reference", "reference_2", "base")
FORGET_SIDE = ("forget", "holdout")


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
    lines = []
    for name in dict.fromkeys(row.name for row in found):
        by_role = {row.role: row for row in found if row.name == name}
        change = None if rows.startswith(FORGET_SIDE) else _change(run, rows, name, by_role)
        lines.append(_line(name, by_role, roles, change, "" if name in told else MEASURES.get(name, "")))
        told.add(name)
    count = run.scores.sets.get(rows) if run.scores else None
    note = ", ".join(filter(None, (SET_NOTES.get(rows, ""), f"{count:,} rows" if count else "")))
    return ScoreGroup(set_title(rows), note, tuple(lines))


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
        title(name),
        gloss,
        direction(shown.direction, target),
        tuple(cell(by_role.get(role)) for role in roles),
        picture,
        change,
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
        f"{title(row.name)} on {set_title(row.rows).lower()}: not computed, because "
        f"{visible(row.reason, 300) or 'no reason was recorded'}."
        for row in found
        if row.role == "unlearned" and row.value is None
    ]
