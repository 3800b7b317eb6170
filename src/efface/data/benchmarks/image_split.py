"""Which labelled images are trained on, forgotten, kept and never seen. Shared by the image benchmarks."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from efface.data.benchmarks.base import Benchmark
from efface.data.checks import check_bundle
from efface.data.rows import Bundle, ImageRow
from efface.errors import DataError
from efface.settings import Settings, setting

NEVER_TRAINED = "of the rows, class by class, that no model is trained on"


class SplitSettings(Settings):
    """Settings of every image benchmark."""

    forget: int | str = setting(3, "class to forget (its index), or random:N for N training rows of any class")
    test_share: float = setting(0.2, f"share {NEVER_TRAINED}; scored as test and forget_test", gt=0, lt=1)
    holdout_share: float = setting(0.2, f"share {NEVER_TRAINED}; non-members of membership tests", gt=0, lt=1)
    seed: int = setting(0, "seed of the split", ge=0)


class ImageBenchmark(Benchmark):
    """Splits ``rows()`` by class into training, test and holdout parts.

    A class to forget: ``forget_test`` and ``holdout`` are unseen rows of that class (so that membership is asked among
    equals), ``test`` unseen rows of the others. random:N: ``test`` and ``holdout`` are unseen rows of all classes and
    there is no ``forget_test``.
    """

    modality = "image"

    class Settings(SplitSettings):
        """Settings of the benchmark."""

    def rows(self) -> list[ImageRow]:
        """All rows, before they are split."""
        raise NotImplementedError

    def load(self) -> Bundle:
        """The split as a checked bundle; ``facts`` holds classes, image shape and the request."""
        chosen, (rows, repeated) = self.settings, distinct(self.rows())
        train, test, holdout = split(rows, chosen.test_share, chosen.holdout_share, chosen.seed)
        classes = max(row.label for row in rows) + 1
        label, count = parse_forget(str(chosen.forget), classes)
        if label is not None:

            def ours(part: Sequence[ImageRow]) -> list[ImageRow]:
                return [row for row in part if row.label == label]

            others = [row for row in (*test, *holdout) if row.label != label]
            gone = {row.id for row in ours(train)}
            unseen = {"forget_test": ours(test), "test": others, "holdout": ours(holdout)}
        else:
            gone = {row.id for row in draw(train, count, chosen.seed)}
            unseen = {"test": test, "holdout": holdout}
        forget, retain = [r for r in train if r.id in gone], [r for r in train if r.id not in gone]
        facts = {
            "classes": classes,
            "shape": list(rows[0].pixels.shape),
            "forget": chosen.forget,
            "repeated_rows": repeated,
        }
        sets = {"forget": forget, "retain": retain, **unseen}
        bundle = Bundle(
            self.name, "image", {"forget": forget, "retain": retain}, {k: v for k, v in sets.items() if v}, facts=facts
        )
        check_bundle(bundle)
        return bundle


def distinct(rows: Sequence[ImageRow]) -> tuple[list[ImageRow], int]:
    """(rows, each image with its label once; how many were dropped): no image may be both trained on and unseen."""
    first = {row.digest(): row for row in reversed(rows)}
    kept = [row for row in rows if first[row.digest()] is row]
    return kept, len(rows) - len(kept)


def parse_forget(text: str, classes: int) -> tuple[int | None, int]:
    """(class, 0) or (None, number of rows). Raises ``DataError`` ``images.bad-forget`` or ``images.unknown-class``."""
    drawn = re.fullmatch(r"random:(\d+)", text.strip())
    if drawn and int(drawn[1]) > 0:
        return None, int(drawn[1])
    if not text.strip().isdecimal():
        raise DataError(
            "images.bad-forget", f"benchmark.forget is {text!r}.", "give a class index such as 3, or random:50."
        )
    if int(text) >= classes:
        raise DataError(
            "images.unknown-class",
            f"benchmark.forget asks for class {int(text)}; classes are 0 to {classes - 1}.",
            "name a class that the data has.",
        )
    return int(text), 0


def split(
    rows: Sequence[ImageRow], test_share: float, holdout_share: float, seed: int
) -> tuple[list[ImageRow], list[ImageRow], list[ImageRow]]:
    """(train, test, holdout), each in data order; in each class the shares are rounded to whole rows, at least one."""
    if test_share + holdout_share >= 1:
        raise DataError(
            "images.no-training-rows",
            f"test_share {test_share:g} and holdout_share {holdout_share:g} leave nothing to train on.",
            "lower one of them.",
        )
    labels = np.array([row.label for row in rows])
    part = np.zeros(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        order = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        test, holdout = max(1, round(test_share * len(order))), max(1, round(holdout_share * len(order)))
        if test + holdout >= len(order):
            raise DataError(
                "images.small-class",
                f"Class {label} has only {len(order)} rows, too few for this split.",
                "lower test_share and holdout_share, or leave the class out.",
            )
        part[order[:test]], part[order[test : test + holdout]] = 1, 2
    train, tested, held = ([row for row, place in zip(rows, part, strict=True) if place == k] for k in range(3))
    return train, tested, held


def draw(rows: Sequence[ImageRow], count: int, seed: int) -> list[ImageRow]:
    """``count`` rows drawn without replacement."""
    if count >= len(rows):
        raise DataError(
            "images.nothing-left",
            f"random:{count} asks for {count} of {len(rows)} training rows; nothing would be kept.",
            "forget fewer rows.",
        )
    chosen = np.random.default_rng([seed, 1 << 32]).choice(len(rows), size=count, replace=False)
    return [rows[int(i)] for i in np.sort(chosen)]
