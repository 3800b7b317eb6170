"""Every language method has a test of its mechanism, and docs/mechanisms.md lists them all."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from efface.methods.base import METHODS, LossMethod

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "make_mechanisms.py"
LANGUAGE = [name for name, cls in METHODS.items() if "causal_lm" in cls.families]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_mechanisms", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_mechanisms"] = module
    spec.loader.exec_module(module)
    return module


MARKS = script().marks()


@pytest.mark.parametrize("name", LANGUAGE)
def test_every_language_method_has_a_mechanism_test(name: str) -> None:
    """One that fails without the mechanism; methods that are a loss also have it computed by hand."""
    kinds = {mark.kind for mark in MARKS if mark.method == name}
    assert "removal" in kinds, f"mark a test with @pytest.mark.mechanism({name!r}, what it shows)"
    cls = METHODS.get(name)
    assert "loss" in kinds or not issubclass(cls, LossMethod), f"{name}: no loss computed by hand"


def test_marks_name_methods_that_exist() -> None:
    assert {mark.method for mark in MARKS} <= set(METHODS.names())


def test_page_is_up_to_date() -> None:
    found = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr.strip()


def test_a_malformed_mark_is_refused(tmp_path: Path) -> None:
    """A third argument or an unknown kind would be lost silently."""
    for call in ('"npo", "a", "b"', '"npo", "a", kind="lost"', '"npo"'):
        (tmp_path / "test_x.py").write_text(f"import pytest\n\n@pytest.mark.mechanism({call})\ndef test_x(): ...\n")
        with pytest.raises(SystemExit, match="test_x"):
            script().marks(tmp_path)
    (tmp_path / "test_x.py").write_text('import pytest\n\n@pytest.mark.mechanism("npo", "a | b")\ndef test_x(): ...\n')
    assert "a \\| b (`test_x.py::test_x`)" in script().page(script().marks(tmp_path))
