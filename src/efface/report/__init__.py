"""Reports: one self-contained HTML file, Markdown, or the same as JSON; made from a run's record alone."""

from __future__ import annotations

from pathlib import Path

from efface.errors import SpecError, nearest

FORMATS = ("html", "json", "md")


def render(run: Path | str, format: str = "html") -> str:
    """The report of the run in directory ``run``. Raises "report.unknown-format", and what ``load_run`` raises."""
    if format not in FORMATS:
        raise SpecError("report.unknown-format", f"There is no report format {format!r}.", nearest(format, FORMATS))
    from dataclasses import asdict

    from efface.report import html, markdown
    from efface.report.build import build
    from efface.runs.files import dumps
    from efface.runs.loading import load_run

    report = build(load_run(run))
    if format == "json":
        return dumps(asdict(report), indent=1)
    return html.render(report) if format == "html" else markdown.render(report)


def write_reports(run: Path | str) -> None:
    """Write ``report.html`` and ``report.md`` into the run directory (before its manifest is written)."""
    from efface.runs.layout import RunDir, write_text

    folder = RunDir(Path(run))
    write_text(folder.report_html, render(run, "html"))
    write_text(folder.report_md, render(run, "md"))
