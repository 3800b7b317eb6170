"""The generated reference pages say what the Cards say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_reference_pages_are_up_to_date() -> None:
    found = subprocess.run(
        [sys.executable, str(DOCS / "make_reference.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, f"{found.stderr.strip()}; run python docs/make_reference.py"
