"""Which unfinished run a command goes on with, and what of it is cleared before it is written again."""

from __future__ import annotations

from pathlib import Path

import pytest

from efface import build, pipeline
from efface.errors import RunFailed
from efface.models import sources
from efface.models.sources import ResolvedModel
from efface.runs.layout import RunDir
from efface.spec import Resolved, resolve
from efface.testing.bench import TEXT, bench

NONE = {"kind": "none"}


@pytest.fixture
def spec(tmp_path: Path) -> Resolved:
    own = {"target": NONE, "reference": NONE, "audit": {"suite": "people", "attacks": []}, "out": str(tmp_path)}
    return resolve(("python", TEXT), ("test", own))


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every audit breaks off after it has written a curve; what was there before it, one list a try."""
    found: list[list[str]] = []

    def broken(spec, data, made, unlearned, folder, progress):
        found.append([n for n in ("attacks", "tables", "samples") if (folder / n).exists()])
        (folder / "attacks" / "old").mkdir(parents=True)
        raise RunFailed("test.stopped", "It stopped.", "go on.")

    monkeypatch.setattr(pipeline.auditing, "run", broken)
    return found


def broken_off(folder: Path, spec: Resolved) -> set[str]:
    with pytest.raises(RunFailed, match=r"test\.stopped"):
        pipeline.audit(folder, spec)
    return {path.name for path in Path(spec.spec.out).iterdir()}


def test_an_audit_goes_on_with_the_run_of_the_same_model_alone(spec: Resolved, left: list) -> None:
    models = bench().made
    first = broken_off(models["target"].folder, spec)
    both = broken_off(models["reference"].folder, spec)
    assert len(first) == 1 and len(both) == 2
    assert broken_off(models["target"].folder, spec) == both
    assert RunDir.find_resumable(Path(spec.spec.out), spec.hash) is None  # `unlearn` takes none of them over


def test_what_an_earlier_try_left_is_cleared(spec: Resolved, left: list) -> None:
    for _ in range(2):
        broken_off(bench().made["target"].folder, spec)
    assert left == [[], []]


def test_the_revision_of_a_model_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which commit of the hub, or which GGUF file, a model came from."""
    found = ResolvedModel(tmp_path, "a/b", "hub", "ab" * 32, "c0ffee")
    monkeypatch.setattr(sources, "resolve", lambda name, progress: found)
    spec = resolve(("test", {"model": {"name": "a/b"}})).spec
    told = build.base(spec, None).to_json()
    assert told == {"origin": "hub", "key": "ab" * 32, "made": None, "revision": "c0ffee"}
