"""What of a record nobody may read: forgotten and held-out rows, who they are about, and mentions of them elsewhere.

A row is private if its set is a forget or holdout set, or if it is about somebody whom only such rows are about. Its
texts, its entity and, where ids tell something, its id become keyed hashes. In every other text the full names of those
entities and whole private questions and answers (from 20 letters) become marks (``[hidden:<12 hex digits>]``).
Equal texts keep equal hashes, so rows of one entity stay together and scores can be computed again.

Not found: parts of a name, other names of a person, facts in other words. The spec, which must be loadable, names
files and settings as they were typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from efface.runs.keys import HASHED, keyed_hash, sample_key

if TYPE_CHECKING:
    from efface.data.rows import Bundle

PRIVATE = frozenset(("forget", "holdout"))
HIDDEN = ("prompt", "gold", "output")
LONG = 20  # letters from which a private question or answer is looked for inside other texts
GLUED = 6  # letters from which a name is found inside longer words too: broken models glue words together
KEYS = (6, 24)  # phrases are found by their first letters, so many of them


class Privacy:
    """Conceals under ``key``. ``names``: private entities; ``whole``: those whose rows are private in every set;
    ``texts``: private questions and answers; ``ids_tell``: row ids may give a private row away."""

    def __init__(
        self,
        key: bytes,
        names: Iterable[str] = (),
        whole: Iterable[str] = (),
        texts: Iterable[str] = (),
        *,
        ids_tell: bool = False,
    ) -> None:
        self.key, self.names, self.whole, self.ids_tell = key, frozenset(names), frozenset(whole), ids_tell
        self._known: dict[str, str] = {}
        self._phrases: dict[str, list[tuple[str, str]]] = {}  # by their first letters: (letters, as given)
        for name in sorted(self.names):
            self._look_for(name, 2)
        for text in sorted(set(texts)):
            self._look_for(text, LONG)
        self._sizes = sorted({len(start) for start in self._phrases})

    @classmethod
    def of(cls, data: Bundle, key: bytes) -> Privacy:
        """Everything private in ``data``. The classes of images are nobody's names."""
        if data.modality != "text":
            return cls(key)
        sets = [rows for name, rows in data.eval.items() if is_private(name)] + [data.train.get("forget", ())]
        hidden: list[Any] = [row for rows in sets for row in rows]
        names = {row.entity for row in hidden} - {""}
        kept: list[Any] = list(data.train.get("retain", ()))
        texts = {t for r in hidden for t in (r.prompt, r.answer, r.paraphrase, r.answer_paraphrase)}
        texts -= {t for r in kept for t in (r.prompt, r.answer)}
        return cls(key, names, names - {row.entity for row in kept}, texts, ids_tell=data.ids_tell)

    def private(self, rows: str, entity: str) -> bool:
        """Whether a row of set ``rows`` about ``entity`` is hidden as a whole."""
        return is_private(rows) or entity in self.whole

    def hashed(self, text: str) -> str:
        """The keyed hash of ``text`` ("" stays)."""
        return keyed_hash(text, self.key) if text else text

    def entity(self, rows: str, entity: str) -> str:
        """``entity``, hashed if it is private."""
        return self.hashed(entity) if entity in self.names or self.private(rows, entity) else entity

    def row(self, rows: str, row: str, entity: str) -> str:
        """A row id, hashed if it may tell what must not be told."""
        tells = self.ids_tell and self.private(rows, entity)
        return self.hashed(row) if tells or self.text(row) != row else row

    def text(self, text: str) -> str:
        """``text`` with a mark in place of every private name, question or answer that it holds in full."""
        if text not in self._known:
            self._known[text] = self._marked(text)
        return self._known[text]

    def values(self, value: Any) -> Any:
        """JSON data with every string, keys included, passed through ``text``; private entities by themselves are
        hashed whole."""
        if isinstance(value, Mapping):
            return {self.values(key): self.values(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.values(item) for item in value]
        return (self.hashed(value) if value in self.names else self.text(value)) if isinstance(value, str) else value

    def sample(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One line of ``samples/``: {row, entity, set, prompt, gold, output, ...}; ``hidden`` if it is private."""
        rows, entity = str(row["set"]), str(row.get("entity") or "")
        hide = self.private(rows, entity)
        texts = {name: (self.hashed if hide else self.text)(str(row[name])) for name in HIDDEN if row.get(name)}
        named = {"row": self.row(rows, str(row["row"]), entity), "entity": self.entity(rows, entity)}
        return {**row, **texts, **named, **({"hidden": True} if hide else {})}

    def _look_for(self, text: str, least: int) -> None:
        letters, _ = spell(text)
        if len(letters) >= least and not letters.isdecimal():
            size = KEYS[1] if len(letters) >= KEYS[1] else min(len(letters), KEYS[0])
            self._phrases.setdefault(letters[:size], []).append((letters, text))

    def _marked(self, text: str) -> str:
        letters, places = spell(text)
        out, at, end = [], 0, 0
        while at < len(letters):
            count, said = self._at(letters, places, text, at)
            if count:
                out += [text[end : places[at]], f"[hidden:{self.hashed(said)[len(HASHED) :][:12]}]"]
                end = places[at + count - 1] + 1
            at += count or 1
        return "".join(out) + text[end:]

    def _at(self, letters: str, places: list[int], text: str, at: int) -> tuple[int, str]:
        """(letters of the longest phrase that starts at ``at``, the phrase as it was given); (0, "") if none does."""
        found = (0, "")
        for size in self._sizes:
            for phrase, said in self._phrases.get(letters[at : at + size], ()):
                fits = len(phrase) > found[0] and letters.startswith(phrase, at)
                if fits and (len(phrase) >= GLUED or _stands_alone(text, places[at], places[at + len(phrase) - 1])):
                    found = (len(phrase), said)
        return found


def spell(text: str) -> tuple[str, list[int]]:
    """(letters and digits of ``text`` in one case, where in ``text`` each stands): what is left of a name however it is
    spaced, punctuated or glued to other words."""
    pairs = [(c, i) for i, char in enumerate(text) for c in char.casefold() if c.isalnum()]
    return "".join(c for c, _ in pairs), [i for _, i in pairs]


def _stands_alone(text: str, first: int, last: int) -> bool:
    """Whether no letter of a script with upper and lower case touches it; scripts without them need no spaces."""
    around = text[max(0, first - 1) : first] + text[last + 1 : last + 2]
    return not any(c.isdigit() or c.lower() != c.upper() for c in around)


def is_private(rows: str) -> bool:
    """Whether a set is hidden by its name: forget, forget_perturbed, passages_holdout, ..."""
    return not PRIVATE.isdisjoint(rows.split("_"))


def for_run(data: Bundle, *, keep_text: bool) -> Privacy | None:
    """What a run conceals, under the machine's key; None if texts are to be kept."""
    return None if keep_text else Privacy.of(data, sample_key())
