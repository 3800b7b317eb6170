"""digits and idx: who is trained on, who is forgotten, who was never seen."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from efface.data.benchmarks.digits import Digits
from efface.data.benchmarks.idx import Idx
from efface.data.benchmarks.image_split import distinct, split
from efface.data.rows import ImageRow
from efface.errors import DataError


def ids(rows):
    return {row.id for row in rows}


def test_class_request():
    """183 threes: a fifth rounds to 37, so 37 + 37 unseen and 109 trained on."""
    data = Digits(forget=3).load()
    sizes = {name: len(rows) for name, rows in data.eval.items()}
    assert sizes == {"forget": 109, "retain": 970, "forget_test": 37, "test": 644, "holdout": 37}
    assert sum(sizes.values()) == 1797 and data.facts["classes"] == 10 and data.facts["shape"] == [1, 8, 8]
    threes = {name: {row.label == 3 for row in rows} for name, rows in data.eval.items()}
    assert threes == {"forget": {True}, "retain": {False}, "forget_test": {True}, "test": {False}, "holdout": {True}}
    assert ids(data.train["forget"]) == ids(data.eval["forget"]) and ids(data.train["retain"]) == ids(
        data.eval["retain"]
    )
    trained = ids(data.train["forget"]) | ids(data.train["retain"])
    assert not trained & (ids(data.eval["test"]) | ids(data.eval["holdout"]) | ids(data.eval["forget_test"]))
    row = data.train["forget"][0]
    assert (
        row.pixels.shape == (1, 8, 8)
        and row.pixels.dtype == np.float32
        and 0 <= row.pixels.min() < row.pixels.max() <= 1
    )
    assert row.entity == "digit 3"


def test_random_request():
    data = Digits(forget="random:50").load()
    assert len(data.train["forget"]) == 50 and len({row.label for row in data.train["forget"]}) > 5
    assert "forget_test" not in data.eval and len({row.label for row in data.eval["holdout"]}) == 10
    assert not ids(data.train["forget"]) & ids(data.train["retain"])


def test_same_settings_same_bundle_and_the_seed_matters():
    assert Digits(forget=3).load().digest() == Digits(forget="3").load().digest()
    assert Digits(forget=3).load().digest() != Digits(forget=3, seed=1).load().digest()


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"forget": "three"}, "images.bad-forget"),
        ({"forget": "random:0"}, "images.bad-forget"),
        ({"forget": -1}, "images.bad-forget"),
        ({"forget": 10}, "images.unknown-class"),
        ({"forget": "random:5000"}, "images.nothing-left"),
        ({"test_share": 0.5, "holdout_share": 0.5}, "images.no-training-rows"),
    ],
)
def test_what_cannot_be_asked(settings, code):
    with pytest.raises(DataError, match=code):
        Digits(**settings).load()


def test_small_classes_and_repeated_images():
    rows = [ImageRow(f"r{i}", np.full((1, 2, 2), i, np.float32), 0) for i in range(3)]
    assert [len(part) for part in split(rows, 0.2, 0.2, 0)] == [1, 1, 1]
    with pytest.raises(DataError, match="images.small-class"):
        split(rows[:2], 0.2, 0.2, 0)
    again = ImageRow("again", rows[0].pixels, 0)
    assert [r.id for r in distinct([*rows, again])[0]] == ["r0", "r1", "r2"] and distinct([*rows, again])[1] == 1


# -- idx ---------------------------------------------------------------
def write_idx(folder, count=60, header=None, cut=0, zipped=True, repeat=0):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 3, 4), dtype=np.uint8)
    pixels[count - repeat :] = pixels[:repeat]  # 54 is a multiple of the three classes, so labels agree
    labels = (np.arange(count) % 3).astype(np.uint8)
    image_file = (header or struct.pack(">BBBBIII", 0, 0, 8, 3, count, 3, 4)) + pixels.tobytes()[: count * 12 - cut]
    label_file = struct.pack(">BBBBI", 0, 0, 8, 1, count) + labels.tobytes()
    for name, content in (("train-images-idx3-ubyte", image_file), ("train-labels-idx1-ubyte", label_file)):
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    return pixels


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_reads_what_was_written(tmp_path, zipped):
    pixels = write_idx(tmp_path, zipped=zipped)
    data = Idx(path=str(tmp_path), forget=1).load()
    found = {row.id: row for rows in data.eval.values() for row in rows}
    assert len(found) == 60 and data.facts["shape"] == [1, 3, 4] and data.facts["classes"] == 3
    row = found["idx-000007"]
    assert row.label == 1 and row.entity == "class 1"
    np.testing.assert_allclose(row.pixels[0], pixels[7] / 255, rtol=1e-6)
    few = Idx(path=str(tmp_path), forget=1, rows=30).load()
    assert sum(len(rows) for rows in few.eval.values()) == 30


def test_idx_drops_repeated_images(tmp_path):
    """An image that came twice could be trained on and held out at once."""
    write_idx(tmp_path, repeat=6)
    data = Idx(path=str(tmp_path), forget=1).load()
    assert sum(len(rows) for rows in data.eval.values()) == 54 and data.facts["repeated_rows"] == 6


def test_idx_files_that_lie(tmp_path):
    huge = struct.pack(">BBBBIII", 0, 0, 8, 3, 60, 1 << 31, 1 << 31)
    for options in ({"header": huge}, {"header": b"P5 12 not idx...."}, {"cut": 5}):
        write_idx(tmp_path, **options)
        with pytest.raises(DataError, match="idx.bad-file"):
            Idx(path=str(tmp_path), forget=1).load()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(DataError, match="idx.bad-file"):
        Idx(path=str(tmp_path), forget=1).load()
    for settings in ({"path": str(tmp_path / "nowhere")}, {}):
        with pytest.raises(DataError, match="idx.missing-file|idx.no-path"):
            Idx(**settings).load()
