"""A comparison of runs as text, Markdown, HTML or JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from efface.errors import SpecError, nearest
from efface.report import html, markdown
from efface.report.glossary import title
from efface.report.text import budget, direction, interval, number, set_title, signed, visible, words
from efface.runs.compare import Cell, Comparison, Head, Line
from efface.runs.files import dumps
from efface.runs.paired import Difference

Table = tuple[str, list[str], list[list[str]]]


def render(comparison: Comparison, format: str) -> str:
    """``comparison`` as "text", "md", "html" or "json"."""
    formats: dict[str, Callable[[Comparison], str]] = {
        "text": as_text,
        "md": as_markdown,
        "html": as_html,
        "json": lambda c: dumps(c.to_json(), indent=1),
    }
    if format not in formats:
        raise SpecError("report.unknown-format", f"There is no format {format!r}.", nearest(format, formats))
    return formats[format](comparison)


def tables(comparison: Comparison) -> list[Table]:
    """(heading, head, rows) of every table: the runs, then one for each evaluation set, then the attacks."""
    names = [f"({k})" for k in range(1, len(comparison.runs) + 1)]
    heads = ["Run", "", "Method", "Model", "Suite", "Seed", "Conclusion"]
    found: list[Table] = [("Runs", heads, [_head(n, run) for n, run in zip(names, comparison.runs, strict=True)])]
    for rows in dict.fromkeys(line.rows for line in comparison.scores):
        lines = [_line(line, names) for line in comparison.scores if line.rows == rows]
        found.append((set_title(rows), ["Measure", *names, "Difference to (1)"], lines))
    if comparison.attacks:
        lines = [_line(line, names) for line in comparison.attacks]
        found.append(("Attacks: excess over the reference under the same attack", ["Attack", *names, ""], lines))
    return found


def _head(name: str, run: Head) -> list[str]:
    suite = f"{visible(run.suite, 60)} v{run.suite_version}"
    return [
        name,
        visible(run.name, 120) + ("" if run.complete else " (not complete)"),
        visible(run.method, 60),
        visible(run.model, 80),
        suite,
        visible(run.seed, 20),
        run.conclusion or "none",
    ]


def _line(line: Line, names: Sequence[str]) -> list[str]:
    shown = f"{words(line.attack)}, {title(line.name).lower()}" if line.attack else title(line.name)
    way = direction(line.direction, None).split(" (")[0]
    found = [(n, d) for n, d in zip(names, line.differences, strict=True) if d is not None]
    last = "; ".join(f"{n} {_difference(d)}" for n, d in found)
    problem = f"not comparable, because {visible(line.problem, 300)}" if line.problem else ""
    return [f"{shown} – {way}", *map(_cell, line.cells), problem or last]


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return f"not computed, because {visible(cell.reason, 200)}"
    spread = interval(cell.low, cell.high)
    text = number(cell.value) + (f" [{spread}]" if spread else "")
    text += f", reference {number(cell.target)}" if cell.target is not None else ""
    text += f", at {budget(cell.at)}" if cell.at else ""
    if cell.area is None:
        return text
    over = interval(*cell.area[1:], sign=True)
    return f"{text}; over the curve {signed(cell.area[0])}" + (f" [{over}]" if over else "")


def _difference(found: Difference) -> str:
    return f"{signed(found.value)} [{interval(found.low, found.high, sign=True)}] over {found.n} rows"


def as_text(comparison: Comparison) -> str:
    """For a terminal."""
    parts = []
    for heading, head, rows in tables(comparison):
        widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows]]
        parts.append("\n".join([heading, "-" * len(heading), *lines]))
    return "\n\n".join([*parts, *(visible(note, 400) for note in comparison.notes)])


def as_markdown(comparison: Comparison) -> str:
    """For a document."""
    lines = ["# Comparison of runs", ""]
    for note in comparison.notes:
        lines += [f"> {markdown.escape(visible(note, 400))}", ""]
    for heading, head, rows in tables(comparison):
        lines += [f"## {heading}", "", *markdown.table(head, rows)]
    return "\n".join(lines).rstrip() + "\n"


def as_html(comparison: Comparison) -> str:
    """A page like the report's."""
    return html.page(
        "compare.html.j2",
        tables=tables(comparison),
        notes=[visible(n, 400) for n in comparison.notes],
        raw=html.embed(comparison.to_json()),
    )
