"""docs/errors.md: every code with its cause and fix, read from the source; one code, one meaning."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import make_errors  # noqa: E402

ERRORS = '''
class EffaceError(Exception):
    """Base of all."""
    exit_code = 1

class SpecError(EffaceError):
    """A setting is wrong."""

class RunFailed(EffaceError):
    """The run failed."""
    exit_code = 2

def nearest(name, known): ...
'''
PART = """
from made_up.texts import AGAIN

LIMIT = 8

def refuse(name, path, count, error):
    raise SpecError("part.one", f"{path}: there is no {name!r} (at most {LIMIT}, got {len(count)}).", nearest(name, ()))

def failed(self, rows):
    cause = f"{self.rows.count} of " + f"{rows + 1} rows, a {type(rows).__name__}."
    return RunFailed(code="part.two", cause=cause, fix=AGAIN)

def overlap(one, code="part.same"):
    raise SpecError(code, f"{one} is there twice.", "decide | choose." if one else "remove one.")

def overlaps():
    overlap("a", "part.other")
    overlap("b")
    overlap("c", code="part.third")
    KeyError("part.no", "not one of ours", "")

def one_of(text, option):
    raise SpecError(f"part.bad-{option}", f"--{option} cannot be {text!r}.", "look it up.")

def chosen(text):
    one_of(text, "unit")

def broken(cause):
    return SpecError("part.broken", cause, "fetch it again.")

def reading(path):
    broken(f"{path / 'a.json'} is empty")
    broken("it is odd")
"""


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    root = tmp_path / "made_up"
    root.mkdir()
    for name, text in {"errors": ERRORS, "part": PART, "texts": 'AGAIN = "run it again."'}.items():
        (root / f"{name}.py").write_text(text)
    return root


def test_page_is_up_to_date() -> None:
    script = str(DOCS / "make_errors.py")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stderr.strip()}; run python docs/make_reference.py"


def test_a_code_means_one_thing() -> None:
    """The same code in two places is one kind of error, of one class; every place says what to do."""
    found = make_errors.places()
    kinds = defaultdict(set)
    for place in found:
        kinds[place.code].add(place.kind)
    assert len(kinds) > 190
    assert {code: sorted(names) for code, names in kinds.items() if len(names) > 1} == {}
    pattern = re.compile(r"[a-z][a-z0-9_-]*\.[a-z0-9-]+(-\{kind\})?")
    assert [p for p in found if not pattern.fullmatch(p.code)] == []
    assert [p for p in found if not p.cause or not p.fix] == []


def test_codes_that_users_meet_are_there() -> None:
    codes = {place.code for place in make_errors.places()}
    assert {
        "suite.bad-label", "artifact.no-provider", "data.overlap", "data.holdout-trained", "data.neighbour-forgotten",
        "registry.unknown-{kind}", "train.non-finite", "disk.full", "record.bad-file", "cli.usage", "efface.defect",
    } <= codes  # fmt: skip


def test_what_is_read_from_a_source(made_up: Path) -> None:
    """Texts with names for values, constants of this and another file, codes and causes that callers hand over."""
    assert make_errors.classes(made_up) == {
        "EffaceError": ("Base of all.", 1),
        "SpecError": ("A setting is wrong.", 1),
        "RunFailed": ("The run failed.", 2),
    }
    found = {(p.code, p.kind, p.cause, p.fix) for p in make_errors.places(made_up)}
    twice = "decide | choose. or remove one."
    assert found == {
        ("part.one", "SpecError", "{path}: there is no {name} (at most 8, got {number of count}).",
         "{the nearest known name, and all of them}"),
        ("part.two", "RunFailed", "{count} of {rows + 1} rows, a {class of rows}.", "run it again."),
        ("part.same", "SpecError", "{one} is there twice.", twice),
        ("part.other", "SpecError", "{one} is there twice.", twice),
        ("part.third", "SpecError", "{one} is there twice.", twice),
        ("part.bad-unit", "SpecError", "--unit cannot be {text}.", "look it up."),
        ("part.broken", "SpecError", "{path}/a.json is empty", "fetch it again."),
        ("part.broken", "SpecError", "it is odd", "fetch it again."),
    }  # fmt: skip


def test_page_of_a_source(made_up: Path) -> None:
    page = make_errors.page(made_up)
    assert "| `RunFailed` | The run failed. | 2 |" in page and "\n## part\n" in page
    assert "| `part.same` | SpecError | {one} is there twice. | decide \\| choose. or remove one. |" in page
