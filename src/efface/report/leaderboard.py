"""A leaderboard as Markdown or as a page like the report's. Made from ``leaderboard.json`` and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from efface.report import html, markdown
from efface.report.glossary import title
from efface.report.text import amount, duration, interval, number, set_title, visible, words

CONTROL = re.compile(r"\| \((target|reference)\) \|")
TOLD = 160  # longest text of one cell
PROTOCOL = {
    "ue_mcq": "UE, choice",
    "ue_open_qa": "UE, open",
    "ue_avg": "UE",
    "ut_mcq": "UT, choice",
    "ut_open_qa": "UT, open",
    "ut_avg": "UT",
}
FORGET_ES = "extraction_strength.forget"
UWC_NOTE = (
    "UWC (arXiv 2406.09179), tau = {tau:g}: the unlearned model is mixed back into the target, (1 - alpha) target "
    "+ alpha unlearned, with the largest alpha that leaves {tau:.0%} of the target's extraction strength (ES) on "
    "retain rows. Then what is left of the forget set is compared, lower is better; the reference shows how low a "
    "model that never saw it is. Half of the retain entities decide alpha*, the retain ES shown is that of the "
    "other half."
)
FULL_STACK_NOTE = (
    "Full-stack protocol (arXiv 2510.07626). UE: knowledge still shown on the forget set (the study wants it low; "
    "it should match the reference). UT: what is left of what was to be kept (high). Both by multiple choice and "
    "by open answers, judged by an NLI model (audit.judge) or else by their words. Rob: UE where it is highest under "
    "each attack, with the reference's under the same attack, and UT at the same point where it was measured. "
)
SETTINGS_NOTE = (
    "Paper: the value of the paper or its code. Recipe: found to work on this model. User: given on the command "
    "line or in a file. Budget: the equal budget. Derived and default: none of these. Training settings left at "
    "their default are not listed."
)


@dataclass(frozen=True)
class Section:
    """One table with its heading and what must be known to read it."""

    ident: str
    heading: str
    note: str
    head: list[str]
    rows: list[list[str]]


def as_markdown(board: Mapping[str, Any]) -> str:
    """For a document and for the terminal."""
    lines = [f"# {markdown.escape(_title(board))}", "", markdown.escape(_subtitle(board)), ""]
    for note in _notes(board):
        lines += [f"> {markdown.escape(note)}", ""]
    for part in sections(board):
        lines += [f"## {part.heading}", "", markdown.escape(part.note), "", *markdown.table(part.head, part.rows)]
    return CONTROL.sub(r"| *\1* |", "\n".join(lines).rstrip()) + "\n"


def as_html(board: Mapping[str, Any]) -> str:
    """One self-contained page."""
    return html.page(
        "leaderboard.html.j2",
        title=_title(board),
        subtitle=_subtitle(board),
        notes=list(_notes(board)),
        sections=sections(board),
        raw=html.embed(dict(board)),
    )


def sections(board: Mapping[str, Any]) -> list[Section]:
    """All tables, in order; those with nothing to show are left out."""
    made = (_scores(board), _calibrated(board), _full_stack(board), _cost(board), _settings(board), _runs(board))
    return [part for part in made if part.rows]


def _title(board: Mapping[str, Any]) -> str:
    spec = board["spec"]
    return f"{visible(spec['data']['benchmark'], 60)} on {visible(spec['model']['name'], 80)}"


def _subtitle(board: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{k} {v}" for k, v in board["spec"]["data"]["settings"].items())
    seeds = ", ".join(map(str, board["seeds"]))
    rows = f" ({visible(settings, 200)})" if settings else ""
    return f"{len(board['methods'])} methods{rows}, suite {visible(board['spec']['audit']['suite'], 60)}, seeds {seeds}"


def _notes(board: Mapping[str, Any]) -> Iterator[str]:
    how = board["budget"]
    exempt = f" Without such a budget: {', '.join(how['exempt'])}." if how["exempt"] else ""
    if how["kind"] == "equal":
        steps, batch = ("/".join(map(str, how[key])) for key in ("steps", "batch_size"))
        yield f"Equal budget: {steps} optimizer steps of {batch} rows for every method that trains.{exempt}"
    else:
        yield f"Budgets are those of the recipes and differ: see the column of steps.{exempt}"
    if board["jobs"] > 1:
        yield f"{board['jobs']} runs shared the machine, so seconds are longer than one run alone takes."
    failed = [f"{m['method']} (seed {f['seed']}): {f['error']}" for m in board["methods"] for f in m["failed"]]
    if failed:
        yield "Failed: " + "; ".join(visible(f, 300) for f in failed)


def _several(board: Mapping[str, Any]) -> str:
    return (
        "Mean over seeds, with their range."
        if len(board["seeds"]) > 1
        else "With the 95% interval over entities; one seed, so what another would change is not known."
    )


def _scores(board: Mapping[str, Any]) -> Section:
    columns = board["columns"]
    rows = [
        [f"({role})", *(_number(found.get(c)) for c in columns), ""]
        for role, found in board["controls"].items()
        if found
    ]
    rows += [[*_name(m), *(_number(m["values"].get(c)) for c in columns), _conclusion(m)] for m in board["methods"]]
    note = "Forget columns should match the reference, the others should stay as high as the target's. "
    return Section("scores", "Scores", note + _several(board), ["Method", *map(_column, columns), "Conclusion"], rows)


def _calibrated(board: Mapping[str, Any]) -> Section:
    tau = board["calibrate"]["tau"]
    head = ["Rank", "Method", "alpha*", "Forget ES", "Forget ES, reworded", "Forget ES, similar", "Retain ES"]
    head += ["Rank without control", "Forget ES without", "Retain ES without", "Remark"]
    rows = []
    for m in sorted(board["methods"], key=lambda m: (m["rank"] is None, m["rank"] or 0)):
        u = m["uwc"]
        readings = ("forget_mixed", "forget_reworded_mixed", "forget_similar_mixed")
        cells = [_number(u.get(k)) for k in ("alpha", *readings, "retain_mixed")]
        without = [_number(u[k]) for k in ("forget_unlearned", "retain_unlearned")]
        rows.append([_place(m["rank"]), *_name(m), *cells, _place(m["rank_without_control"]), *without, _remark(m)])
    rows += _bounds(board) if rows else []
    note = UWC_NOTE.format(tau=tau)
    return Section("calibrated", f"At equal retention (tau {tau:g})", note, head, rows)


def _bounds(board: Mapping[str, Any]) -> list[list[str]]:
    """Where forgetting starts and where it ends: the target's and the reference's ES."""
    kept = next((m["uwc"]["retain_target"] for m in board["methods"] if m["uwc"]["retain_target"]), None)
    found = (("target", _number(kept)), ("reference", ""))
    return [
        ["", f"({role})", "", _number(board["controls"][role].get(FORGET_ES)), "", "", retain, *[""] * 4]
        for role, retain in found
        if board["controls"][role]
    ]


def _remark(m: Mapping[str, Any]) -> str:
    told = [f"not computed, because {visible(m['uwc']['reason'], TOLD)}"] if m["uwc"]["reason"] else []
    if m["uwc"]["fails"]:
        told.append(f"no alpha above 0 keeps enough (seeds {', '.join(map(str, m['uwc']['fails']))})")
    return "; ".join(told or (["failed"] if not m["seeds"] else []))


def _full_stack(board: Mapping[str, Any]) -> Section:
    columns = board["full_stack"]
    attacks = list(dict.fromkeys(r["attack"] for m in board["methods"] for r in m["robustness"]))
    rows = [
        [f"({role})", *(_number(found.get(c)) for c in columns), *("" for _ in attacks)]
        for role, found in board["controls"].items()
        if found and columns
    ]
    for m in board["methods"] if columns else ():
        by = {r["attack"]: r for r in m["robustness"]}
        under = [_attacked(by.get(label)) for label in attacks]
        rows.append([*_name(m), *(_number(m["values"].get(c)) for c in columns), *under])
    head = ["Method", *(PROTOCOL[c.split(".")[0]] for c in columns), *(f"Rob: {words(a).lower()}" for a in attacks)]
    return Section("full-stack", "Effectiveness, utility, robustness", FULL_STACK_NOTE + _several(board), head, rows)


def _attacked(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    if found["ue"] is None:
        return f"not computed, because {visible(found['reason'] or 'it was not measured', TOLD)}"
    reference = f", reference {_number(found['reference'])}" if found["reference"] else ""
    return _number(found["ue"]) + reference + (f", UT {_number(found['ut'])}" if found["ut"] else "")


def _cost(board: Mapping[str, Any]) -> Section:
    head = ["Method", "Time", "Steps", "Seconds a step", "Relative to grad_diff", "Trained parameters", "Weights moved"]
    rows = []
    for m in (m for m in board["methods"] if m["seeds"]):
        share, relative = m["moved_share"], m["relative_step_cost"]
        rows.append(
            [
                *_name(m),
                duration(m["seconds"]["value"]) if m["seconds"] else "–",
                amount(m["steps"]["value"]) if m["steps"] else "–",
                _number(m["seconds_per_step"]),
                "–" if relative is None else f"{relative:.2f}",
                amount(m["trained_parameters"]["value"]) if m["trained_parameters"] else "–",
                f"{share['value']:.1%}" if share else "–",
            ]
        )
    note = "Time of the unlearning alone, with whatever the method computes before its first step; no audit."
    return Section("cost", "Cost", note, head, rows)


def _settings(board: Mapping[str, Any]) -> Section:
    rows = [
        [*_name(m), visible(s["setting"], 60), visible(s["value"], TOLD), s["kind"], visible(s["origin"], TOLD)]
        for m in board["methods"]
        for s in m["settings"]
    ]
    head = ["Method", "Setting", "Value", "Origin", "Source"]
    return Section("settings", "Settings and where they come from", SETTINGS_NOTE, head, rows)


def _runs(board: Mapping[str, Any]) -> Section:
    rows = [
        [
            visible(r["method"], 60),
            str(r["seed"]),
            visible(r.get("run", ""), 120),
            r.get("conclusion", "failed"),
            visible(r["error"], 300) or "–",
            r["spec_hash"][:12],
        ]
        for r in board["rows"]
    ]
    head = ["Method", "Seed", "Run", "Conclusion", "Error", "Spec"]
    return Section("runs", "Runs", "Each with its own report and record.", head, rows)


def _name(m: Mapping[str, Any]) -> list[str]:
    return [visible(m["method"], 60)]


def _conclusion(m: Mapping[str, Any]) -> str:
    if not m["seeds"]:
        return "failed"
    counts = {label: m["conclusions"].count(label) for label in dict.fromkeys(m["conclusions"])}
    several = len(m["conclusions"]) > 1
    return ", ".join(f"{label} ({n} of {len(m['conclusions'])})" if several else label for label, n in counts.items())


def _number(found: Mapping[str, Any] | None) -> str:
    """A value with its interval over entities, or with its range over seeds."""
    if not found:
        return "–"
    if found["seeds"] > 1:
        return f"{number(found['value'])} [{number(found['min'])} … {number(found['max'])}]"
    spread = interval(found["low"], found["high"])
    return number(found["value"]) + (f" [{spread}]" if spread else "")


def _place(rank: int | None) -> str:
    return "–" if rank is None else str(rank)


def _column(column: str) -> str:
    name, _, rows = column.rpartition(".")
    return f"{set_title(rows)}: {title(name)}"
