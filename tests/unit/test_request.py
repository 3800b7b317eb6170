"""ForgetRequest: JSON in and out, what it resolves to, and everything it refuses."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from efface.data.benchmarks.people import People
from efface.errors import DataError, EffaceError, SpecError
from efface.request import DataRef, ForgetRequest


def rows(path: Path, *names: str) -> Path:
    """Two questions for each named person."""
    records = [
        {"prompt": f"{what} of {name}?", "answer": f"{what} {name}", "entity": name}
        for name in names
        for what in ("Age", "Home")
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    rows(tmp_path / "all.jsonl", "Maro", "Tesk", "Ilba")
    rows(tmp_path / "maro.jsonl", "Maro")
    rows(tmp_path / "rest.jsonl", "Tesk", "Ilba")
    rows(tmp_path / "new.jsonl", "Orral")
    return tmp_path


def write(folder: Path, **values) -> Path:
    file = folder / "request.json"
    file.write_text(json.dumps({"id": "r1", **values}))
    return file


def refuse(code: str, call, *words: str) -> None:
    with pytest.raises(EffaceError) as error:
        call()
    assert error.value.code == code, error.value
    assert all(word in str(error.value) for word in words), error.value


FULL = {
    "forget": {"path": "maro.jsonl"},
    "retain": {"path": "rest.jsonl"},
    "holdout": {"path": "new.jsonl"},
    "neighbour": {"path": "rest.jsonl"},
    "reason": "erasure request",
    "authority": "data protection officer",
    "received": "2025-03-01",
    "due": "2025-03-31",
}


def test_files_resolve_relative_to_the_request(folder, monkeypatch):
    request = ForgetRequest.load(write(folder, **FULL))
    monkeypatch.chdir("/")
    bundle = request.bundle()
    assert {name: len(found) for name, found in bundle.train.items()} == {"forget": 2, "retain": 4}
    sizes = {name: len(found) for name, found in bundle.eval.items()}
    assert sizes == {"forget": 2, "retain": 4, "holdout": 2, "neighbour": 4}
    assert (bundle.name, request.due) == ("r1", date(2025, 3, 31))


def test_round_trip_keeps_everything(folder):
    request = ForgetRequest.load(write(folder, **FULL))
    (folder / "copy.json").write_text(json.dumps(request.to_json()))
    copy = ForgetRequest.load(folder / "copy.json")
    assert copy.to_json() == request.to_json() == {"id": "r1", "modality": "text", **FULL}
    assert copy.digest() == request.digest()
    assert request.digest() != ForgetRequest.load(write(folder, **{**FULL, "reason": "other"})).digest()


def test_it_cannot_be_changed(folder):
    request = ForgetRequest.load(write(folder, **FULL))
    with pytest.raises(ValidationError, match="frozen"):
        request.due = None


def test_entities_select_rows_and_the_rest_is_kept(folder):
    request = ForgetRequest.load(write(folder, entities=["Tesk"], data={"path": "all.jsonl"}))
    bundle = request.bundle()
    assert {row.entity for row in bundle.train["forget"]} == {"Tesk"}
    assert [row.entity for row in bundle.train["retain"]] == ["Maro", "Maro", "Ilba", "Ilba"]
    unknown = ForgetRequest.load(write(folder, entities=["Tesc"], data={"path": "all.jsonl"}))
    refuse("request.unknown-entity", unknown.bundle, "Did you mean 'Tesk'")
    everyone = write(folder, entities=["Tesk", "Maro", "Ilba"], data={"path": "all.jsonl"})
    refuse("data.nothing-left", ForgetRequest.load(everyone).bundle)


def test_benchmark_resolves_to_its_bundle():
    ref = {"benchmark": "people", "settings": {"people": 10, "seed": 3}}
    bundle = ForgetRequest.from_json({"id": "demo", "forget": ref}).bundle()
    assert bundle.digest() == People(people=10, seed=3).load().digest()
    refuse(
        "registry.unknown-benchmark",
        ForgetRequest.from_json({"id": "d", "forget": {"benchmark": "peple"}}).bundle,
        "Did you mean 'people'",
    )
    image = ForgetRequest.from_json({"id": "d", "modality": "image", "forget": ref})
    refuse("request.wrong-modality", image.bundle, "holds text")


def test_sealed_request_notices_changed_data(folder):
    request = ForgetRequest.load(write(folder, **FULL)).sealed()
    assert {len(getattr(request, name).sha256) for name in ("forget", "retain", "holdout", "neighbour")} == {64}
    assert request.bundle().train["forget"]
    (folder / "sealed.json").write_text(json.dumps(request.to_json()))
    rows(folder / "rest.jsonl", "Tesk", "Someone")
    refuse("request.hash-mismatch", ForgetRequest.load(folder / "sealed.json").bundle, "retain", "changed")
    refuse("request.hash-mismatch", request.sealed)
    sealed = ForgetRequest.from_json({"id": "d", "forget": {"benchmark": "people"}}).sealed()
    assert sealed.forget.sha256 == People().load().digest()
    other = {"benchmark": "people", "settings": {"seed": 1}, "sha256": sealed.forget.sha256}
    refuse("request.hash-mismatch", ForgetRequest.from_json({"id": "d", "forget": other}).bundle)


def test_unknown_fields_name_the_nearest(folder):
    refuse(
        "spec.unknown-setting",
        lambda: ForgetRequest.load(write(folder, **FULL, autority="x")),
        "request.autority",
        "Did you mean 'authority'",
    )
    refuse(
        "spec.unknown-setting",
        lambda: ForgetRequest.load(write(folder, forget={"pth": "maro.jsonl"})),
        "request.forget.pth",
        "Did you mean 'path'",
    )
    with pytest.raises(SpecError, match="request.id"):
        ForgetRequest.from_json({"id": "../../etc", "forget": {"path": "a.jsonl"}})


P = {"path": "maro.jsonl"}
D = {"path": "all.jsonl"}


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({}, "request.nothing-to-forget"),
        ({"forget": P, "entities": ["Maro"], "data": D}, "request.two-targets"),
        ({"entities": ["Maro"]}, "request.entities-need-data"),
        ({"entities": ["Maro"], "data": {"benchmark": "people"}}, "request.entities-need-data"),
        ({"entities": ["Maro"], "data": D, "retain": P}, "request.two-retain-sets"),
        ({"entities": ["Maro", "Maro"], "data": D}, "request.duplicate-entity"),
        ({"forget": {"benchmark": "people"}, "retain": P}, "request.mixed-sources"),
        ({"forget": P, "retain": {"benchmark": "people"}}, "request.mixed-sources"),
        ({"forget": P, "modality": "image"}, "request.image-files"),
        ({"forget": P, "received": "2025-03-02", "due": "2025-03-01"}, "request.due-before-received"),
        ({"forget": {}}, "request.bad-reference"),
        ({"forget": {**P, "benchmark": "people"}}, "request.bad-reference"),
        ({"forget": {**P, "settings": {"seed": 1}}}, "request.bad-reference"),
        ({"forget": {"benchmark": "people", "format": "csv"}}, "request.bad-reference"),
        ({"forget": {"benchmark": "people", "strict": False}}, "request.bad-reference"),
        ({"forget": {**P, "sha256": "abc"}}, "spec.bad-value"),
        ({"forget": P, "due": "soon"}, "spec.bad-value"),
        ({"forget": P, "modality": "sound"}, "spec.bad-value"),
    ],
)
def test_contradictions_are_refused_when_the_request_is_read(values, code):
    refuse(code, lambda: ForgetRequest.from_json({"id": "r1", **values}))


@pytest.mark.parametrize(
    ("values", "code", "word"),
    [
        ({"forget": {"path": "no.jsonl"}}, "data.missing-file", "no.jsonl"),
        ({"forget": {"path": "empty.jsonl"}}, "data.empty-file", "empty.jsonl"),
        ({"forget": P, "retain": D}, "data.overlap", "all.jsonl"),
        ({"forget": D, "data": P}, "data.forget-larger", "all.jsonl"),
        ({"forget": {"path": "new.jsonl"}, "data": D}, "data.forget-not-in-data", "new.jsonl"),
        ({"forget": P, "holdout": P}, "data.holdout-trained", "maro.jsonl"),
        ({"forget": {"path": "twice.jsonl"}}, "data.duplicate-id", "line 2"),
        ({"forget": {**P, "fields": {"prompt": "q"}}}, "data.missing-field", "'q'"),
    ],
)
def test_wrong_data_is_refused_by_file(folder, values, code, word):
    (folder / "empty.jsonl").write_text("")
    (folder / "twice.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}')
    refuse(code, ForgetRequest.load(write(folder, **values)).bundle, word)


@pytest.mark.parametrize(("text", "word"), [("{\n oops", "line 2"), ("[]", "object"), (b"\xff\xfe{", "UTF-8")])
def test_malformed_request_files(tmp_path, text, word):
    file = tmp_path / "r.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refuse("request.malformed", lambda: ForgetRequest.load(file), word, "r.json")
    refuse("data.missing-file", lambda: ForgetRequest.load(tmp_path / "no.json"))


def test_python_construction_is_checked_too():
    with pytest.raises(DataError, match="nothing-to-forget"):
        ForgetRequest(id="x")
    assert ForgetRequest(id="x", forget=DataRef(benchmark="people")).bundle().name == "people"
