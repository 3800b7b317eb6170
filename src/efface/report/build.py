"""A loaded run as a ``Report``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from efface.report.account import cost, provenance
from efface.report.curves import attacks
from efface.report.examples import examples, hidden
from efface.report.model import AttackView, Report
from efface.report.scores import groups, not_computed, roles_of
from efface.report.sections import answer, asked, model_name
from efface.report.text import visible
from efface.runs.loading import LoadedRun

NOTHING_ELSEWHERE = (
    "Nothing about copies of the data elsewhere: source files, logs, caches, back-ups, search indexes, embeddings, "
    "other models and anything derived from them were not examined."
)
OTHER_QUESTIONS = (
    "Nothing about questions unlike the ones asked: other wordings, other languages, longer conversations, knowledge "
    "that follows from the forgotten facts."
)
OTHER_ATTACKS = "Nothing about attacks other than those listed, or attackers with more data, time or access."
NO_OPINION = "It is a record of measurements, not a legal opinion; no single number in it stands for the whole."


def build(run: LoadedRun) -> Report:
    """Everything a report shows. Depends on the run alone: the same run gives the same report."""
    roles = roles_of(run)
    shown, note = examples(run, roles)
    views, (forget, other) = attacks(run), groups(run, roles)
    return Report(
        title=_title(run),
        subtitle=_subtitle(run),
        date=visible(run.status.started[:10], 10),
        run=visible(run.name, 200),
        notice=_notice(run),
        asked=tuple(asked(run)),
        answer=answer(run),
        examples=shown,
        examples_note=note,
        hidden=hidden(run),
        roles=roles,
        scores=forget,
        attacks=views,
        damage=other,
        cost=cost(run),
        provenance=tuple(provenance(run)),
        commands=tuple(_commands(run)),
        not_shown=tuple(_not_shown(run, roles, views)),
        raw=_raw(run),
    )


def _method(run: LoadedRun) -> str:
    return visible(run.training.method, 80) if run.training else ""


def _title(run: LoadedRun) -> str:
    method = _method(run)
    return f"Unlearning {model_name(run)} with {method}" if method else f"Audit of {model_name(run)}"


def _subtitle(run: LoadedRun) -> str:
    if run.scores is None:
        return "No scores yet"
    count = f"{run.scores.n_forget:,} rows to be forgotten, " if run.scores.n_forget is not None else ""
    return f"{count}measured with suite {visible(run.scores.suite, 80)}, version {run.scores.suite_version}"


def _notice(run: LoadedRun) -> str:
    """What must be known before anything else is read ("" if nothing)."""
    error = run.status.error
    if run.status.state == "failed" and error is not None:
        stage = f" in stage {visible(run.status.stage, 60)}" if run.status.stage else ""
        return f"This run failed{stage}: {visible(error.cause, 400)} [{visible(error.code, 60)}]"
    return "" if run.conclusion else "This run did not finish. What follows is what it had recorded so far."


def _commands(run: LoadedRun) -> Iterator[str]:
    spec = shlex.quote(f"{visible(run.name, 200)}/spec.yaml")
    folder = shlex.quote(visible(run.name, 200))
    if run.provenance and run.provenance.command:
        yield visible(run.provenance.command, 600)
    yield f"efface unlearn {spec}" if _method(run) else f"efface audit <folder of the unlearned model> --spec {spec}"
    yield f"efface verify {folder}"


def _not_shown(run: LoadedRun, roles: Sequence[str], views: Sequence[AttackView]) -> Iterator[str]:
    """The run's own gaps first, then what no such report can show."""
    yield from not_computed(run)
    for view in views:
        if view.partial:
            yield f"Attack {view.title.lower()} did not run to its end."
        elif view.reason:
            yield f"Attack {view.title.lower()}: {view.reason}."
    if "reference" not in roles:
        yield (
            "What never having seen the data looks like: there is no reference model, so nothing here separates "
            "residue from what any model would know."
        )
    if not views:
        yield "Whether an attack brings anything back: none was run."
    if run.provenance and run.provenance.seeds:
        yield "How much another seed would change: this is one run with one seed."
    yield from (OTHER_QUESTIONS, OTHER_ATTACKS, NOTHING_ELSEWHERE, NO_OPINION)


def _raw(run: LoadedRun) -> dict[str, object]:
    """What machines read. Without spec, request and samples: those may name people and places on a disk."""
    parts = {"scores": run.scores, "conclusion": run.conclusion, "training": run.training, "provenance": run.provenance}
    data = {name: part.model_dump(by_alias=True) for name, part in parts.items() if part is not None}
    return {
        "schema": 1,
        "run": run.name,
        "spec_hash": run.spec_hash or run.status.spec_hash,
        "curves": [c.model_dump(by_alias=True) for c in run.curves],
        **data,
    }
