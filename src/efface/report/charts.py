"""Charts as inline SVG. Colour never carries meaning alone: dash, marker and a label say the same. No script, no link.

All text and numbers are escaped or formatted here; the result is safe to place in a page as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from efface.report.axes import scale, span
from efface.report.text import number, visible

LEFT, TOP, BOTTOM = 46, 14, 44
GAP = 15  # between end labels, in pixels
MARKS = {"target": "triangle", "reference": "square", "retain": "square"}


@dataclass(frozen=True)
class Series:
    """One line. ``kind`` chooses colour, dash and marker (target, unlearned, reference, forget, retain). ``points``:
    (place on the x axis, value, low, high); a None value leaves a gap."""

    kind: str
    title: str
    points: tuple[tuple[float, float | None, float | None, float | None], ...]


@dataclass(frozen=True)
class Plot:
    """A chart. ``ticks``: (place, label) on the x axis. ``about``: what a person who cannot see it is told.
    ``level``: a dotted line across at a value, with its label."""

    title: str
    about: str
    x: str
    y: str
    ticks: tuple[tuple[float, str], ...]
    series: tuple[Series, ...]
    level: tuple[float, str] | None = None
    height: int = 280
    width: int = 720
    labels: int = 136
    markers: bool = True


class _Frame:
    """Places on the paper."""

    def __init__(self, plot: Plot) -> None:
        values = [v for s in plot.series for _, *rest in s.points for v in rest if v is not None]
        values += [plot.level[0]] if plot.level else []
        self.marks = scale(*span(values))
        self.low, self.high = self.marks[0], self.marks[-1]
        places = [x for x, _ in plot.ticks] or [0.0]
        self.first, self.last = min(places), max(places)
        self.right, self.bottom = plot.width - plot.labels, plot.height - BOTTOM

    def x(self, value: float) -> float:
        share = (value - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return round(LEFT + 10 + share * (self.right - LEFT - 20), 1)

    def y(self, value: float) -> float:
        share = (self.high - min(max(value, self.low), self.high)) / (self.high - self.low)
        return round(TOP + share * (self.bottom - TOP), 1)


def chart(plot: Plot, ident: str) -> str:
    """``plot`` as one ``<svg>``; ``ident`` must be unique on the page."""
    frame = _Frame(plot)
    body = [*_axes(plot, frame), *_level(plot, frame)]
    for series in plot.series:
        body += _band(series, frame)
    for series in plot.series:
        body += _line(series, frame, plot.markers)
    body += _end_labels(plot, frame)
    box = f"0 0 {plot.width} {plot.height}"
    return (
        f'<svg class="chart" viewBox="{box}" role="img" aria-labelledby="{ident}-t {ident}-d">'
        f'<title id="{ident}-t">{_text(plot.title)}</title><desc id="{ident}-d">{_text(plot.about)}</desc>'
        + "".join(body)
        + "</svg>"
    )


def _text(text: str) -> str:
    return escape(visible(text, 400))


def _axes(plot: Plot, frame: _Frame) -> Iterator[str]:
    for value in frame.marks:
        y = frame.y(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{frame.right}" y1="{y}" y2="{y}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(_short(value))}</text>'
    free = -1e9  # right end of the last label: one that would run into it is left out, its tick stays
    for place, label in plot.ticks:
        x, half = frame.x(place), 3.8 * len(label) + 2
        yield f'<line class="axis" x1="{x}" x2="{x}" y1="{frame.bottom}" y2="{frame.bottom + 5}"/>'
        if x - half >= free:
            free = x + half
            yield f'<text class="tick" x="{x}" y="{frame.bottom + 19}" text-anchor="middle">{_text(label)}</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{frame.right}" y1="{frame.bottom}" y2="{frame.bottom}"/>'
    middle = (LEFT + frame.right) / 2
    yield f'<text class="name" x="{middle}" y="{plot.height - 6}" text-anchor="middle">{_text(plot.x)}</text>'


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-", "−") if abs(value) < 100 else number(value)


def _level(plot: Plot, frame: _Frame) -> Iterator[str]:
    if plot.level:
        y = frame.y(plot.level[0])
        yield f'<line class="level" x1="{LEFT}" x2="{frame.right}" y1="{y}" y2="{y}"/>'


def _band(series: Series, frame: _Frame) -> Iterator[str]:
    whole = [(x, low, high) for x, value, low, high in series.points if None not in (value, low, high)]
    if len(whole) > 1:
        ends = [f"{frame.x(x)},{frame.y(high)}" for x, _, high in whole]
        ends += [f"{frame.x(x)},{frame.y(low)}" for x, low, _ in reversed(whole)]  # type: ignore[arg-type]
        yield f'<polygon class="band k-{_kind(series)}" points="{" ".join(ends)}"/>'


def _line(series: Series, frame: _Frame, markers: bool) -> Iterator[str]:
    kind, run = _kind(series), []
    for x, value, _, _ in (*series.points, (0, None, None, None)):
        if value is not None:
            run.append((frame.x(x), frame.y(value)))
            continue
        if len(run) > 1:
            yield f'<polyline class="line k-{kind}" points="{" ".join(f"{a},{b}" for a, b in run)}"/>'
        if markers:
            yield from (marker(kind, a, b) for a, b in run)
        run = []


def marker(kind: str, x: float, y: float, size: float = 4.2) -> str:
    """Circle, square or triangle by kind."""
    shape = MARKS.get(kind, "circle")
    if shape == "square":
        side = f'width="{2 * size:.1f}" height="{2 * size:.1f}"'
        return f'<rect class="mark k-{kind}" x="{x - size:.1f}" y="{y - size:.1f}" {side}/>'
    if shape == "triangle":
        top, base, half = f"{y - size - 1:.1f}", f"{y + size - 0.4:.1f}", size + 0.6
        ends = f"{x},{top} {x + half:.1f},{base} {x - half:.1f},{base}"
        return f'<polygon class="mark k-{kind}" points="{ends}"/>'
    return f'<circle class="mark k-{kind}" cx="{x}" cy="{y}" r="{size}"/>'


def _end_labels(plot: Plot, frame: _Frame) -> Iterator[str]:
    """Names at the right end of each line, pushed apart where lines end close together."""
    ends = [
        (frame.y(value), s.title, f"k-{_kind(s)}")
        for s in plot.series
        for value in [next((v for _, v, _, _ in reversed(s.points) if v is not None), None)]
        if value is not None
    ]
    ends += [(frame.y(plot.level[0]), plot.level[1], "k-target")] if plot.level else []
    last = -GAP
    highest = frame.bottom + 2 - GAP * len(ends)
    for k, (y, title, css) in enumerate(sorted(ends)):
        last = max(min(y, highest + GAP * (k + 1)), last + GAP)
        yield f'<text class="end {css}" x="{frame.right + 8}" y="{last + 4:.1f}">{_text(title)}</text>'


def _kind(series: Series) -> str:
    return series.kind if series.kind.isalpha() and series.kind.isascii() else "other"


def strip(cells: Sequence[tuple[str, float, float | None, float | None]], ident: str, about: str) -> str:
    """A small line of one score: (role, value, low, high) for each role; the reference's interval is a grey band."""
    low, high = span([v for _, *rest in cells for v in rest if v is not None])
    width, height, pad = 190, 30, 8

    def x(value: float) -> float:
        return round(pad + (min(max(value, low), high) - low) / (high - low) * (width - 2 * pad), 1)

    out = [
        f'<svg class="strip" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{ident}">'
        f'<title id="{ident}">{_text(about)}</title>'
        f'<line class="axis" x1="{pad}" x2="{width - pad}" y1="22" y2="22"/>'
    ]
    for role, _, left, right in cells:
        if role == "reference" and left is not None and right is not None:
            wide = max(x(right) - x(left), 1)
            out.append(f'<rect class="range" x="{x(left)}" y="4" width="{wide:.1f}" height="18"/>')
    for role, value, left, right in sorted(cells, key=lambda c: c[0] == "unlearned"):
        kind = role if role.isalpha() and role.isascii() else "other"
        if role == "unlearned" and left is not None and right is not None:
            out.append(f'<line class="whisker k-{kind}" x1="{x(left)}" x2="{x(right)}" y1="13" y2="13"/>')
        out.append(marker(kind, x(value), 13, 3.6))
    return "".join(out) + "</svg>"
