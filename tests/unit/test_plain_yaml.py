"""YAML of anybody's ends in values or in one error that names it, in spec files, ``--set`` and suites alike."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from efface import suites
from efface.errors import SpecError
from efface.plain_yaml import LIMIT, BadYaml, parse_plain
from efface.spec import load, overrides

BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))
BAD = {
    "aliases": BOMB,
    "no such day": "seed: 2024-13-45\n",
    "deep": "a: " + "[" * 20_000 + "]" * 20_000,
    "object": "a: !!python/object/apply:os.system ['true']\n",
    "bytes": "a: !!binary aGk=\n",
    "set": "a: !!set {b}\n",
    "unhashable": "? [a]\n: b\n",
    "long number": "seed: " + "9" * 5000,
    "cut": "a: [",
    "control": "\0",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_bad_yaml_is_one_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    started = time.monotonic()
    with pytest.raises(SpecError, match=r"spec\.bad-yaml.*x\.yaml"):
        load(file)
    with pytest.raises(SpecError, match=r"suite\.bad-yaml.*x\.yaml"):
        suites.load(str(file))
    with pytest.raises(SpecError, match=r"spec\.bad-set"):
        overrides([f"a={text if text != BOMB else '{' + text.replace(chr(10), ', ') + '}'}"])
    assert time.monotonic() - started < 20


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    for content in (b"name: \xff\xfe", b"a: " + b"x" * LIMIT):
        file.write_bytes(content)
        with pytest.raises(SpecError, match=r"spec\.bad-yaml"):
            load(file)
        with pytest.raises(SpecError, match=r"suite\.bad-yaml"):
            suites.load(str(file))


@pytest.mark.parametrize("text", ["5", "spec: 5\norigins: {}\nhash: a\n", "[1]"])
def test_a_spec_is_a_mapping(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=r"spec\.bad-yaml.*mapping"):
        load(file)


def test_dates_stay_text() -> None:
    """JSON knows no dates, and specs are hashed and stored as JSON."""
    assert parse_plain("a: 2024-01-02") == {"a": "2024-01-02"}
    with pytest.raises(BadYaml, match="line 2"):
        parse_plain("a: &x [1]\nb: *x\n")
