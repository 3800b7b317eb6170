"""Writes docs/methods.md, attacks.md and metrics.md with a page per metric in docs/metrics from the Cards, and
docs/errors.md from the source.

Run it after changing one of them: python docs/make_reference.py. With --check it says which page is out of date, or
left over from a metric that is gone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import make_errors

from efface import api
from efface.settings import describe

HERE = Path(__file__).resolve().parent
METRICS = "metrics"
FIELDS = ("summary", "source", "code", "confirmed", "derived", "differs", "tested", "fooled_by", "systems")
GENERATED = "Generated from the Cards by `python docs/make_reference.py`; `efface show NAME` prints one."
NOT_TOLD = "Nothing is recorded."
GOOD = {
    "higher": "higher is better",
    "lower": "lower is better",
    "match": "should match the reference",
}
TARGETS = {
    "higher": "as high as possible; it is read beside the value before unlearning and the reference's",
    "lower": "as low as possible; it is read beside the value before unlearning and the reference's",
    "match": "the value of the reference, a model that never saw the forget set; without one there is no target",
}
KINDS = {
    "score": "log-probs of given answers",
    "generate": "greedy answers",
    "hidden": "hidden states",
    "gradient": "gradient norms",
    "weight": "weights, compared with the target's",
}


def page(kind: str) -> str:
    """One page: every component of a kind with its Card, facts and settings."""
    lines = [f"# {kind.capitalize()}", "", GENERATED, ""]
    for name, item in api.registry(kind).items():
        lines += [f"## {name}", "", f"**{item.card.title}**", ""]
        card = item.card.to_json()
        for field in FIELDS:
            if card[field]:
                value = card[field] if isinstance(card[field], str) else "; ".join(card[field])
                lines.append(f"- {field.replace('_', ' ')}: {value}")
        lines += [f"- {key}: {value}" for key, value in facts(kind, item).items()]
        lines += table(describe(item.Settings)) if hasattr(item, "Settings") else []
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def facts(kind: str, item: Any) -> dict[str, str]:
    """What a reader of that kind wants to know first."""
    if kind == "attacks":
        return {"threat": item.threat, "controls": ", ".join(item.controls), "families": ", ".join(item.families)}
    return {"aim": item.aim, "artifact": item.artifact, "families": ", ".join(item.families)}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Settings with defaults and sources."""
    if not rows:
        return []
    body = [f"| `{r['name']}` | `{r['default']}` | {r['help']} | {r['source']} |".replace("\n", " ") for r in rows]
    return ["", "| setting | default | what | source |", "|---|---|---|---|", *body]


# -- metrics -------------------------------------------------------------------------------------------------
def place(name: str) -> str:
    """File of a metric's page, below docs; a colon is no part of a file's name everywhere."""
    return f"{METRICS}/{name.replace(':', '-')}.md"


def index(metrics: Mapping[str, Any]) -> str:
    """One line per metric, with a link to its page."""
    lines = [
        f"- [{name}]({place(name)}): {item.card.title}; {GOOD[item.direction(item.fixed_rows or 'forget')]}"
        for name, item in metrics.items()
    ]
    head = (
        "One page per metric: formula, direction, source, what fools it. The direction here is that on the forget set, "
        "or on the set that the metric is bound to. Names that end in `_compat` reproduce a released form with its "
        "quirks, for comparison with published tables; the others are the corrected forms and the defaults."
    )
    return "\n".join(["# Metrics", "", GENERATED, "", head, "", *lines]) + "\n"


def metric_page(name: str, item: Any) -> str:
    """Everything about one metric."""
    card = item.card
    lines = [f"# {name}", "", f"**{card.title}**", "", f"[All metrics](../metrics.md). {GENERATED}", ""]
    parts = {
        "Formula": [card.summary or NOT_TOLD],
        "Direction": _items(_directions(item)),
        "Target": _items(dict.fromkeys(f"{GOOD[way]}: {TARGETS[way]}" for way in _ways(item).values())),
        "Needs": _items(_needs(item)),
        "Source": [card.source or NOT_TOLD],
        "Code": [card.code or "None was found or used."],
        "Checked against the source": _items(card.confirmed),
        "Designed here": _items(card.derived),
        "Differs from the released code": _items(card.differs),
        "What fools it": _items(card.fooled_by) or [NOT_TOLD],
        "What was tested": _items(card.tested) or [NOT_TOLD],
        "Systems": [", ".join(card.systems)] if card.systems else [],
    }
    for heading, body in parts.items():
        lines += [f"## {heading}", "", *body, ""] if body else []
    return "\n".join([*lines, f"Version {item.version}; families: {', '.join(item.families)}."]) + "\n"


def _items(values: Any) -> list[str]:
    return [f"- {value}" for value in values]


def _ways(item: Any) -> dict[str, str]:
    """Direction by evaluation set, the bound set alone where there is one; "*" stands for any other."""
    if item.fixed_rows:
        return {item.fixed_rows: item.direction(item.fixed_rows)}
    named = [rows for rows in item.directions if rows != "*"]
    return {rows: item.direction(rows) for rows in dict.fromkeys((*named, "forget", "holdout", "*"))}


def _directions(item: Any) -> Iterator[str]:
    ways = _ways(item)
    if len(set(ways.values())) == 1:
        yield f"{'any set' if '*' in ways else f'`{next(iter(ways))}`'}: {GOOD[next(iter(ways.values()))]}"
        return
    for way in dict.fromkeys(ways.values()):
        sets = [f"`{rows}`" if rows != "*" else "any other set" for rows, found in ways.items() if found == way]
        yield f"{', '.join(sets)}: {GOOD[way]}"


def _needs(item: Any) -> Iterator[str]:
    """What is read, in words: the pass, the rows, the model, and what it is asked for."""
    for need in dict.fromkeys(item.needs):
        rows = "the set asked for" if need.rows == "*" else f"`{need.rows}`" if need.rows else "no rows"
        who = "the model that is scored" if need.role == "subject" else f"the {need.role.replace('_', ' ')}"
        what = KINDS.get(need.kind, f"pass `{need.kind}`")
        more = [f"`{variant}`" for variant in need.variants] if need.kind == "score" else []
        more += [f"questions from `{need.prompt}`"] if need.prompt != "prompt" else []
        more += [f"beside the {other.replace('_', ' ')}" for other in need.others]
        yield f"{what} of {who}, {rows}" + (f" ({', '.join(more)})" if more else "")


# -- writing -------------------------------------------------------------------------------------------------
def pages() -> dict[str, str]:
    """Text of every page by its place below docs."""
    metrics = dict(api.registry(METRICS).items())
    made = {f"{kind}.md": page(kind) for kind in ("methods", "attacks")}
    made |= {f"{METRICS}.md": index(metrics), "errors.md": make_errors.page()}
    for name, item in metrics.items():
        if place(name) in made:
            raise ValueError(f"two metrics have the page {place(name)}")
        made[place(name)] = metric_page(name, item)
    return made


def stale(folder: Path, made: Mapping[str, str]) -> list[str]:
    """Pages below ``folder`` that are missing or say something else."""
    return [name for name, text in made.items() if not (folder / name).is_file() or (folder / name).read_text() != text]


def left_over(folder: Path, made: Mapping[str, str]) -> list[str]:
    """Files in the folder of metrics that no metric has."""
    found = sorted((folder / METRICS).glob("*")) if (folder / METRICS).is_dir() else []
    return [f"{METRICS}/{path.name}" for path in found if f"{METRICS}/{path.name}" not in made]


def write(folder: Path, made: Mapping[str, str]) -> None:
    """Write what is stale, remove pages that are left over."""
    (folder / METRICS).mkdir(exist_ok=True)
    for name in stale(folder, made):
        (folder / name).write_text(made[name])
    for name in left_over(folder, made):
        if name.endswith(".md"):
            (folder / name).unlink()


def main(arguments: list[str]) -> None:
    """Write, or with --check only say."""
    made = pages()
    if "--check" not in arguments:
        write(HERE, made)
        return
    problems = {"out of date": stale(HERE, made), "left over": left_over(HERE, made)}
    if any(problems.values()):
        sys.exit("; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names))


if __name__ == "__main__":
    main(sys.argv[1:])
