"""``verify``: hashes first, then the scores once more from the tables, and the conclusion once more from the scores.

What is compared: value, interval, counts, target and rows of every score; the summary of every curve; the label, the
sentences and the findings of the conclusion. Attacked models leave values per row and no tables: a curve is worked out
again from those. Scores that were computed from text which the record conceals are counted as not derived again, and
those that are means are compared with their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.audit import planning
from efface.audit.attacks import AttackResult
from efface.audit.audit import HEADLINE, conclusion_of, scored
from efface.audit.comparing import differences, finite, groups, hides, numbers, same, same_text
from efface.audit.conclude import Conclusion, conclude
from efface.audit.export import Basis, bits, summary
from efface.audit.measure import measure, pairs, with_targets
from efface.audit.store import Store
from efface.audit.stored import (
    TableIndex,
    Unreadable,
    curves_of,
    read,
    result_of,
    rows_of,
    score_of,
    store_of,
    suite_of,
)
from efface.metrics.base import METRICS, Need, PerRow, Score, summarise
from efface.runs import manifest, results
from efface.runs.keys import HASHED
from efface.runs.record import load_run
from efface.spec import RunSpec, load, parse_spec
from efface.suites import Suite

SCORED = ("base", "reference", "reference_2", "target", "unlearned")
FIELDS = ("value", "low", "high", "n", "unscored", "target", "direction")
MEAN = ("value", "low", "high", "n", "unscored")  # what follows from the values per row of a metric that is their mean
READS_IDS = (
    "letter_accuracy_compat",
    "mirage_overall",
    "mirage_overall_ranked",
)  # what it computes hangs on what row ids say, which may be hashed
EXTRA = ("chance", "detectable")  # further numbers that findings read
WHOLE = {"rec", "area", "area_excess"}  # what curves of older versions do not tell
Found = Iterator[dict[str, str]]


def verify_run(folder: Path) -> dict[str, Any]:
    """{run, digest, files, findings: [{file, what}], rederived, not_rederived, conclusion}. ``digest``: the manifest's
    own hash, to be kept where nobody can rewrite it. ``conclusion``: how much of it was worked out again."""
    found = [{"file": f.file, "what": f.what} for f in manifest.verify(folder)]
    counts = {"rederived": 0, "not_rederived": 0}
    told = "not looked at"
    if not found:
        load_run(folder)
        record = None
        try:
            record = _Record.of(folder)
            found += record.check_scores(counts)
            found += record.check_conclusion()
        except Unreadable as error:
            found.append(error.finding)
        told = record.told if record else told
    return {
        "run": str(folder),
        "digest": manifest.digest(folder) if (folder / manifest.NAME).is_file() else "",
        "files": manifest.count(folder),
        "findings": found,
        **counts,
        "conclusion": told,
    }


@dataclass
class _Record:
    """What a record says (``stored``), and what follows from its tables (``again``), by role."""

    folder: Path
    spec: RunSpec
    suite: Suite
    index: TableIndex
    scores: results.Scores
    by_row: dict[tuple[str, str, str], Any]
    again: dict[str, list[Score]]
    lost: set[tuple[str, str]]
    told: str = "not derived again"

    @staticmethod
    def of(folder: Path) -> _Record:
        """Read everything and measure once more."""
        spec = parse_spec(load(folder / "spec.yaml"))
        suite, index = suite_of(folder, spec.audit.suite), read(TableIndex, folder, "tables/index.json")
        scores = read(results.Scores, folder, "scores.json")
        named = [*scores.roles, *(row.role for row in scores.scores if row.role in SCORED)]
        store = store_of(folder, index, named)
        hashed = {name for name, rows in store.sets.items() if any(str(row.id).startswith(HASHED) for row in rows)}
        again, lost = _measured(store, suite, spec), _lost(suite, index, hashed)
        return _Record(folder, spec, suite, index, scores, rows_of(folder), again, lost)

    # -- scores --------------------------------------------------------------------------------------------------------
    def check_scores(self, counts: dict[str, int]) -> Found:
        """Every stored score against what the tables give, and every score that the record should hold."""
        if self.spec.keep_text and (not self.index.text or any(t.concealed for t in self.index.tables)):
            yield _finding("tables/index.json", "the run kept its texts, and this says that they are concealed")
        left = {(role, s.name, s.rows): s for role, found in self.again.items() for s in found}
        derived = dict(left)
        for old in self.scores.scores:
            key = (old.role, old.name, old.rows)
            if key not in derived:
                yield _finding("scores.json", f"{_of(old)} is no score of this run's suite and roles")
                continue
            if left.pop(key, None) is None:
                yield _finding("scores.json", f"{_of(old)} is there twice")
            if key[1:] in self.lost:
                counts["not_rederived"] += old.value is not None
                yield from self._against_rows(old)
            else:
                what = self._differs(old, derived[key])
                counts["rederived"] += old.value is not None and derived[key].value is not None
                yield from (_finding(file, text) for file, text in what)
        for role, name, rows in left:
            yield _finding("scores.json", f"{name} on {rows} ({role}) is left out")

    def _differs(self, old: results.ScoreRow, new: Score) -> Iterator[tuple[str, str]]:
        """(file, what is not as the tables say) of one score."""
        value = finite(new.value)
        if old.value is None and value is not None:
            yield "scores.json", f"{_of(old)} says nothing, the tables give {value:.6g}"
        elif old.value is not None and value is None:
            yield "scores.json", f"{_of(old)} says {old.value:.6g}, no table of the record gives it ({new.reason})"
        else:
            yield from (("scores.json", f"{_of(old)}{what}") for what in differences(old, new, FIELDS))
            if not self._same_extra(old.extra, new.extra):
                yield "scores.json", f"{_of(old)}: its further numbers (extra) are not those that the tables give"
            if not self._same_rows(score_of(old, self.by_row), new):
                yield "rows.json", f"{_of(old)}: its values per row are not those that the tables give"

    def _same_extra(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """Further numbers of a score; where texts are concealed only those that findings read."""
        pairs = [numbers(values) for values in (old, new)]
        return same(*(p if self.spec.keep_text else {k: p.get(k) for k in EXTRA} for p in pairs))

    def _same_rows(self, old: Score, new: Score) -> bool:
        """Values row by row, and which rows belong together. Names are compared where none is a hash: a metric may
        name rows and entities by more than the tables do."""
        named = not self.spec.keep_text or list(old.per_row) == list(new.per_row)
        values = same(list(old.per_row.values()), list(new.per_row.values()))
        return named and values and groups(old.entities) == groups(new.entities)

    def _against_rows(self, old: results.ScoreRow) -> Found:
        """A mean whose text is concealed against its own rows."""
        if old.value is None or old.name not in HEADLINE:
            return
        new = self._of_rows(old.name, old.rows, score_of(old, self.by_row))
        what = [", it has no values per row"] if new is None else differences(old, new, MEAN)
        yield from (_finding("scores.json", f"{_of(old)}{text}".replace("the tables", "its rows")) for text in what)

    def _of_rows(self, name: str, rows: str, score: Any) -> Score | None:
        """The mean of values per row with its interval; None without any."""
        if not score.per_row:
            return None
        ids = list(score.per_row)
        per_row = PerRow([score.per_row[r] for r in ids], ids, [score.entities[r] for r in ids])  # type: ignore[arg-type]
        return summarise(METRICS.get(name), rows, per_row, seed=self.spec.seed, resamples=self.spec.audit.resamples)

    # -- conclusion ----------------------------------------------------------------------------------------------------
    def check_conclusion(self) -> Found:
        """Label, sentences and findings against those that the scores and curves give."""
        stored = read(results.Conclusion, self.folder, "conclusion.json")
        left_out = planning.allowed(self.suite.attacks, self.spec.audit.threat, self.spec.audit.attacks)[1]
        attacks = yield from self._attacks(stored)
        n = self.scores.n_forget or 0
        believed = self._believed()
        fresh = conclusion_of(self.spec, self.suite, believed, attacks or [], left_out, n)
        if attacks is not None:
            self.told = "derived again"
            yield from _compare(stored, fresh, fresh.findings)
            return
        # no values per row of the attacks (an older record): their findings are taken as they stand
        self.told = "derived again but for the findings of attacks"
        others = [_as_finding(f) for f in stored.findings if f.kind not in ("residue", "utility")]
        whole = conclude([*fresh.findings, *others], has_reference=bool(believed.get("reference")), n=n, not_tested=())
        yield from _compare(stored, whole, fresh.findings)

    def _believed(self) -> dict[str, list[Score]]:
        """The scores that the tables give; those whose text is concealed as the record has them."""
        stored = {(s.role, s.name, s.rows): s for s in self.scores.scores}
        out: dict[str, list[Score]] = {}
        for role, found in self.again.items():
            for new in found:
                old = stored.get((role, new.name, new.rows)) if (new.name, new.rows) in self.lost else None
                out.setdefault(role, []).append(new if old is None else score_of(old, self.by_row))
        return out

    def _attacks(self, stored: results.Conclusion) -> Any:
        """Yields what is wrong with curves; returns the attacks in the order of the findings, None if they cannot be
        had in full."""
        order = {f.name.partition(": ")[2]: i for i, f in reversed(list(enumerate(stored.findings)))}
        found: list[AttackResult] | None = []
        target = [score_of(s, self.by_row) for s in self.scores.scores if s.role == "target"]
        basis = Basis(target, self.spec.seed, self.spec.audit.resamples)
        for entry in planning.allowed(self.suite.attacks, self.spec.audit.threat, self.spec.audit.attacks)[0]:
            label = entry.label or entry.name
            curves = curves_of(self.folder, label)
            if not curves:
                if self.spec.audit.minutes is None:  # otherwise it may not have fitted into the time
                    yield _finding(f"attacks/{label}", "the suite asks for this attack, and the record holds no curve")
                continue
            result = result_of(self.folder, entry, curves)
            if result is None or found is None:
                found = None
                continue
            yield from self._curves(result, curves, basis)
            found.append(result)
        return found and sorted(found, key=lambda r: order.get(r.label, len(order)))

    def _curves(self, result: AttackResult, stored: Sequence[results.Curve], basis: Basis) -> Found:
        """The points of one attack against their rows, what the curve comes to against the points. Curves of older
        versions, none of which says anything of the whole curve, are compared in what they say."""
        told = any(WHOLE & curve.model_fields_set for curve in stored)
        for curve in stored:
            file, which = f"attacks/{result.label}", f"{curve.metric} on {curve.rows}"
            for name, new in summary(result, curve.metric, curve.rows, basis if told else None).items():
                if not _same_summary(getattr(curve, name), new):
                    yield _finding(file, f"{which}: {name} is not what the points give")
            if told and not all(same(p.bits, bits(p.supplied)) for p in curve.points):
                yield _finding(file, f"{which}: the bits of a point are not those of what was put in")
            if curve.metric in HEADLINE:
                yield from (_finding(file, f"{which}: {what}") for what in self._points(result, curve))

    def _points(self, result: AttackResult, curve: results.Curve) -> Iterator[str]:
        for role, line in result.curves.items():
            for number, point in enumerate(line.points):
                for score in point["scores"]:
                    if (score["name"], score["rows"]) != (curve.metric, curve.rows):
                        continue
                    new = self._of_rows(curve.metric, curve.rows, _Rows(score["per_row"], score["entities"]))
                    if new is None or not all(same(score[f], getattr(new, f)) for f in ("value", "low", "high", "n")):
                        yield f"point {number} ({role}) is not the mean of its rows"


@dataclass(frozen=True)
class _Rows:
    """Values per row of one point of a curve."""

    per_row: Mapping[str, float]
    entities: Mapping[str, str]


def _measured(store: Store, suite: Suite, spec: RunSpec) -> dict[str, list[Score]]:
    """Every score of every role, from the tables alone."""
    options = {"seed": spec.seed, "resamples": spec.audit.resamples}
    scores: dict[str, list[Score]] = {}
    for role in (role for role in scored(spec) if role in store.roles):
        try:
            scores[role] = measure(store, suite, role, **options)
        except Exception as error:  # tables of another shape than ours break a metric anywhere
            raise Unreadable("tables", f"the scores of {role} cannot be computed ({type(error).__name__})") from error
    return {role: with_targets(found, scores.get("reference"), **options) for role, found in scores.items()}


def _lost(suite: Suite, index: TableIndex, hashed: set[str]) -> set[tuple[str, str]]:
    """(metric, set) of the scores that were computed from what the record conceals. ``hashed``: sets with row ids that
    are hashes."""
    gone = {(t.rows, t.prompt, t.name) for t in index.tables if t.concealed}
    other = {(rows, kind) for rows, kind, _ in gone}  # passes of the registry stand under their kind

    def reads_text(need: Need) -> bool:
        return (
            (need.rows, need.prompt, "greedy") in gone if need.kind == "generate" else (need.rows, need.kind) in other
        )

    zlib = not index.text  # the compressed size of the answer needs the answer
    return {
        (metric.name, rows)
        for metric, rows in pairs(suite)
        if any(map(reads_text, metric.bound_needs(rows)))
        or (zlib and metric.name.startswith("mia_zlib"))
        or (rows in hashed and metric.name in READS_IDS)
    }


# -- comparing ---------------------------------------------------------------------------------------------------------
def _compare(stored: results.Conclusion, again: Conclusion, findings: Sequence[Any]) -> Found:
    """What of a stored conclusion does not follow. ``findings``: those that were worked out again."""
    file = "conclusion.json"
    if stored.label != again.label:
        yield _finding(file, f"it says {stored.label}, the record gives {again.label}")
    there = {f.name: f for f in stored.findings}
    for new in findings:
        name = f"{new.kind}: {new.name}"
        old = there.pop(name, None)
        if old is None:
            yield _finding(file, f"the finding {name!r} is left out")
        elif not _same_finding(old, new):
            yield _finding(file, f"the finding {name!r} is not what the record gives")
    if len(findings) == len(again.findings):
        yield from (_finding(file, f"the finding {name!r} does not follow from the record") for name in there)
        if not all(map(same_text, (*stored.sentences, stored.power), (*again.sentences, again.power))) or len(
            stored.sentences
        ) != len(again.sentences):
            yield _finding(file, "its sentences do not follow from its findings")
    said = {text for text in stored.limits if not hides(text)}
    if len(said) == len(stored.limits):
        yield from (_finding(file, f"the limit {text!r} is left out") for text in again.limits if text not in said)


def _same_summary(old: Any, new: Any) -> bool:
    """A number, or a gap with its interval and budget, as it is stored and as it is worked out."""
    if not isinstance(old, results.Gap) or not isinstance(new, Mapping):
        return same(old, new)
    return same(old.model_dump(), {"low": None, "high": None, "at": {}} | dict(new))


def _same_finding(old: results.Finding, new: Any) -> bool:
    return (
        all(same(getattr(old, name), getattr(new, name)) for name in ("p", "share"))
        and old.flag == bool(new.flag)
        and same_text(old.says, new.says)
        and same(numbers(old.evidence), numbers(new.evidence))
    )


def _as_finding(stored: results.Finding) -> Any:
    """A stored finding as the rules of the conclusion read it; its p is corrected already."""
    from efface.audit.findings import Finding

    name = stored.name.partition(": ")[2]
    return Finding(stored.kind, name, stored.says, stored.flag, None, stored.share, stored.evidence)


def _of(score: results.ScoreRow) -> str:
    return f"{score.name} on {score.rows} ({score.role})"


def _finding(file: str, what: str) -> dict[str, str]:
    return {"file": file, "what": what}
