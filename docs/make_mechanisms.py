"""Writes docs/mechanisms.md: which test shows the mechanism of which method. Run it after marking one.

    python docs/make_mechanisms.py            # write the page
    python docs/make_mechanisms.py --check    # fail if it is out of date

A test is marked with ``@pytest.mark.mechanism("npo", "reference log-probs")``; ``kind="loss"`` for a loss computed by
hand, ``kind="equality"`` for an identity that the papers state. Marks are read from the source; nothing is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
KINDS = {"removal": "fails without the mechanism", "loss": "loss by hand", "equality": "equality"}
HEAD = """# Mechanism tests

Generated from the marks of the tests by `python docs/make_mechanisms.py`. A method works when its mechanism is there:
tests in the first column fail when it is taken out, those in the second compute the loss on paper, those in the third
check identities that the papers state.

Every method besides: the conformance battery (`tests/conformance`: refusals, finite weights, falling forget likelihood,
labels that are read, 8 x 1 equals 1 x 8, same seed same bits, strength 0 is the target, save and load), full weights,
blocks, modules, saliency mask and LoRA (`tests/unit/test_mechanisms_selectors.py`), and the signature of its family
(`tests/unit/test_signatures.py`).
"""


@dataclass(frozen=True)
class Mark:
    """One mark: method, what it shows, its kind, and the test."""

    method: str
    what: str
    kind: str
    test: str


def marks(folder: Path = TESTS) -> list[Mark]:
    """All marks of the test files, in the order of files and lines."""
    return [mark for path in sorted(folder.rglob("test_*.py")) for mark in _in_file(path, folder)]


def _in_file(path: Path, folder: Path) -> Iterator[Mark]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.mechanism":
                    yield _mark(decorator, f"{path.relative_to(folder)}::{node.name}")


def _mark(call: ast.Call, test: str) -> Mark:
    values = [ast.literal_eval(arg) for arg in call.args]
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    if len(values) != 2 or set(named) - {"kind"} or named.get("kind", "removal") not in KINDS:
        raise SystemExit(f"{test}: mechanism(method, what, kind) with kind one of {', '.join(KINDS)}.")
    return Mark(*values, named.get("kind", "removal"), test)


def page(found: list[Mark]) -> str:
    """The page: one line a method."""
    lines = [HEAD, "| method | " + " | ".join(KINDS.values()) + " |", "|---|" + "---|" * len(KINDS)]
    for method in sorted({mark.method for mark in found}):
        cells = (_cell([m for m in found if m.method == method and m.kind == kind]) for kind in KINDS)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: list[Mark]) -> str:
    return "<br>".join(f"{mark.what.replace('|', chr(92) + '|')} (`{mark.test}`)" for mark in found) or "-"


if __name__ == "__main__":
    text, place = page(marks()), HERE / "mechanisms.md"
    stale = not place.is_file() or place.read_text(encoding="utf-8") != text
    if "--check" in sys.argv:
        sys.exit("docs/mechanisms.md is out of date: run python docs/make_mechanisms.py" if stale else 0)
    place.write_text(text, encoding="utf-8")
