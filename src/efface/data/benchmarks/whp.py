"""Who's Harry Potter's evaluation: telling prompts, open completions, and a body of text to forget."""

from __future__ import annotations

from pathlib import Path

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.columns import text, texts, training_sides
from efface.data.prompts import pieces
from efface.data.records import Record
from efface.data.rows import Bundle, Row
from efface.data.splits import SplitFolder
from efface.errors import DataError
from efface.settings import Settings, setting

TEMPLATE = "{question} "
CARD = Card(
    title="Who's Harry Potter: familiarity",
    source="arXiv:2310.02238",
    summary="Thirty prompts whose next word tells whether the model knows the books, and three hundred completions "
    "that the paper had graded 0 to 3 by GPT-4.",
    derived=(
        "the files: the paper prints its prompts and released no data set. familiarity (prompt, told, generic), "
        "completions (prompt, references), forget and retain (text); a list `subtlety` beside references is not read",
        "grades by word overlap instead of a judge",
    ),
    tested=("files of this shape made by the tests",),
    fooled_by=(
        "a handful of prompts: intervals are wide",
        "the books are everywhere: no model is retrained without them",
    ),
)


@benchmark("whp", CARD)
class Whp(Benchmark):
    """Training: pieces of the text to forget and of text to keep. Evaluation: forget (telling prompts), open_forget
    (completions); retain and open_retain where the folder has files of that name.

    Raises ``DataError``: the codes of ``read_records``, data.missing-field, data.bad-value, whp.no-path.
    """

    template = TEMPLATE

    class Settings(Settings):
        path: str = setting("", "folder with familiarity, completions, forget and retain (.jsonl or .json)")
        words: int = setting(350, "longest piece of training text in words, 0: whole", source="512 tokens", ge=0)

    def load(self) -> Bundle:
        """The folder as a checked bundle."""
        if not self.settings.path:
            raise DataError("whp.no-path", "No folder is named.", "set path to a folder with the files.")
        tables = SplitFolder(_folder(self.settings.path))
        sets = {
            "forget": _told(tables.records("", "familiarity"), "told"),
            "open_forget": _completions(tables.records("", "completions"), "open"),
        }
        for name, file, make in (
            ("retain", "familiarity_retain", _told),
            ("open_retain", "completions_retain", _completions),
        ):
            if tables.has("", file):
                sets[name] = make(tables.records("", file), name)
        train, left_out = training_sides(*(self._texts(tables, side) for side in ("forget", "retain")))
        facts = {"template": TEMPLATE, "source": tables.source, "left_out": left_out}
        bundle = Bundle("whp", "text", train, sets, facts=facts)
        check_bundle(bundle)
        return bundle

    def _texts(self, tables: SplitFolder, side: str) -> tuple[Row, ...]:
        return tuple(
            Row(f"whp:{side}:{i}.{k}", piece, entity=f"whp:{side}:{i}", fact=f"whp:{side}:{i}")
            for i, record in enumerate(tables.records("", side))
            for k, piece in enumerate(pieces(text(record, "text"), self.settings.words))
        )


def _told(records: list[Record], name: str) -> tuple[Row, ...]:
    """One row per word that only somebody who knows would say."""
    return tuple(
        Row(f"whp:{name}:{i}.{k}", word, text(record, "prompt"), f"whp:{name}:{i}", wrong=texts(record, "generic"))
        for i, record in enumerate(records)
        for k, word in enumerate(texts(record, "told"))
    )


def _completions(records: list[Record], name: str) -> tuple[Row, ...]:
    """References one a line."""
    return tuple(
        Row(f"whp:{name}:{i}", "\n".join(texts(r, "references")), text(r, "prompt")) for i, r in enumerate(records)
    )


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError("data.missing-folder", f"{folder} is not a folder.", "name the folder that holds the files.")
    return folder
