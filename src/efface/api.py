"""The verbs as functions. The command line calls exactly these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efface.errors import SpecError, nearest
from efface.progress import SILENT, Progress
from efface.spec import Resolved, RunSpec, overrides, resolve

KINDS = ("methods", "metrics", "attacks", "rules", "benchmarks", "suites", "recipes")


def demo_spec(
    *, model: str = "smollm2-135m", method: str = "npo", seed: int = 0, sets: Sequence[str] = (), out: str | None = None
) -> Resolved:
    """The spec of the demo: the fictitious world, suite ``people``, texts kept (they are invented)."""
    demo: dict[str, Any] = {
        "model": {"name": model},
        "method": {"name": method},
        "data": {"benchmark": "people"},
        "audit": {"suite": "people"},
        "seed": seed,
        "keep_text": True,
    }
    return resolve(("demo", demo | ({"out": out} if out else {})), ("user --set", overrides(sets)))


def unlearn(spec: Resolved | RunSpec | dict[str, Any], *, progress: Progress = SILENT) -> Path:
    """Make a model forget and audit it; the path of the complete run directory. The same spec after a kill goes on."""
    from efface import pipeline

    return pipeline.unlearn(_resolved(spec), progress)


def audit(unlearned: Path | str, spec: Resolved | RunSpec | dict[str, Any], *, progress: Progress = SILENT) -> Path:
    """Audit a model that exists already, also one that Efface did not make; the path of the run directory. A plain
    dictionary need not name what the folder says by itself: there is no target and no reference but those it names."""
    from efface import pipeline

    return pipeline.audit(Path(unlearned), _audited(Path(unlearned), spec), progress)


def _audited(unlearned: Path, spec: Resolved | RunSpec | dict[str, Any]) -> Resolved:
    from efface.refusing import audit_defaults

    if not isinstance(spec, dict):
        return _resolved(spec)
    target = spec.get("target", {}).get("path")
    return resolve(("audit", audit_defaults(unlearned, Path(target) if target else None)), ("python", spec))


def bench(
    what: str, specs: Sequence[Resolved], board: Path | str, *, progress: Progress = SILENT, **options: Any
) -> dict[str, Any]:
    """One comparison of many runs, written to the folder ``board``; its table.

    ``what``: "methods" compares the methods and seeds of ``specs`` (``options``: ``jobs``, ``budget``, ``calibrate``,
    see ``efface.bench.methods``); "metrics" and "attacks" run on the planted ladder (``options``: ``seeds``, ``suite``,
    ``jobs``, see ``efface.bench.ladder``).
    """
    from efface.bench import bench_named

    return bench_named(what).run(specs, Path(board), progress=progress, **options)


def tune(
    spec: Resolved | RunSpec | dict[str, Any], out: Path | str, *, progress: Progress = SILENT, **options: Any
) -> Any:
    """Search settings of a method on rows that its audit never scores; the result, also written to the folder ``out``
    (``options``: ``space``, ``trials``, ``minutes`` and ``calibrate``, see ``efface.tuning``)."""
    from efface.tuning import tune as search

    return search(_resolved(spec), Path(out), progress=progress, **options)


def select(
    spec: Resolved | RunSpec | dict[str, Any], settings: dict[str, Any] | None = None, *, progress: Progress = SILENT
) -> Any:
    """Unlearn up to the earliest epoch, or the smallest strength, at which the forget score is at most the reference's
    (MUSE's rule); the run and the path to it (``settings``: see ``efface.selection.SelectSettings``)."""
    from efface.selection import SelectSettings, under_rule
    from efface.selection import select as walk
    from efface.settings import parse

    chosen = spec if isinstance(spec, Resolved) else under_rule(("python", _plain(spec)))
    return walk(chosen, parse(SelectSettings, settings or {}, "select"), progress)


def schedule(
    spec: Resolved | RunSpec | dict[str, Any], plan: str, out: Path | str, *, progress: Progress = SILENT
) -> dict[str, Any]:
    """One method over a plan of the benchmark (growing forget sets, or one request after another); the table, also
    written to the folder ``out``."""
    from efface.schedule.steps import run

    return run(_resolved(spec), plan, Path(out), progress)


def corpus(
    spec: Resolved | RunSpec | dict[str, Any],
    out: Path | str,
    *,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Let the target write a forget corpus from names alone, and a spec that unlearns from it, to folder ``out``."""
    from efface.corpus import CorpusSettings, prepare
    from efface.settings import parse

    return prepare(_resolved(spec), Path(out), parse(CorpusSettings, settings or {}, "corpus"), progress)


def import_log(file: Path | str, reference: Path | str | None = None, printed: Path | str | None = None) -> Any:
    """Another program's result file with its numbers computed again; an object with ``to_json()``."""
    from efface.importers.read import check as check_log

    others = [None if path is None else Path(path) for path in (reference, printed)]
    return check_log(Path(file), *others)


def check(spec: Resolved | RunSpec | dict[str, Any], unlearned: Path | str | None = None) -> dict[str, Any]:
    """What a run would do and need (or the audit of ``unlearned``), with nothing loaded but the data. Raises what the
    run would raise early."""
    from efface.checking import plan

    if unlearned is None:
        return plan(_resolved(spec))
    return plan(_audited(Path(unlearned), spec), Path(unlearned))


def compare(runs: Sequence[Path | str]) -> Any:
    """Runs side by side; an object with ``to_json()`` and ``render("text" | "md" | "html")``."""
    from efface.runs.compare import compare as compare_runs

    return compare_runs([Path(run) for run in runs])


def report(run: Path | str, format: str = "html") -> str:
    """The report of a run as text, made from its record alone."""
    from efface.report import render

    return render(Path(run), format)


def verify(run: Path | str) -> dict[str, Any]:
    """Hashes of every file, and every score recomputed from the stored tables."""
    from efface.audit.rederive import verify_run

    return verify_run(Path(run))


def list_components(kind: str) -> list[dict[str, str]]:
    """Name and one line of every component of a kind."""
    if kind not in KINDS:
        raise SpecError("list.unknown-kind", f"There is no kind {kind!r}.", nearest(kind, KINDS))
    if kind == "recipes":
        from efface import recipes

        return [{"name": name, "about": "settings by model"} for name in recipes.names()]
    if kind == "suites":
        from efface import suites

        return [{"name": name, "about": suites.load(name).about} for name in suites.names()]
    return [{"name": name, "about": _about(item)} for name, item in registry(kind).items()]


def registry(kind: str) -> Any:
    """The registry of a kind of component."""
    if kind == "methods":
        from efface.methods.base import METHODS as found
    elif kind == "metrics":
        from efface.metrics.base import METRICS as found  # type: ignore[assignment]
    elif kind == "attacks":
        from efface.attacks.base import ATTACKS as found  # type: ignore[assignment]
    elif kind == "rules":
        from efface.engine.rules.base import RULES as found  # type: ignore[assignment]
    else:
        from efface.data.benchmarks.base import BENCHMARKS as found  # type: ignore[assignment]
    return found


def show(name: str) -> dict[str, Any]:
    """Card, settings with sources, and file of a component, whatever its kind."""
    from efface.describe import describe_component

    return describe_component(name)


def new(kind: str, name: str, folder: Path | str = ".", *, write: bool = True) -> list[Path]:
    """Write the starting files of a new spec, request, method, metric or attack; their paths."""
    from efface.scaffold import scaffold

    return scaffold(kind, name, Path(folder), write=write)


def doctor() -> list[dict[str, str]]:
    """What this machine has and what Efface can use of it."""
    from efface.diagnose import diagnose

    return diagnose()


def _resolved(spec: Resolved | RunSpec | dict[str, Any]) -> Resolved:
    if isinstance(spec, Resolved):
        return spec
    return resolve(("python", _plain(spec)))


def _plain(spec: RunSpec | dict[str, Any]) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_unset=True) if isinstance(spec, RunSpec) else spec


def _about(item: Any) -> str:
    card = getattr(item, "card", None)
    return f"{card.title} ({card.source})" if card else ""
