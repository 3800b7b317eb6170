"""Checks between sets, and the benchmark of a user's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from efface.data.benchmarks.files import Files
from efface.data.checks import check_bundle, check_disjoint, check_unique, check_within
from efface.data.rows import Bundle, Row
from efface.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(path: Path, records: list[dict]) -> Path:
    return write(path, "\n".join(json.dumps(record, ensure_ascii=False) for record in records))


def refuse(code: str, call, *words: str) -> DataError:
    with pytest.raises(DataError) as error:
        call()
    assert error.value.code == code, error.value
    assert all(word in str(error.value) for word in words), error.value
    assert error.value.cause and error.value.fix
    return error.value


# -- checks between sets ---------------------------------------------------------------------------------------------
A, B, C, D = (Row(name, f"answer {name}", f"question {name}") for name in "abcd")


def test_overlap_ignores_ids_and_white_space():
    same = Row("z", " answer  a", "question a ")
    refuse("data.overlap", lambda: check_disjoint([A, B], [same, C], "f.jsonl", "r.csv"), "a = z", "f.jsonl", "r.csv")
    check_disjoint([A], [Row("a2", "answer a", "another question")], "forget", "retain")


def test_forget_must_be_a_proper_part_of_the_data():
    check_within([A], [A, B])
    refuse("data.forget-larger", lambda: check_within([A, B, C], [A, B]), "3 rows")
    refuse("data.forget-not-in-data", lambda: check_within([A, D], [A, B, C]), ": d.")
    refuse("data.nothing-left", lambda: check_within([B, A], [A, B]))


def test_bundle_checks():
    def bundle(train, evals=()):
        return Bundle("x", "text", train, dict(evals))

    check_bundle(bundle({"forget": (A,), "retain": (B,)}, {"forget": (A,), "holdout": (C,), "neighbour": (B,)}))
    refuse("data.empty-forget", lambda: check_bundle(bundle({"forget": (), "retain": (B,)})))
    refuse("data.overlap", lambda: check_bundle(bundle({"forget": (A,), "retain": (A, B)})))
    refuse("data.duplicate-id", lambda: check_unique([A, A], "the forget set"), "the forget set: a")
    refuse("data.id-conflict", lambda: check_bundle(bundle({"forget": (A,), "retain": (Row("a", "x", "y"),)})), "'a'")
    refuse("data.holdout-trained", lambda: check_bundle(bundle({"forget": (A,), "retain": (B,)}, {"holdout": (B, C)})))
    refuse("data.holdout-trained", lambda: check_bundle(bundle({"forget": (A,)}, {"passages_holdout": (A,)})))
    refuse("data.neighbour-forgotten", lambda: check_bundle(bundle({"forget": (A,)}, {"neighbour": (A,)})))


# -- benchmark "files" -----------------------------------------------------------------------------------------------
def qa(*names: str, **more) -> list[dict]:
    return [{"prompt": f"q {name}", "answer": f"a {name}", **more} for name in names]


def test_files_make_a_bundle_and_train_without_scoring_columns(tmp_path):
    forget = lines(tmp_path / "f.jsonl", qa("1", wrong=["w"], paraphrase="p"))
    retain = write(tmp_path / "r.csv", "prompt,answer\nq 2,a 2\nq 3,a 3\n")
    pq.write_table(pa.Table.from_pylist(qa("4")), tmp_path / "h.parquet")
    near = lines(tmp_path / "n.jsonl", qa("2"))
    unseen = tmp_path / "h.parquet"
    bundle = Files(forget=str(forget), retain=str(retain), holdout=str(unseen), neighbour=str(near)).load()
    assert {k: len(v) for k, v in bundle.eval.items()} == {"forget": 1, "retain": 2, "holdout": 1, "neighbour": 1}
    assert bundle.eval["forget"][0].wrong == ("w",) and bundle.train["forget"][0].wrong == ()
    assert bundle.train["forget"][0].paraphrase == "" and bundle.train["forget"][0].id == bundle.eval["forget"][0].id


def test_files_keep_the_rest_of_the_data(tmp_path):
    forget, data = lines(tmp_path / "f.jsonl", qa("1")), lines(tmp_path / "d.jsonl", qa("0", "1", "2"))
    bundle = Files(forget=str(forget), data=str(data)).load()
    assert [row.prompt for row in bundle.train["retain"]] == ["q 0", "q 2"]
    alone = Files(forget=str(forget)).load()
    assert alone.train["retain"] == () and "retain" not in alone.eval and alone.facts["retain"] == "none"


def test_files_refuse_by_file_name(tmp_path):
    one, two, many = (lines(tmp_path / f"{n}.jsonl", qa(*n)) for n in ("a", "b", "abc"))
    paths = {"forget": str(many), "data": str(one)}
    refuse("data.forget-larger", lambda: Files(**paths).load(), "abc.jsonl", "a.jsonl")
    refuse("data.forget-not-in-data", lambda: Files(forget=str(one), data=str(two)).load(), "a.jsonl")
    refuse("data.overlap", lambda: Files(forget=str(one), retain=str(many)).load(), "abc.jsonl")
    refuse("data.holdout-trained", lambda: Files(forget=str(one), holdout=str(one)).load(), "a.jsonl")
    refuse("data.neighbour-forgotten", lambda: Files(forget=str(one), neighbour=str(many)).load(), "abc.jsonl")
    refuse("data.no-forget-file", lambda: Files(retain=str(one)).load())
    first, second = (str(lines(tmp_path / f"n{n}.jsonl", qa(n, id=0))) for n in "12")
    refuse("data.id-conflict", lambda: Files(forget=first, retain=second).load(), "n1.jsonl", "n2.jsonl")
    refuse("data.id-conflict", lambda: Files(forget=first, holdout=second).load(), "n1.jsonl", "n2.jsonl")
