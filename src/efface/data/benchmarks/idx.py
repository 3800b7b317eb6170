"""idx: a folder of labelled images in the format of MNIST (idx-ubyte files, gzipped or not), such as Fashion-MNIST."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from efface.card import Card
from efface.data.benchmarks.base import benchmark
from efface.data.benchmarks.image_split import ImageBenchmark, SplitSettings
from efface.data.rows import ImageRow
from efface.errors import DataError
from efface.settings import setting

CARD = Card(
    title="Images in MNIST's format",
    source="idx-ubyte format as described with MNIST (LeCun et al. 1998)",
    summary="A folder with train-images-idx3-ubyte and train-labels-idx1-ubyte (or .gz), such as Fashion-MNIST.",
    derived=("the files' own test part is not read: rows are split class by class like every image benchmark",),
)
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
LIMIT = 1 << 31  # bytes of pixels that are read at most


@benchmark("idx", CARD)
class Idx(ImageBenchmark):
    """One row per image: pixels Float32[1, height, width] in [0, 1]."""

    class Settings(SplitSettings):
        path: str = setting("", "folder with the idx files")
        rows: int = setting(5000, "most rows taken, from the start of the files", ge=20)

    def rows(self) -> list[ImageRow]:
        """The first ``rows`` images."""
        if not self.settings.path:
            raise DataError(
                "idx.no-path",
                "No folder is given for the images.",
                "set data.settings.path to a folder with idx files.",
            )
        folder = Path(self.settings.path)
        images, labels = (
            _read(_find(folder, IMAGES), 3, self.settings.rows),
            _read(_find(folder, LABELS), 1, self.settings.rows),
        )
        if len(images) != len(labels):
            raise DataError(
                "idx.lengths-differ",
                f"{folder} has {len(images)} images and {len(labels)} labels.",
                "fetch the files again.",
            )
        return [
            ImageRow(f"idx-{i:06d}", (pixels / 255).astype(np.float32)[None], int(label), entity=f"class {label}")
            for i, (pixels, label) in enumerate(zip(images, labels, strict=True))
        ]


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(
        "idx.missing-file",
        f"{folder} has neither {name} nor {name}.gz.",
        "point data.settings.path at the folder that has both.",
    )


def _read(path: Path, dimensions: int, most: int) -> np.ndarray:
    """UInt8[n, ...] with n at most ``most``. Reads no more than it needs, whatever the header claims."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
                raise _bad(path, f"its header is not that of {dimensions}-dimensional bytes")
            shape = np.frombuffer(head[4:], ">u4").astype(int).tolist()
            shape[0] = min(shape[0], most)
            size = int(np.prod(shape, dtype=object))
            if size > LIMIT or not size:
                raise _bad(path, f"its header claims {' x '.join(map(str, shape))} values")
            body = file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise _bad(path, f"it cannot be read ({error})") from error
    if len(body) < size:
        raise _bad(path, f"it ends after {len(body)} of {size} values")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _bad(path: Path, why: str) -> DataError:
    return DataError("idx.bad-file", f"{path} is not an idx file of images and labels: {why}.", "fetch the file again.")
