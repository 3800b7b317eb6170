"""Every kind of artifact is defined; one that nothing provides is refused by name, never taken for another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from efface.artifact import CLASSES, KINDS, Artifact, artifact_class
from efface.errors import NeedsError, SpecError


def saved(folder: Path, kind: str) -> Path:
    (folder / "artifact.json").write_text(json.dumps({"kind": kind, "target": "ab", "method": "m", "config": {"k": 1}}))
    return folder


def test_retrieval_guard_has_no_provider(tmp_path: Path) -> None:
    """The kind is known, so a record may name it; loading one says what is missing."""
    assert "retrieval_guard" in KINDS
    for load in (lambda: Artifact.load(saved(tmp_path, "retrieval_guard")), lambda: artifact_class("retrieval_guard")):
        with pytest.raises(NeedsError, match="retrieval_guard") as caught:
            load()
        assert caught.value.code == "artifact.no-provider" and "plug-in" in caught.value.fix


def test_every_other_kind_has_one() -> None:
    assert {kind for kind in KINDS if artifact_class_or_none(kind)} == set(KINDS) - {"retrieval_guard"}


def artifact_class_or_none(kind: str) -> type[Artifact] | None:
    try:
        return artifact_class(kind)
    except NeedsError:
        return None


def test_a_plug_in_provides_it_by_subclassing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact_class("weights")  # the built-in kinds are registered
    monkeypatch.setattr("efface.artifact.CLASSES", CLASSES | {})

    class Guard(Artifact):
        kind = "retrieval_guard"

    found = Artifact.load(saved(tmp_path, "retrieval_guard"))
    assert type(found) is Guard and found.config == {"k": 1} and found.target == "ab"


def test_an_unknown_kind_is_another_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="weights") as caught:
        Artifact.load(saved(tmp_path, "weigths"))
    assert caught.value.code == "artifact.unknown-kind"
