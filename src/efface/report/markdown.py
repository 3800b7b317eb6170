"""The report as Markdown: the same content in the same order; charts become their tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from efface.report.model import AttackView, Cell, Fact, Report, Said, ScoreGroup
from efface.report.text import role_title

HIDDEN = "The text of forget rows is not kept in this record: equal codes stand for equal texts."
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def escape(text: str) -> str:
    """``text`` so that Markdown and the HTML inside it leave it as it is. One line in, one line out."""
    plain = SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([-+=.)])(?=\s|$)", r"\1\\\2", plain)


def render(report: Report) -> str:
    """The whole report."""
    lines = [
        f"# {escape(report.title)}",
        "",
        f"{escape(report.subtitle)}  ",
        f"{escape(report.date)} · run {escape(report.run)}",
        "",
    ]
    if report.notice:
        lines += [f"> **{escape(report.notice)}**", ""]
    for heading, body in _parts(report):
        lines += [f"## {heading}", "", *body, ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table of plain texts."""
    return [
        f"| {' | '.join(map(escape, head))} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(map(escape, row))} |" for row in rows),
        "",
    ]


def _parts(report: Report) -> Iterator[tuple[str, list[str]]]:
    yield "What was asked", _facts(report.asked)
    yield "The answer", list(_answer(report))
    yield "Before, after, and a model that never saw it", _examples(report)
    yield "Scores on what was to be forgotten", _groups(report.scores, report.roles) or ["No scores were recorded."]
    yield "What an attacker brings back", _attacks(report.attacks) or ["No attack was run."]
    yield "What else changed", _groups(report.damage, report.roles) or ["Nothing beside the forget set was measured."]
    yield "Time, memory, cost", _cost(report)
    yield "Provenance", _facts(report.provenance)
    yield "How to reproduce it", ["```", *(command.replace("`", "'") for command in report.commands), "```"]
    yield "What this does not show", [f"- {escape(item)}" for item in report.not_shown]


def _facts(facts: Sequence[Fact]) -> list[str]:
    return [f"- {escape(fact.label)}: {escape(fact.value)}" for fact in facts] or ["Nothing was recorded."]


def _answer(report: Report) -> Iterator[str]:
    a = report.answer
    if a is None:
        yield "No conclusion was reached."
        return
    yield f"**{a.label.capitalize()}.** {escape(a.meaning)}"
    for sentence in (*a.sentences, *((a.power,) if a.power and a.power not in a.sentences else ())):
        yield from ("", escape(sentence))
    yield from ("", "Within these limits:", "", *(f"- {escape(limit)}" for limit in a.limits)) if a.limits else ()
    if a.found:
        yield from ("", "What it rests on:", "")
        for item in a.found:
            yield f"- {escape(item.title)}{' (flagged)' if item.flag else ''}: {escape(item.says)}"


def _examples(report: Report) -> list[str]:
    if not report.examples:
        return ["No answers were recorded."]
    lines = [escape(report.examples_note), *(["", HIDDEN] if report.hidden else []), ""]
    for group in report.examples:
        rows = [
            [example.prompt or "(no question)", example.gold or "(none)", *map(_said, example.said)]
            for example in group.examples
        ]
        lines += [
            f"### {escape(group.title)}",
            "",
            *table(("Question", "Right answer", *map(role_title, report.roles)), rows),
        ]
    return lines


def _said(said: Said | None) -> str:
    if said is None:
        return "not asked"
    return said.text + (f" ({said.scores})" if said.scores else "")


def _groups(groups: Sequence[ScoreGroup], roles: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for group in groups:
        change = any(line.change for line in group.lines)
        head = ["Measure", "Which way", *(role_title(r) for r in roles), *(["Change"] if change else [])]
        rows = [
            [line.title, line.good, *map(cell_text, (*line.cells, *([line.change] if line.change else [])))]
            for line in group.lines
        ]
        note = f" – {escape(group.note)}" if group.note else ""
        lines += [f"### {escape(group.title)}{note}", "", *table(head, rows)]
    return lines


def cell_text(cell: Cell) -> str:
    """One cell on one line."""
    if cell.reason:
        return f"not computed, because {cell.reason}"
    return cell.value + (f" ({cell.range})" if cell.range else "") + (f"; {cell.note}" if cell.note else "")


def _attacks(attacks: Sequence[AttackView]) -> list[str]:
    lines: list[str] = []
    for attack in attacks:
        lines += [f"### {escape(attack.title)}", ""]
        texts = (
            attack.about,
            attack.threat and f"Threat considered: {attack.threat}.",
            *attack.sentences,
            "This attack did not run to its end." if attack.partial else "",
            "" if attack.rows else f"Not computed, because {attack.reason}.",
        )
        for text in filter(None, texts):
            lines += [escape(text), ""]
        if attack.rows:
            lines += table(attack.head, attack.rows)
    return lines


def _cost(report: Report) -> list[str]:
    cost, lines = report.cost, [f"> {escape(w)}" for w in report.cost.warnings]
    facts = _facts(cost.facts) if cost.facts or not cost.stages else []
    stages = table(("Stage", "Time", "Processor time", "Memory peak so far", "GPU memory peak"), cost.stages)
    return [*lines, "", *facts, "", *(stages if cost.stages else [])]
