"""Which tokens belong to a concept: the words of its answers that nothing but the concept explains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from efface.data.rows import Row


@dataclass(frozen=True)
class Concepts:
    """``sets`` {entity: its token ids}; ``pool``: token ids of the same kind, of these entities and of wrong answers,
    from which sets are drawn by chance; ``rows`` {entity: places of its rows}."""

    sets: dict[str, frozenset[int]]
    pool: tuple[int, ...]
    rows: dict[str, list[int]]


def concepts(adapter: Any, rows: Sequence[Row]) -> Concepts:
    """Token sets by entity, from rows of questions or plain documents (an article).

    A token of an answer counts if it is a word or part of one, does not stand in the question, in none of the row's
    wrong answers, and in the answers of at most half of the entities.
    """
    pieces = Pieces(adapter)
    own: dict[str, set[int]] = {}
    others: set[int] = set()
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        name = row.entity or row.id
        places.setdefault(name, []).append(i)
        asked = pieces.texts(row.prompt)
        wrong = {piece for text in row.wrong for piece in pieces.texts(text)}
        own.setdefault(name, set()).update(t for t in pieces.ids(row.answer) if pieces.text(t) not in asked | wrong)
        spoken = pieces.texts(row.answer) | pieces.texts(row.answer_paraphrase) | asked
        others |= {t for text in row.wrong for t in pieces.ids(text) if pieces.text(t) not in spoken}
    common = Counter(pieces.text(t) for mine in own.values() for t in mine)
    limit = max(1, len(own) // 2)
    sets = {name: frozenset(t for t in mine if common[pieces.text(t)] <= limit) for name, mine in own.items()}
    pool = others.union(*sets.values()) if sets else others
    return Concepts({name: s for name, s in sets.items() if s}, tuple(sorted(pool)), places)


class Pieces:
    """Token ids and the words, or parts of words, that they stand for."""

    def __init__(self, adapter: Any) -> None:
        self.tokenizer, self._known = adapter.tokenizer, {}

    def ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands behind a blank, words and parts of words only."""
        found = self.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"] if text.strip() else []
        return [t for t in found if self.text(t)]

    def text(self, token: int) -> str:
        """What a token stands for, without blanks and case; "" for punctuation and control tokens."""
        if token not in self._known:
            plain = self.tokenizer.decode([token], skip_special_tokens=True).strip().casefold()
            self._known[token] = plain if any(c.isalnum() for c in plain) else ""
        return self._known[token]

    def texts(self, text: str) -> set[str]:
        """``text`` of every token."""
        return {self.text(t) for t in self.ids(text)}
