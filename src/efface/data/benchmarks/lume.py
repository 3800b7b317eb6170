"""LUME / SemEval-2025 task 4: stories, invented people with private data, real biographies; each forgotten and kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.columns import text, training_sides, unique_ids
from efface.data.mmlu import read_mmlu
from efface.data.records import Record
from efface.data.rows import Bundle, Row
from efface.data.splits import SplitFolder, Splits, open_splits
from efface.errors import DataError
from efface.settings import Settings, setting

HUB = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
VARIABLE = "EFFACE_LUME"
KIND = re.compile(r"(sc|qa)\d*$")
TEMPLATE = "{question} "
CARD = Card(
    title="LUME (SemEval-2025 task 4): LLM Unlearning with Multitask Evaluations",
    source="arXiv:2502.15097, arXiv:2504.02883",
    code="amazon-science/lume-llm-unlearning (read at b2fa8f9)",
    summary="Three tasks, each with sentence completion and question answering, in equal forget and retain halves.",
    confirmed=(
        "columns id, input, output, task; ids end in sc<n> (completion) or qa<n> (question); tasks Task1 to Task3",
        "forget_train, forget_validation and so on in the challenge's files, forget and retain in the repository",
        "membership documents: member.jsonl and nonmember.jsonl, column document (from a participant's script)",
        "no chat template, 256 greedy tokens",
    ),
    derived=("a blank between input and output, which the challenge's script glues together for its loss",),
    tested=("read from the repository's two files",),
    fooled_by=("phone numbers and other strings of digits: exact match sees one wrong digit as forgotten",),
)


@benchmark("lume", CARD)
class Lume(Benchmark):
    """Training: all rows of a half. Evaluation: forget and retain (questions), completion_forget, completion_retain,
    passages_forget / _holdout (membership documents, where there are any), utility_general (MMLU, where named).

    Row ids are ``lume:<task>:<published id>``. Raises ``DataError``: the codes of ``open_splits`` and
    ``read_records``, data.missing-field, data.bad-value, data.duplicate-id, lume.unknown-kind.
    """

    template = TEMPLATE

    class Settings(Settings):
        path: str = setting("", f"folder with the files (empty: the variable {VARIABLE}, else {HUB} on the hub)")
        split: Literal["train", "validation"] = setting("train", "part of the challenge's files")
        mia: str = setting("", "folder with member.jsonl and nonmember.jsonl (empty: mia_data in `path`, if there)")
        mmlu: str = setting("", "file of MMLU questions (question, choices, answer); without it no final score")

    def load(self) -> Bundle:
        """Both halves as a checked bundle."""
        chosen = self.settings
        tables = open_splits(chosen.path, VARIABLE, HUB)
        sets: dict[str, tuple[Row, ...]] = {}
        halves = {half: self._half(tables, half) for half in ("forget", "retain")}
        for half, rows in halves.items():
            for kind, name in (("qa", half), ("sc", f"completion_{half}")):
                sets[name] = tuple(row for row in rows if KIND.search(row.id)[1] == kind)  # type: ignore[index]
        if documents := self._documents(tables):
            names = {"member": "passages_forget", "nonmember": "passages_holdout"}
            sets |= {name: _members(documents.records("", file), name) for file, name in names.items()}
        if chosen.mmlu:
            sets["utility_general"] = read_mmlu(chosen.mmlu)
        train, left_out = training_sides(halves["forget"], halves["retain"])
        facts = {"split": chosen.split, "source": tables.source, "template": TEMPLATE, "left_out": left_out}
        bundle = Bundle("lume", "text", train, {n: rows for n, rows in sets.items() if rows}, facts=facts)
        check_bundle(bundle)
        return bundle

    def _half(self, tables: Splits, half: str) -> tuple[Row, ...]:
        records = tables.records("", f"{half}_{self.settings.split}", half)
        unique_ids(records)
        return tuple(_row(record) for record in records)

    def _documents(self, tables: Splits) -> SplitFolder | None:
        """Where membership documents are; None if nobody named a place and there is none beside the rows."""
        if self.settings.mia:
            return SplitFolder(Path(self.settings.mia).expanduser())
        beside = SplitFolder(tables.folder / "mia_data") if isinstance(tables, SplitFolder) else None
        return beside if beside and beside.has("", "member") else None


def _row(record: Record) -> Row:
    name, task = text(record, "id"), text(record, "task")
    if not (kind := KIND.search(name)):
        raise DataError(
            "lume.unknown-kind",
            f"{record.where}: the id ends neither in sc<n> nor in qa<n>.",
            "use the published ids: they say whether a row is a completion or a question.",
        )
    stem = f"lume:{task}:{name[: kind.start()]}"
    return Row(f"lume:{task}:{name}", text(record, "output"), text(record, "input"), stem, fact=f"lume:{task}:{name}")


def _members(records: list[Record], name: str) -> tuple[Row, ...]:
    return tuple(Row(f"lume:{name}:{i}", text(r, "document", "text")) for i, r in enumerate(records))
