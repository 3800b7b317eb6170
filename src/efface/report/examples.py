"""Examples: one question before, after, and asked of a model that never saw the data. Chosen by rule, not by hand."""

from __future__ import annotations

from collections.abc import Sequence

from efface.report.glossary import title
from efface.report.model import Example, ExampleGroup, Said
from efface.report.text import number, set_title, visible, words
from efface.runs.loading import LoadedRun
from efface.runs.results import Sample

HOW_MANY = {"forget": 6, "retain": 2, "neighbour": 2, "world_facts": 1}
WORST = 3
LONGEST = 220
PREFERRED = ("rouge", "probability", "accuracy")
NOTE = (
    "Chosen by rule: first the {worst} forget rows where the unlearned model still comes closest to the right "
    "answer ({by}), then rows spread evenly over each set."
)


def examples(run: LoadedRun, roles: Sequence[str]) -> tuple[tuple[ExampleGroup, ...], str]:
    """Examples by set, and the sentence that says how they were chosen ("" if there are none)."""
    after = run.samples("unlearned")
    by_role = {role: {(s.set, s.row): s for s in run.samples(role)} for role in roles}
    metric = next((m for m in PREFERRED if any(m in s.scores for s in after)), "")
    out = []
    for rows in dict.fromkeys((*HOW_MANY, *(s.set for s in after))):
        found = [s for s in after if s.set == rows and not s.problem]
        chosen = _choose(found, HOW_MANY.get(rows, 1), metric if rows == "forget" else "")
        if chosen:
            out.append(ExampleGroup(set_title(rows), tuple(_example(s, by_role, metric) for s in chosen)))
    note = NOTE.format(worst=WORST, by=f"by {title(metric)}") if metric else "Rows spread evenly over each set."
    return tuple(out), note if out else ""


def hidden(run: LoadedRun) -> bool:
    """Whether the record keeps hashes in place of forget text."""
    return any(s.hidden for s in run.samples("unlearned"))


def _choose(found: Sequence[Sample], count: int, metric: str) -> list[Sample]:
    """The ``WORST`` rows by ``metric`` (if one is named), then rows spread evenly over the others, in their order."""
    worst: list[Sample] = []
    if metric:
        ranked = [s for s in found if s.scores.get(metric) is not None]
        worst = sorted(ranked, key=lambda s: -(s.scores[metric] or 0.0))[: min(WORST, count)]
    rest = [s for s in found if s not in worst]
    wanted = min(count - len(worst), len(rest))
    return worst + [rest[i * len(rest) // wanted] for i in range(wanted)]


def _example(sample: Sample, by_role: dict[str, dict[tuple[str, str], Sample]], metric: str) -> Example:
    place = sample.set, sample.row
    said = tuple(_said(found[place], metric) if place in found else None for found in by_role.values())
    return Example(visible(sample.row, 80), _text(sample.prompt), _text(sample.gold), said)


def _said(sample: Sample, metric: str) -> Said:
    value = sample.scores.get(metric) if metric else None
    score = f"{title(metric)} {number(value)}" if value is not None else ""
    return Said(_text(sample.output) or "(no answer)", score)


def _text(text: str) -> str:
    """Keyed hashes are shortened: they say nothing to a reader but that two texts are the same."""
    return f"{words(text[:20])}…" if text.startswith("hmac-sha256:") else visible(text.strip(), LONGEST)
