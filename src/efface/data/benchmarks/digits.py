"""digits: 1,797 real handwritten digits of 8x8 pixels that come with scikit-learn. Needs no files."""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.data.benchmarks.base import benchmark
from efface.data.benchmarks.image_split import ImageBenchmark
from efface.data.rows import ImageRow

CARD = Card(
    title="Handwritten digits (8x8)",
    source="UCI, Optical Recognition of Handwritten Digits (test part), as shipped in scikit-learn (load_digits)",
    summary="1,797 grey images of ten classes; one class or random rows are forgotten.",
    confirmed=("1,797 rows of 8x8 pixels with values 0 to 16, about 180 a class; no two images are the same",),
    derived=("split class by class: 60% training, 20% test, 20% holdout",),
    fooled_by=(
        "models generalise so well here that membership attacks sit at chance: forget random rows of an "
        "overfitted model to see them at all",
    ),
)


@benchmark("digits", CARD)
class Digits(ImageBenchmark):
    """One row per image: pixels Float32[1, 8, 8] in [0, 1], label 0 to 9, the digit as entity."""

    def rows(self) -> list[ImageRow]:
        """All 1,797 images in scikit-learn's order."""
        from sklearn.datasets import load_digits

        data = load_digits()
        images = (data.images / 16).astype(np.float32)[:, None]
        return [
            ImageRow(f"digits-{i:04d}", pixels, int(label), entity=f"digit {label}")
            for i, (pixels, label) in enumerate(zip(images, data.target, strict=True))
        ]
