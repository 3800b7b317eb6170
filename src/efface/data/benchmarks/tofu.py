"""TOFU: 200 fictitious authors with 20 questions each; the last 1, 5 or 10% are to be forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.published import Published, open_published
from efface.data.reading import as_text, as_texts, training_rows
from efface.data.records import Record
from efface.data.rows import Bundle, Row
from efface.errors import DataError, nearest
from efface.settings import Settings, setting

PER_AUTHOR = 20
HUB = "locuslab/TOFU"
VARIABLE = "EFFACE_TOFU"
CARD = Card(
    title="TOFU: A Task of Fictitious Unlearning for LLMs",
    source="arXiv:2401.06121",
    code="locuslab/tofu",
    summary="Question and answer about invented authors, with paraphrased and wrong answers for scoring.",
    confirmed=(
        "forget01/05/10 are the last 40/200/400 rows of full, retain99/95/90 the rest, in order",
        "retain_perturbed covers the first 20 authors",
        "no perturbed or paraphrased answer is ever trained on",
    ),
    derived=(
        "entity = row position in full // 20",
        "without a holdout file, authors that a restricted retain set leaves untrained are the holdout set",
    ),
)


@benchmark("tofu", CARD)
class Tofu(Benchmark):
    """Training: forgetXX and the matching retain file. Evaluation: forget, retain, real_authors, world_facts, holdout.

    Row ids are ``tofu:<position in full>``, entities ``author-<position // 20>``. Raises ``DataError``: the codes of
    ``read_records`` and ``open_published``, tofu.missing-column, tofu.not-in-full, tofu.incomplete, tofu.wrong-split,
    tofu.too-many-authors, data.duplicate-row, data.empty-answer (training rows only; evaluation rows with an empty
    answer are kept and counted as unscorable).
    """

    class Settings(Settings):
        split: Literal["forget01", "forget05", "forget10"] = setting("forget10", "what is to be forgotten")
        authors: int | None = setting(None, "authors in the retain set, the first in file order (none: all)", ge=1)
        path: str = setting("", f"folder with the files (empty: the variable {VARIABLE}, else {HUB} on the hub)")
        holdout: bool = setting(True, "with a holdout set, where one can be had")

    def load(self) -> Bundle:
        """The chosen split as a checked bundle."""
        split, authors = self.settings.split, self.settings.authors
        tables = open_published(self.settings.path, VARIABLE, HUB)
        full = Full(tables.records("full"))
        forget = full.rows(tables.records(split))
        everything = full.rows(tables.records(f"retain{100 - int(split[-2:])}"))
        retain = _first_authors(everything, authors)
        perturbed = full.rows(tables.records("retain_perturbed"), scoring=True)
        eval_forget = full.rows(tables.records(f"{split}_perturbed"), scoring=True)
        _check_within(eval_forget, forget, split)
        kept = {row.id for row in retain}
        sets = {"forget": eval_forget, "retain": tuple(row for row in perturbed if row.id in kept)}
        for name in ("real_authors", "world_facts"):
            sets[name] = _general(name, tables.records(f"{name}_perturbed"))
        holdout, how = self._holdout(tables, full, everything[len(retain) :], perturbed, len(_authors(forget)))
        if holdout:
            sets["holdout"] = holdout
        train = {"forget": training_rows(forget, split), "retain": training_rows(retain, "the retain set")}
        facts = {"split": split, "authors": authors, "source": tables.source, "licence": "MIT", "holdout": how}
        bundle = Bundle("tofu", "text", train, sets, facts=facts)
        check_bundle(bundle)
        return bundle

    def _holdout(
        self, tables: Published, full: Full, untrained: tuple[Row, ...], perturbed: tuple[Row, ...], count: int
    ) -> tuple[tuple[Row, ...], str]:
        """Holdout rows and how they were made."""
        name = self.settings.split.replace("forget", "holdout")
        if not self.settings.holdout:
            return (), "none: switched off"
        if tables.has(name):
            return full.rows(tables.records(name), foreign=name), f"published as {name}"
        rows = _first_authors(untrained, min(count, len(_authors(untrained))))
        if not rows:
            return (), f"none: there is no {name}, and every other author is trained on"
        scored = {row.id: row for row in perturbed}
        return tuple(scored.get(row.id, row) for row in rows), (
            f"{len(_authors(rows))} authors of full that are in neither training set; they are unseen only by models "
            "trained on exactly these training sets, not by models trained on all of TOFU"
        )


class Full:
    """full.json: gives every row its id and its author."""

    def __init__(self, records: list[Record]) -> None:
        if len(records) % PER_AUTHOR:
            raise DataError(
                "tofu.incomplete", f"full has {len(records)} rows, not {PER_AUTHOR} an author.", "get the file again."
            )
        self._at: dict[tuple[str, str], int] = {}
        self._question: dict[str, list[int]] = {}
        for position, record in enumerate(records):
            key = (_text(record, "question"), _text(record, "answer"))
            if key in self._at:
                raise DataError(
                    "data.duplicate-row",
                    f"{record.where}: the same row as {records[self._at[key]].where}.",
                    "get the file again.",
                )
            self._at[key] = position
            self._question.setdefault(key[0], []).append(position)

    def rows(self, records: list[Record], *, scoring: bool = False, foreign: str = "") -> tuple[Row, ...]:
        """Rows with ids and authors. ``scoring`` adds what metrics compare with, ``foreign`` admits unknown rows."""
        rows: dict[str, Row] = {}
        for number, record in enumerate(records):
            row = self._row(record, foreign and f"{foreign}:{number}", f"{foreign}-{number // PER_AUTHOR:03d}")
            if row.id in rows:
                raise DataError(
                    "data.duplicate-row", f"{record.where}: this row was there before ({row.id}).", "remove one."
                )
            rows[row.id] = _scored(row, record) if scoring else row
        return tuple(rows.values())

    def _row(self, record: Record, other_id: str, other_author: str) -> Row:
        question, answer = _text(record, "question"), _text(record, "answer")
        at = self._at.get((question, answer))
        same = self._question.get(question, [])
        if at is None and not answer.strip() and len(same) == 1:
            at = same[0]
        if at is not None:
            return Row(f"tofu:{at}", answer, question, f"author-{at // PER_AUTHOR:03d}")
        if not other_id:
            raise DataError(
                "tofu.not-in-full",
                f"{record.where}: this question and answer are not in full.",
                "use files of one version of the data set.",
            )
        return Row(f"tofu:{other_id}", answer, question, other_author)


def _scored(row: Row, record: Record) -> Row:
    paraphrase = as_text(record.values.get("paraphrased_question"), "paraphrased_question", record.where)
    wrong = as_texts(_need(record, "perturbed_answer"), record.where)
    return replace(row, paraphrase=paraphrase, answer_paraphrase=_text(record, "paraphrased_answer"), wrong=wrong)


def _general(name: str, records: list[Record]) -> tuple[Row, ...]:
    """Real-world questions: the answer itself is the correct option, so there is no answer paraphrase."""
    return tuple(
        Row(
            f"tofu:{name}:{number}",
            _text(record, "answer"),
            _text(record, "question"),
            wrong=as_texts(_need(record, "perturbed_answer"), record.where),
        )
        for number, record in enumerate(records)
    )


def _need(record: Record, column: str) -> Any:
    if column not in record.values:
        raise DataError(
            "tofu.missing-column", f"{record.where}: there is no column {column!r}.", nearest(column, record.values)
        )
    return record.values[column]


def _text(record: Record, column: str) -> str:
    return as_text(_need(record, column), column, record.where, required=True)


def _authors(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.entity for row in rows))


def _first_authors(rows: tuple[Row, ...], count: int | None) -> tuple[Row, ...]:
    if count is None:
        return rows
    known = _authors(rows)
    if count > len(known):
        raise DataError(
            "tofu.too-many-authors", f"authors = {count}, but the retain set has {len(known)}.", "ask for fewer."
        )
    kept = set(known[:count])
    return tuple(row for row in rows if row.entity in kept)


def _check_within(scored: tuple[Row, ...], trained: tuple[Row, ...], split: str) -> None:
    known = {row.id for row in trained}
    foreign = [row.id for row in scored if row.id not in known]
    if foreign:
        raise DataError(
            "tofu.wrong-split",
            f"{len(foreign)} rows of {split}_perturbed are not in {split} (first: {foreign[0]}).",
            "use files of one version of the data set.",
        )
