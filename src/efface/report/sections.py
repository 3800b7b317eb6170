"""What was asked of a run, and its answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from efface.report.glossary import LABELS
from efface.report.model import Answer, Fact, Found
from efface.report.text import number, visible, words
from efface.runs.loading import LoadedRun

LIST_LENGTH = 8
PATH = re.compile(r"[/\\~.]|[^\n{}]*[/\\][^\n{}]*$")  # absolute, below a home, or with a separator (no template)
FORMS = (
    "Every measure is in its corrected form; one marked as the common harness's, a released or another harness's form "
    "reproduces that with its quirks, for comparison with published tables only."
)
HEAD = (("id", "Request"), ("reason", "Reason"), ("authority", "On whose word"))


def at(values: Any, *path: str) -> Any:
    """A nested value, "" where there is none."""
    for key in path:
        values = values.get(key, "") if isinstance(values, Mapping) else ""
    return values if values is not None else ""


def asked(run: LoadedRun) -> Iterator[Fact]:
    """The request, the model, the method with the settings that somebody chose."""
    r, spec, sizes = run.request, run.spec, run.scores.sets if run.scores else {}
    yield from (Fact(label, visible(r[key], 400)) for key, label in HEAD if r.get(key))
    if dates := [f"{word} {visible(r[word], 20)}" for word in ("received", "due") if r.get(word)]:
        yield Fact("Dates", ", ".join(dates))
    if run.scores and run.scores.n_forget is not None:
        yield Fact("To be forgotten", f"{run.scores.n_forget:,} rows" + _entities(run))
    if sizes:
        yield Fact("Looked at", ", ".join(f"{words(name).lower()} {n:,}" for name, n in sizes.items() if n))
    data = at(run.provenance.data, "name") if run.provenance else at(spec, "data", "benchmark")
    yield Fact("Data", visible(data, 200))
    yield Fact("Model", model_name(run))
    if run.training and run.training.method:
        yield Fact("Method", visible(run.training.method, 80) + _settings(at(spec, "method", "settings")))
    if run.scores and run.scores.scores:
        yield Fact("Forms of the measures", FORMS)
    chosen = {k: v for k, v in run.origins.items() if "user" in v or "file" in v}
    if chosen:
        settings = (f"{visible(k, 80)} = {visible(placeless(at(spec, *k.split('.'))), 80)}" for k in chosen)
        yield Fact("Set by the user", ", ".join(settings))


def model_name(run: LoadedRun) -> str:
    """The model's name; of a path only its last part."""
    return visible(_last(str(at(run.spec, "model", "name"))), 120) or "unknown model"


def placeless(value: Any) -> Any:
    """``value`` with every path in it cut to its last part: paths say where things lie on somebody's machine."""
    if isinstance(value, Mapping):
        return {key: placeless(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [placeless(item) for item in value]
    return _last(value) if isinstance(value, str) and PATH.match(value) else value


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _entities(run: LoadedRun) -> str:
    """Names only where the run keeps texts."""
    names = run.request.get("entities")
    if not isinstance(names, list) or not names:
        return ""
    shown = f": {', '.join(visible(n, 60) for n in names[:LIST_LENGTH])}" if at(run.spec, "keep_text") is True else ""
    return f" about {len(names):,} entities{shown}" + ("…" if shown and len(names) > LIST_LENGTH else "")


def _settings(values: Any) -> str:
    items = (
        [f"{visible(k, 60)} {visible(placeless(v), 60)}" for k, v in values.items()]
        if isinstance(values, Mapping)
        else []
    )
    return f" ({', '.join(items)})" if items else ""


def answer(run: LoadedRun) -> Answer | None:
    """The conclusion, None if the run did not get there."""
    c = run.conclusion
    if c is None:
        return None
    found = tuple(
        Found(words(f.kind or f.name), visible(f.says), f.flag, tuple(_evidence(f.evidence))) for f in c.findings
    )
    return Answer(
        c.label,
        LABELS[c.label],
        tuple(map(visible, c.sentences)),
        tuple(map(visible, c.limits)),
        found,
        visible(c.power),
    )


def _evidence(values: Mapping[str, Any]) -> Iterator[Fact]:
    for key, value in values.items():
        if isinstance(value, bool) or value is None or isinstance(value, Mapping | list):
            continue
        yield Fact(words(key).lower(), number(value) if isinstance(value, float) else visible(value, 80))
