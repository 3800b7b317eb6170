"""book: passages learned by heart. The first characters of a passage are the question, what follows is the answer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.rows import Bundle, Row
from efface.data.worlds.people import build_world
from efface.errors import DataError
from efface.settings import Settings, setting

CARD = Card(
    title="A book to be forgotten",
    source="own generator or your files; stands in for The Lord of the Rings and BookCorpus in arXiv 2405.15152",
    summary="Passages of one book are to go, those of another are to stay; each is a beginning and its continuation.",
    confirmed=("the first 64 characters are the prompt, at most the next 512 the continuation",
               "passages below 100 characters are left out"),
    derived=("without files, both books are prose about invented people",),
    differs=("copyrighted text is not shipped",),
    fooled_by=("prose about invented people is made from patterns: part of a continuation can be guessed, see the "
               "reference",),
    systems=("S27",),
)  # fmt: skip


@benchmark("book", CARD)
class Book(Benchmark):
    """Evaluation sets: forget, retain, holdout (never trained on). Rows: (beginning, continuation)."""

    class Settings(Settings):
        forget: str = setting("", "text file of the book to go; paragraphs are parted by blank lines (empty: invented)")
        retain: str = setting("", "text file of the book to stay (empty: invented)")
        passages: int = setting(6, "invented passages to go; four times as many stay", ge=2, le=20)
        lead: int = setting(64, "characters of the beginning", source="arXiv 2405.15152", ge=8)
        length: int = setting(512, "most characters of the continuation", source="arXiv 2405.15152", ge=16)
        shortest: int = setting(100, "shorter paragraphs are left out", source="arXiv 2405.15152", ge=1)
        seed: int = setting(0, "seed of the invented books")

    def load(self) -> Bundle:
        """Both books, checked."""
        chosen = self.settings
        if bool(chosen.forget) != bool(chosen.retain):
            raise DataError("book.one-file", "book has one of `forget` and `retain`.", "give both files, or neither.")
        files = {"forget": chosen.forget, "retain": chosen.retain}
        texts = {role: _paragraphs(path) for role, path in files.items()} if chosen.forget else self._invented()
        rows = {role: self._rows(role, found) for role, found in texts.items()}
        train = {role: rows[role] for role in ("forget", "retain")}
        bundle = Bundle("book", "text", train, {k: v for k, v in rows.items() if v}, facts=chosen.model_dump())
        check_bundle(bundle)
        return bundle

    def _invented(self) -> dict[str, list[str]]:
        count = self.settings.passages
        world = build_world(max(8, 5 * count), count, self.settings.seed)
        named = {"forget": world.people[:count], "retain": world.people[count : 5 * count], "holdout": world.holdout}
        return {role: [world.passages[name] for name in names] for role, names in named.items()}

    def _rows(self, role: str, texts: Iterable[str]) -> tuple[Row, ...]:
        lead, end = self.settings.lead, self.settings.lead + self.settings.length
        long = [text for text in texts if len(text) >= max(self.settings.shortest, lead + 1)]
        return tuple(Row(f"{role}{i:04d}", text[lead:end], text[:lead], fact=role) for i, text in enumerate(long))


def _paragraphs(path: str) -> list[str]:
    """Paragraphs of a UTF-8 text file, white space collapsed."""
    place = Path(path).expanduser()
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError("book.unreadable", f"{place} cannot be read: {why}.", "name a text file in UTF-8.") from None
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
