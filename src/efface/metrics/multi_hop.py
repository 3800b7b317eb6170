"""The unlearning mirage in numbers: what is still answered one and two hops away, what was kept, and both in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from efface.card import Card
from efface.data.worlds.questions import FRAMES
from efface.metrics.base import Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.generation import normal
from efface.metrics.knowledge import correct_lp, wrong_lp
from efface.metrics.resampling import fewest, group, mean_draws, percentile, unit

MIRAGE = "The Unlearning Mirage (arXiv 2603.11266)"
FORGET = {"forget_1": "forget", "forget_2": "two_hop"}
RETAIN = {"retain_1": "retain", "retain_2": "two_hop_retain"}
RELATION = "retain_relation"
TESTABLE = 0.8
ROLES = ("subject", "target")
HOPS = ("two_hop", "two_hop_retain")  # a data set without them is judged by its direct questions
BUCKETS = (*FORGET.values(), *RETAIN.values())
TEXT = tuple(Need("generate", rows, role, (), optional=rows in HOPS) for rows in BUCKETS for role in ROLES)
RANK = tuple(
    Need("score", rows, role, ("answer", "answer_paraphrase", "wrong"), optional=rows in HOPS)
    for rows in BUCKETS
    for role in ROLES
)
Right = Callable[[Tables, str, str], tuple[np.ndarray, list[str], list[str]]]
DIFFERS = (
    "buckets by hop count and group instead of pooled single-hop and multi-hop means",
    "a bucket of which the target answers less than 80% is left out and named in `not_testable`",
    "retain_relation: those retain questions that use the relations most frequent among the one-hop and two-hop forget "
    "questions, ties together; relations are read off the row ids of the built-in world, other data has no such bucket",
    "retain buckets hold kept subjects; nodes of forget paths are not blocked (another person born in the same city "
    "counts as kept), and one-hop retention is not cut to the out-edges of path nodes",
    "three and more hops are no rows of a data set: the attack `multi_hop` asks them (`hops`), and they are not pooled "
    "in here",
)


def said(tables: Tables, rows: str, role: str, prompt: str = "prompt") -> tuple[np.ndarray, list[str], list[str]]:
    """(1 where the greedy answer holds the whole gold answer, 0 elsewhere, NaN where there is none; entity of each
    row; row ids)."""
    table = tables.generations(rows, prompt, role)
    columns = (table.column(name) for name in ("gold", "text", "problem"))
    hits = [
        np.nan if problem else float(f" {normal(gold or '')} " in f" {normal(text or '')} ")
        for gold, text, problem in zip(*columns, strict=True)
    ]
    return np.array(hits), table.entities, table.rows


def ranked(tables: Tables, rows: str, role: str) -> tuple[np.ndarray, list[str], list[str]]:
    """(1 where the gold answer, in the sentence of the wrong ones, is likelier per token than each of them, 0
    elsewhere, NaN where there is none; entities; row ids)."""
    own, _ = correct_lp(tables, rows, role)
    wrong = wrong_lp(tables, rows, role)
    hits = [float(lp > w.max()) if w.size and lp == lp else np.nan for lp, w in zip(own, wrong, strict=True)]
    table = tables.tokens(rows, role=role)
    return np.array(hits), table.entities, table.rows


@dataclass(frozen=True)
class Bucket:
    """``hits`` Float[rows] of the subject on rows that the target answers; ``skipped``: the rows it does not."""

    hits: np.ndarray
    entities: list[str]
    skipped: int
    target: float

    @property
    def accuracy(self) -> float:
        """Share of rows answered."""
        return float(np.nanmean(self.hits))


def relations(row: str) -> tuple[str, ...]:
    """Relations of the path that a question of the built-in world asks for, from its row id
    (``p000:born_in+located_in:0``); none for other ids."""
    named = [*row.split(":"), ""][1]
    return tuple(named.split("+")) if named in FRAMES else ()


def frequent(rows: Iterable[str]) -> set[str]:
    """The relations that most of the paths in ``rows`` use; all of them where several tie."""
    counts = Counter(relation for row in rows for relation in relations(row))
    return {relation for relation, n in counts.items() if n == max(counts.values())}


def bucket(tables: Tables, rows: str, right: Right, using: set[str] | None = None) -> Bucket | None:
    """The subject's answers to ``rows`` (one-hop questions with the relations ``using`` only), checked on the target;
    None where the data has no such rows."""
    found = _answered(tables, rows, right)
    if found is None:
        return None
    mine, entities, ids = found
    theirs = right(tables, rows, "target")[0]
    asked = np.array([using is None or bool(using & set(relations(i))) for i in ids], dtype=bool)
    if not asked.any():
        return None
    known = asked & (theirs == 1)
    kept = [e for e, k in zip(entities, known, strict=True) if k]
    return Bucket(mine[known], kept, int((asked & ~known).sum()), float(np.nanmean(theirs[asked])))


def _answered(tables: Tables, rows: str, right: Right) -> tuple[np.ndarray, list[str], list[str]] | None:
    try:
        return right(tables, rows, "subject")
    except NotComputed as why:
        if "has no" in str(why) or "carry no" in str(why):
            return None
        raise


def buckets(tables: Tables, right: Right) -> dict[str, Bucket | None]:
    """Every bucket by name."""
    found = {name: bucket(tables, rows, right) for name, rows in (FORGET | RETAIN).items()}
    paths = [_answered(tables, rows, right) for rows in FORGET.values()]
    using = frequent(row for path in paths if path for row in path[2])
    return found | {RELATION: bucket(tables, RETAIN["retain_1"], right, using)}


def overall(forgotten: float, kept: float) -> float:
    """2 (1 - F) N / ((1 - F) + N); 0 if a factor is not above 0."""
    gone = 1 - forgotten
    return 2 * gone * kept / (gone + kept) if gone > 0 and kept > 0 else 0.0


def mirage(tables: Tables, right: Right) -> Score:
    """Overall score with every bucket in ``extra`` and an interval over entities within each bucket."""
    found = buckets(tables, right)
    there = {name: b for name, b in found.items() if b is not None}
    weak = [name for name, b in there.items() if not b.hits.size or b.target < TESTABLE]
    used = {name: b for name, b in there.items() if name not in weak}
    sides = [[b for name, b in used.items() if name in side] for side in (FORGET, (*RETAIN, RELATION))]
    if not all(sides):
        missing = "forget" if not sides[0] else "retain"
        raise NotComputed(f"the target answers less than {TESTABLE:.0%} of every {missing} bucket, or there is none")
    means = [float(np.mean([b.accuracy for b in side])) for side in sides]
    draws = [
        np.mean(
            [
                mean_draws(b.hits[:, None], group(b.entities), [tables.seed, k, i], tables.resamples)[:, 0]
                for i, b in enumerate(side)
            ],
            axis=0,
        )
        for k, side in enumerate(sides)
    ]
    low, high = percentile(
        np.array([overall(f, n) for f, n in zip(*draws, strict=True)]), fewest(*(b.entities for b in used.values()))
    )
    extra = {name: b.accuracy for name, b in used.items()} | {
        "forgotten": means[0],
        "retained": means[1],
        "skipped": {name: b.skipped for name, b in there.items()},
        "not_testable": weak,
        "interval_over": unit(*(b.entities for b in used.values())),
    }
    return Score("", "", overall(*means), low, high, sum(b.hits.size for b in used.values()), extra=extra)


def _register(
    name: str, title: str, right: Right, needs: tuple[Need, ...], how: str, fooled_by: tuple[str, ...]
) -> None:
    card = Card(
        title,
        MIRAGE,
        "llm2graph 0.3",
        "2 (1 - F) N / ((1 - F) + N): F the mean accuracy over one-hop and two-hop questions about forgotten people, N "
        "over those about kept people and, once more, those of them that use the relations of the forgotten paths; "
        f"{how}. Only questions that the target answers count. Each bucket is in `extra`.",
        confirmed=(
            "F and N: means over buckets; overall: harmonic, 0 if a factor is not above 0",
            "precheck on the target",
        ),
        differs=DIFFERS,
        fooled_by=fooled_by,
        systems=("S02",),
    )
    options = {"directions": {"*": "higher"}, "orientation": "none", "fixed_rows": "forget", "version": 2}
    add = metric(name, needs=needs, card=card, **options)  # type: ignore[arg-type]
    add(lambda tables: mirage(tables, right))


_register(
    "mirage_overall",
    "Mirage overall score",
    said,
    TEXT,
    "answered: the greedy text holds the whole gold answer",
    ("a refusal or a changed wording counts as forgotten: see mirage_overall_ranked",),
)
_register(
    "mirage_overall_ranked",
    "Mirage overall score, by rank",
    ranked,
    RANK,
    "answered: the gold answer is likelier per token than each wrong one of its kind, in the same sentence",
    ("wrong answers that read otherwise than the gold one are less likely in any model: compare with the reference",),
)


@metric(
    "mirage_residual",
    needs=[Need("generate", "*", role, (), prompt) for role in ROLES for prompt in ("prompt", "paraphrase")],
    card=Card(
        "Mirage residual rate",
        MIRAGE,
        "llm2graph 0.3",
        "Share of questions that are answered wrongly as they were trained but rightly when paraphrased, among "
        "those that "
        "the target answers both ways.",
        confirmed=("residual item: gold wording wrong, a paraphrase right",),
        differs=(
            "the paraphrase is checked on the target too",
            "one paraphrase and no alias wording: rows carry none, the attack `alias` asks under the other names",
        ),
        fooled_by=("no row counts where the target does not understand the paraphrase: then it is not computed",),
        systems=("S02",),
    ),
)
def mirage_residual(tables: Tables) -> PerRow:
    """1 for a residual question, 0 for another, NaN where the target fails one of the wordings."""
    direct, again = (said(tables, "*", "subject", prompt)[0] for prompt in ("prompt", "paraphrase"))
    known = [said(tables, "*", "target", prompt)[0] == 1 for prompt in ("prompt", "paraphrase")]
    table = tables.generations()
    values = np.where(known[0] & known[1], ((direct == 0) & (again == 1)).astype(float), np.nan)
    return PerRow(values, table.rows, table.entities, {"skipped": int(np.isnan(values).sum())})
