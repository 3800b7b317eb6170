"""One self-contained HTML file: no network, no script, everything that came from data or models escaped."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from efface.report.charts import chart, strip
from efface.report.model import Report, ScoreLine
from efface.report.text import ROLE_NOTES, role_title, set_title
from efface.runs.files import dumps

if TYPE_CHECKING:
    from jinja2 import Environment

# In a <script> of data only these could end it or start a comment; U+2028 and U+2029 are escaped by JSON already.
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def render(report: Report) -> str:
    """The page of one report."""
    return page("report.html.j2", report=report, raw=embed(report.raw))


def page(template: str, **values: Any) -> str:
    """A template of this package, filled. Autoescape is on for everything; an undefined name is an error."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("efface.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        chart=lambda plot, ident: Markup(chart(plot, ident)),
        strip=lambda line, ident: Markup(_strip(line, ident)),
        role_title=role_title,
        role_note=lambda role: ROLE_NOTES.get(role, ""),
        set_title=set_title,
    )
    return made


def _strip(line: ScoreLine, ident: str) -> str:
    if len(line.picture) < 2:
        return ""
    told = ", ".join(f"{role_title(role).lower()} {value:.3g}" for role, value, _, _ in line.picture)
    return strip(line.picture, ident, f"{line.title}: {told}")


def embed(raw: dict[str, Any]) -> Any:
    """``raw`` as JSON that cannot end the element it stands in."""
    from markupsafe import Markup

    text = dumps(raw)
    for character, code in UNSAFE.items():
        text = text.replace(character, code)
    return Markup(text)
