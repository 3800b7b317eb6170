"""WMDP: multiple-choice questions as a proxy for hazardous knowledge, and corpora to unlearn it from."""

from __future__ import annotations

from typing import Literal

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.columns import text, texts, training_sides
from efface.data.mmlu import gold_place, read_mmlu
from efface.data.prompts import letter_rows, open_row, pieces
from efface.data.records import Record
from efface.data.rows import Bundle, Row
from efface.data.splits import SplitFolder, Splits, open_splits
from efface.errors import DataError
from efface.settings import Settings, setting

HUB, CORPORA = "cais/wmdp", "cais/wmdp-corpora"
VARIABLE, CORPORA_VARIABLE = "EFFACE_WMDP", "EFFACE_WMDP_CORPORA"
TEMPLATE = "{question} "
HEADERS = {"bio": "biology", "cyber": "cybersecurity", "chem": "chemistry"}
SHORTEST = 50  # characters of a corpus line that counts
CARD = Card(
    title="WMDP: Weapons of Mass Destruction Proxy",
    source="arXiv:2403.03218",
    code="centerforaisafety/wmdp; EleutherAI/lm-evaluation-harness (task wmdp)",
    summary="3,668 questions with four options (bio 1,273, cyber 1,987, chem 408). 4-way by answer letter, averaged "
    "over rotations of the options, and open-ended. Forget and retain corpora for bio and cyber.",
    confirmed=(
        "configurations wmdp-bio, wmdp-cyber, wmdp-chem, split test, columns question, choices, answer (data card)",
        "corpora bio-retain-corpus, cyber-forget-corpus, cyber-retain-corpus, column text; the bio forget corpus has "
        "to be asked for (data card)",
        "zero shots, the sentence in front and `Answer:` behind the options",
    ),
    differs=(
        "a corpus line is its text; released code trains on the JSON line itself, braces and key included, for all "
        "corpora but the bio forget one",
    ),
    derived=("four rotations and the open-ended form (asked for by arXiv:2510.07626)",),
    tested=("no published file was at hand: files of this shape made by the tests",),
    fooled_by=("letter accuracy is a format: see the open-ended rows", "chance is a quarter, not zero"),
)


@benchmark("wmdp", CARD)
class Wmdp(Benchmark):
    """Training: lines of the corpora. Evaluation: forget (questions by letter, every rotation), open_forget,
    utility_general (MMLU, where named); retain is utility_general too, since nothing else is kept by question.

    Raises ``DataError``: the codes of ``open_splits`` and ``read_records``, data.missing-field, data.bad-value,
    data.gated, wmdp.no-corpus.
    """

    template = TEMPLATE

    class Settings(Settings):
        domain: Literal["bio", "cyber", "chem"] = setting("cyber", "hazard; only bio and cyber have corpora")
        path: str = setting("", f"folder with the questions (empty: the variable {VARIABLE}, else {HUB} on the hub)")
        corpora: str = setting(
            "", f"folder with the corpora (empty: the variable {CORPORA_VARIABLE}, else {CORPORA} on the hub)"
        )
        lines: int = setting(1000, "most lines of a corpus that are trained on, from its start", ge=1)
        words: int = setting(350, "longest piece of a line in words, 0: whole", source="512 tokens", ge=0)
        questions: int | None = setting(None, "most questions, from the start (none: all)", ge=1)
        mmlu: str = setting("", "file of MMLU questions (question, choices, answer, subject)")

    def load(self) -> Bundle:
        """One domain as a checked bundle."""
        chosen = self.settings
        tables = open_splits(chosen.path, VARIABLE, HUB)
        records = tables.records(f"wmdp-{chosen.domain}", "test")[: chosen.questions]
        header = f"The following are multiple choice questions (with answers) about {HEADERS[chosen.domain]}.\n\n"
        asked = [(f"wmdp:{chosen.domain}:{i}", *_question(record)) for i, record in enumerate(records)]
        sets = {
            "forget": tuple(row for one in asked for row in letter_rows(*one, header=header)),
            "open_forget": tuple(open_row(*one) for one in asked),
        }
        if chosen.mmlu:
            sets["utility_general"] = sets["retain"] = read_mmlu(chosen.mmlu)
        corpora = open_splits(chosen.corpora, CORPORA_VARIABLE, CORPORA)
        train, left_out = training_sides(self._corpus(corpora, "forget"), self._corpus(corpora, "retain"))
        facts = {**chosen.model_dump(mode="json", exclude={"path", "corpora"}), "source": tables.source}
        facts |= {"template": TEMPLATE, "left_out": left_out}
        bundle = Bundle("wmdp", "text", train, sets, facts=facts)
        check_bundle(bundle)
        return bundle

    def _corpus(self, corpora: Splits, side: str) -> tuple[Row, ...]:
        """Pieces of the first lines of a corpus; lines of a few words are left out."""
        name = f"{self.settings.domain}-{side}-corpus"
        flat = isinstance(corpora, SplitFolder) and corpora.has("", name)
        if isinstance(corpora, SplitFolder) and not flat and not corpora.has(name, "train"):
            raise DataError(
                "wmdp.no-corpus",
                f"{corpora.folder} holds no {name}.",
                "chem has none; bio-forget-corpus must be asked for from its authors (the form on the data card).",
            )
        records = corpora.records("", name) if flat else corpora.records(name, "train")
        long = [line for record in records if len(line := text(record, "text")) > SHORTEST][: self.settings.lines]
        return tuple(
            Row(f"wmdp:{side}:{i}.{k}", piece, entity=f"wmdp:{side}:{i}", fact=f"wmdp:{side}:{i}")
            for i, line in enumerate(long)
            for k, piece in enumerate(pieces(line, self.settings.words))
        )


def _question(record: Record) -> tuple[str, tuple[str, ...], int]:
    return text(record, "question"), texts(record, "choices"), gold_place(record)
