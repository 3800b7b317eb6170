"""The generated reference pages say what the Cards say, and there is one for every metric and for nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from efface import api

DOCS = Path(__file__).resolve().parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import make_reference  # noqa: E402


def test_reference_pages_are_up_to_date() -> None:
    found = subprocess.run(
        [sys.executable, str(DOCS / "make_reference.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, f"{found.stderr.strip()}; run python docs/make_reference.py"


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    pages = {"metrics.md": "index\n", "metrics/one.md": "one\n", "metrics/two.md": "two\n"}
    make_reference.write(tmp_path, pages)
    return tmp_path, pages


def test_written_pages_are_current(made) -> None:
    folder, pages = made
    assert make_reference.stale(folder, pages) == [] and make_reference.left_over(folder, pages) == []


def test_changed_and_missing_pages_are_stale(made) -> None:
    folder, pages = made
    (folder / "metrics/one.md").write_text("something else\n")
    (folder / "metrics/two.md").unlink()
    assert make_reference.stale(folder, pages) == ["metrics/one.md", "metrics/two.md"]


def test_a_page_whose_metric_is_gone_is_left_over_and_removed(made) -> None:
    folder, pages = made
    (folder / "metrics/gone.md").write_text("gone\n")
    assert make_reference.left_over(folder, pages) == ["metrics/gone.md"]
    make_reference.write(folder, pages)
    assert not (folder / "metrics/gone.md").exists() and (folder / "metrics/one.md").read_text() == "one\n"


@pytest.mark.parametrize("found", ["stale", "left_over"])
def test_check_says_which_page(monkeypatch: pytest.MonkeyPatch, made, found: str) -> None:
    folder, pages = made
    monkeypatch.setattr(make_reference, "HERE", folder)
    monkeypatch.setattr(make_reference, "pages", lambda: pages)
    make_reference.main(["--check"])
    name = "one" if found == "stale" else "gone"
    (folder / f"metrics/{name}.md").write_text("?\n")
    with pytest.raises(SystemExit, match=f"{found.replace('_', ' ').replace('stale', 'out of date')}: metrics/{name}"):
        make_reference.main(["--check"])


def test_every_metric_has_its_page_and_its_line() -> None:
    pages = make_reference.pages()
    names = [name for name, _ in api.registry("metrics").items()]
    assert {make_reference.place(name) for name in names} == {p for p in pages if p.startswith("metrics/")}
    for name in names:
        assert pages["metrics.md"].count(f"- [{name}]({make_reference.place(name)}): ") == 1


def test_a_page_says_formula_directions_target_needs_source_and_what_fools_it() -> None:
    pages = make_reference.pages()
    page = pages["metrics/probability.md"]
    parts = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert parts[:6] == ["Formula", "Direction", "Target", "Needs", "Source", "Code"]
    assert parts[-2:] == ["What fools it", "What was tested"]
    assert "any other set: higher is better" in page and "`forget`" in page
    assert "- log-probs of given answers of the reference, `forget`" in pages["metrics/forget_quality.md"]
    assert "`forget`: higher is better" in pages["metrics/forget_quality.md"]
