"""RWKU: forget a famous person by name only; probes at three levels, neighbours, membership texts and utility."""

from __future__ import annotations

from pathlib import Path

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.benchmarks.rwku_utility import utility_sets
from efface.data.checks import check_bundle
from efface.data.columns import text, training_sides
from efface.data.records import Record
from efface.data.rows import Bundle, Row
from efface.data.splits import Splits, open_splits, read_any
from efface.errors import DataError, nearest
from efface.settings import Settings, setting

HUB = "jinzhuoran/RWKU"
VARIABLE = "EFFACE_RWKU"
PUBLISHED = ("llama3", "phi3")
BLANK = "Please complete the blank in the following question.\nQuestion: {query}\n"
BRIEF = "Please briefly answer the following question.\nQuestion: {query}\n"
SUFFIX = "affirmative suffix"
STYLES = {
    SUFFIX: "Please briefly answer the following question.\nQuestion: {query}",
    "incontext learning": "Please briefly answer the following question.\n{query}\n",
}
CARD = Card(
    title="RWKU: Real-World Knowledge Unlearning",
    source="arXiv:2406.10890",
    code="jinzhuoran/RWKU (read at b8a03b3)",
    summary="Two hundred famous people, given by name alone: the forget corpus is what a model itself writes about "
    "them. 13,131 probes: fill-in-the-blank, questions, and nine adversarial styles; neighbours as locality.",
    confirmed=(
        "configurations and columns: forget_target (target), forget_level1 to 3 and neighbor_level1, 2 (query, answer, "
        "subject, type), mia_forget, mia_retain (text, subject), train_positive_<model> (text, subject), utility_*",
        "prompt texts of each level and style; the chat template; answers made to start with `Answer:` except after an "
        "affirmative suffix",
    ),
    derived=("the names of the files in a folder: those of the configurations, or of the authors' process step",),
    tested=("no published file was at hand: files of this shape made by the tests",),
    fooled_by=(
        "nobody can be retrained without a famous person: there is no reference, so low is only relatively low",
        "the model must know them already: target.kind none, and a model that was pretrained on the world",
    ),
)


@benchmark("rwku", CARD)
class Rwku(Benchmark):
    """Training: texts about the targets (forget), nothing to keep. Evaluation: forget (questions), blank_forget,
    adversarial_forget, suffix_forget, neighbour, blank_neighbour, passages_forget, passages_retain, utility_*.

    Adversarial row ids are ``rwku:aa:<style>:<n>``. Raises ``DataError``: the codes of ``open_splits`` and
    ``read_records``, data.missing-field, data.bad-value, rwku.unknown-target, rwku.no-probes.
    """

    pretrained = True

    class Settings(Settings):
        targets: tuple[str, ...] = setting(("Stephen King",), "people to forget", source="the first published target")
        corpus: str = setting(
            "llama3",
            "forget corpus: llama3 or phi3 (published, written by these models), or a file that `efface corpus` wrote",
        )
        path: str = setting("", f"folder with the files (empty: the variable {VARIABLE}, else {HUB} on the hub)")
        utility: bool = setting(True, "with the utility sets whose files are there")

    def load(self) -> Bundle:
        """The probes of the chosen people as a checked bundle."""
        tables = open_splits(self.settings.path, VARIABLE, HUB)
        self._check_targets(tables)
        sets = {
            "forget": self._probes(tables, "forget_level2", "qa"),
            "blank_forget": self._probes(tables, "forget_level1", "fb"),
            "neighbour": self._probes(tables, "neighbor_level2", "nqa"),
            "blank_neighbour": self._probes(tables, "neighbor_level1", "nfb"),
        }
        sets["adversarial_forget"], sets["suffix_forget"] = self._adversarial(tables)
        for side, file in (("forget", "forget_mia"), ("retain", "retain_mia")):
            records = self._mine(tables, f"mia_{side}", "test", file)
            sets[f"passages_{side}"] = tuple(
                Row(f"rwku:mia-{side}:{i}", text(r, "text")) for i, r in enumerate(records)
            )
        if self.settings.utility:
            sets |= utility_sets(tables)
        train, left_out = training_sides(self._corpus(tables), ())
        facts = {**self.settings.model_dump(mode="json", exclude={"path"}), "source": tables.source}
        bundle = Bundle(
            "rwku", "text", train, {n: rows for n, rows in sets.items() if rows}, facts=facts | {"left_out": left_out}
        )
        check_bundle(bundle)
        return bundle

    def _check_targets(self, tables: Splits) -> None:
        known = [text(r, "target") for r in table(tables, "forget_target", "train", "intro")]
        for name in self.settings.targets:
            if name not in known:
                raise DataError("rwku.unknown-target", f"{name!r} is not a published target.", nearest(name, known))

    def _mine(self, tables: Splits, name: str, split: str, *files: str) -> list[Record]:
        """The records of a table that are about the chosen people."""
        wanted = set(self.settings.targets)
        return [r for r in table(tables, name, split, *files) if text(r, "subject") in wanted]

    def _probes(self, tables: Splits, name: str, key: str) -> tuple[Row, ...]:
        prompt, records = (BLANK if name.endswith("1") else BRIEF), self._mine(tables, name, "test")
        if not records and name == "forget_level2":
            raise DataError("rwku.no-probes", "There are no questions about the chosen people.", "check the files.")
        return tuple(
            Row(f"rwku:{key}:{i}", text(r, "answer"), prompt.format(query=text(r, "query")), _about(r))
            for i, r in enumerate(records)
        )

    def _adversarial(self, tables: Splits) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """(styles whose answer is made to start with `Answer:`, the one whose query starts it)."""
        parts: dict[bool, list[Row]] = {False: [], True: []}
        for i, record in enumerate(self._mine(tables, "forget_level3", "test")):
            style = text(record, "type")
            asked = STYLES.get(style, BRIEF).format(query=text(record, "query"))
            key = f"rwku:aa:{style.replace(' ', '_')}:{i}"
            parts[style == SUFFIX].append(Row(key, text(record, "answer"), asked, _about(record)))
        return tuple(parts[False]), tuple(parts[True])

    def _corpus(self, tables: Splits) -> tuple[Row, ...]:
        corpus = self.settings.corpus
        if corpus in PUBLISHED:
            own = ("positive",) if corpus == "llama3" else ("positive_phi",)
            records = self._mine(tables, f"train_positive_{corpus}", "train", *own)
        else:
            records = read_any(Path(corpus).expanduser())
        return tuple(
            Row(f"rwku:corpus:{i}", text(r, "text", "answer"), str(r.values.get("prompt") or ""), _about(r))
            for i, r in enumerate(records)
        )


def table(tables: Splits, name: str, split: str, *files: str) -> list[Record]:
    """A table of the hub by configuration and split, of a folder by the names its file may have."""
    return tables.records(name, split) if tables.source == "hub" else tables.records("", name, *files)


def _about(record: Record) -> str:
    return str(record.values.get("neighbor") or record.values.get("subject") or record.values.get("entity") or "")
