"""What must hold before anything is trained: sets that are there, do not overlap and do not repeat themselves."""

from __future__ import annotations

from collections.abc import Mapping

from efface.data.rows import Bundle, ImageRow, Row, Rows
from efface.errors import DataError

SHOWN = 5


def content_key(row: Row | ImageRow) -> str:
    """What makes two rows the same row: prompt and answer (white space aside), or the labelled image."""
    if isinstance(row, ImageRow):
        return row.digest()
    return " ".join(row.prompt.split()) + "\0" + " ".join(row.answer.split())


def check_not_empty(rows: Rows, name: str = "forget") -> None:
    """data.empty-forget: nothing to forget."""
    if not len(rows):
        raise DataError("data.empty-forget", f"the {name} set holds no rows.", "name at least one row to forget.")


def check_unique(rows: Rows, name: str) -> None:
    """data.duplicate-id: an id that stands for two rows of one set."""
    seen: set[str] = set()
    twice = [row.id for row in rows if row.id in seen or seen.add(row.id)]
    if twice:
        raise DataError(
            "data.duplicate-id", f"{len(twice)} ids are used twice in {name}: {_some(twice)}.", "make ids unique."
        )


def check_ids_agree(sets: Mapping[str, Rows]) -> None:
    """data.id-conflict: one id that stands for different rows in two sets."""
    owner: dict[str, tuple[str, str]] = {}
    for name, rows in sets.items():
        for row in rows:
            first, key = owner.setdefault(row.id, (name, content_key(row)))
            if key != content_key(row):
                raise DataError(
                    "data.id-conflict",
                    f"the id {row.id!r} stands for different rows in {first} and {name}.",
                    "make ids unique over all files, or leave the id column out.",
                )


def check_disjoint(one: Rows, other: Rows, one_name: str, other_name: str, code: str = "data.overlap") -> None:
    """``code``: the same row in two sets that must not share one."""
    known = {content_key(row): row.id for row in other}
    both = [(row.id, known[key]) for row in one if (key := content_key(row)) in known]
    if both:
        pairs = _some([a if a == b else f"{a} = {b}" for a, b in both])
        raise DataError(
            code,
            f"{len(both)} rows are in both {one_name} and {other_name}: {pairs}.",
            "decide where each row belongs.",
        )


def check_within(forget: Rows, data: Rows, forget_name: str = "forget", data_name: str = "data") -> None:
    """The forget set is a proper part of the data: data.forget-larger, data.forget-not-in-data, data.nothing-left."""
    if len(forget) > len(data):
        raise DataError(
            "data.forget-larger",
            f"{forget_name} has {len(forget)} rows, more than all of {data_name} ({len(data)}).",
            "check which file is which.",
        )
    known = {content_key(row) for row in data}
    foreign = [row.id for row in forget if content_key(row) not in known]
    if foreign:
        raise DataError(
            "data.forget-not-in-data",
            f"{len(foreign)} rows of {forget_name} are not in {data_name}: {_some(foreign)}.",
            "what was never trained on cannot be forgotten; correct or remove these rows.",
        )
    if known == {content_key(row) for row in forget}:
        raise DataError(
            "data.nothing-left",
            f"{forget_name} is all of {data_name}; nothing would be kept.",
            "forget a part of the data, or retrain from the base model.",
        )


def check_bundle(bundle: Bundle, names: Mapping[str, str] | None = None) -> None:
    """All that can be said of a bundle without a model. ``names``: set name -> how messages call it (its file)."""

    def call(name: str) -> str:
        return (names or {}).get(name, f"the {name} set")

    forget, retain = bundle.train.get("forget", ()), bundle.train.get("retain", ())
    check_not_empty(forget, call("forget"))
    for half in (bundle.train, bundle.eval):
        for name, rows in half.items():
            check_unique(rows, call(name))
    check_ids_agree({call(name): rows for name, rows in bundle.train.items()})
    check_disjoint(forget, retain, call("forget"), call("retain"))
    for name, rows in bundle.eval.items():
        if "holdout" in name.split("_"):
            check_disjoint(rows, [*forget, *retain], call(name), "the training data", "data.holdout-trained")
        if name == "neighbour":
            check_disjoint(rows, forget, call(name), call("forget"), "data.neighbour-forgotten")


def _some(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
