"""What a relearning attacker trains on. Nothing here holds a tested answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from efface.attacks.held_out import Secrets, Split
from efface.attacks.some_rows import evenly
from efface.data.reading import read_rows
from efface.data.rows import Bundle, Row
from efface.data.telling import plain
from efface.data.worlds.trivia import everyday_rows
from efface.errors import NeedsError

SIZES = (1, 2, 3)  # of word n-grams


def attack_rows(
    kind: str, data: Bundle, parts: Split, *, unrelated: str, path: str, most: int, order: str = "spread"
) -> list[Row]:
    """Training rows of one kind (``in_domain``, ``benign``, ``out_of_domain``): ``most`` (0: all), evenly spread or,
    with ``order`` "similar", those with the questions most similar to the forgotten ones.

    Rows of the bundle that give away a fact of validation or test are left out, and benign and out-of-domain ones also
    when they name a forgotten entity. A user's file is not cleaned but refused (``NeedsError`` attack.test-answers).
    """
    forget = data.eval["forget"]
    secret = [*parts.rows("validation", forget), *parts.rows("test", forget)]  # type: ignore[arg-type]
    if path:
        own = list(read_rows(path))
        refuse_leaks(own, secret, "relearn.path", named=True)
        return _chosen(own, forget, most, order)  # type: ignore[arg-type]
    secrets = Secrets.of(secret)
    clean = [
        row
        for row in _candidates(kind, data, parts, unrelated)
        if not secrets.given_away_by(row) and (kind == "in_domain" or not secrets.named_by(row))
    ]
    return _chosen(clean, forget, most, order)  # type: ignore[arg-type]


def _chosen(rows: list[Row], forgotten: Sequence[Row], most: int, order: str) -> list[Row]:
    if not most:
        return rows
    if order == "similar":
        return most_similar(rows, forgotten)[:most]
    return list(evenly(rows, most))  # type: ignore[arg-type]


def most_similar(rows: Sequence[Row], forgotten: Sequence[Row]) -> list[Row]:
    """``rows`` by falling similarity of their question (a document's text) to the nearest forgotten one: shared word
    n-grams of all that either has, function words and names among them. Ties stay in row order."""
    asked = {_ngrams(row) for row in forgotten}
    nearest = [max((_shared(_ngrams(row), other) for other in asked), default=0.0) for row in rows]
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: -nearest[i])]


def _ngrams(row: Row) -> frozenset[tuple[str, ...]]:
    words = plain(row.prompt or row.answer).split()
    return frozenset(tuple(words[i : i + n]) for n in SIZES for i in range(len(words) - n + 1))


def _shared(a: frozenset, b: frozenset) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def _candidates(kind: str, data: Bundle, parts: Split, unrelated: str) -> Sequence[Row]:
    if kind == "in_domain":
        return parts.rows("train", data.train["forget"])  # type: ignore[arg-type]
    if kind == "benign":
        return data.train.get("retain", ())  # type: ignore[return-value]
    return everyday_rows() if unrelated == "everyday" else shuffled(data.train.get("retain", ()))  # type: ignore[arg-type]


def shuffled(rows: Sequence[Row]) -> list[Row]:
    """Questions with the answers to others, a third of the set further on: text of the same kind that says nothing."""
    by = max(1, len(rows) // 3)
    moved = [*rows[by:], *rows[:by]]
    return [replace(r, answer=o.answer) for r, o in zip(rows, moved, strict=True) if r.prompt and o.prompt]


def refuse_leaks(rows: Sequence[Row], secret: Sequence[Row], where: str, *, named: bool = False) -> None:
    """``NeedsError`` attack.test-answers: rows that give away what is tested (``named``: or that name a forgotten
    entity) would make learning look like recovery."""
    secrets = Secrets.of(secret)
    leaks = [r.id for r in rows if secrets.given_away_by(r) or (named and secrets.named_by(r))]
    if leaks:
        raise NeedsError(
            "attack.test-answers",
            f"{where}: {len(leaks)} rows hold tested answers{' or name a forgotten entity' if named else ''} "
            f"(first: {leaks[0]}).",
            "remove these rows from the attack data.",
        )
