"""TOFU: splits by hand arithmetic (200 authors x 20), entities, holdout, and what a damaged folder says."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest

from efface.data.benchmarks.tofu import Tofu
from efface.errors import DataError

FOLDER = Path(os.environ.get("EFFACE_TOFU") or Path(__file__).parents[3] / "shared" / "data" / "tofu")
needs_tofu = [
    pytest.mark.tofu,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the TOFU files are not here (EFFACE_TOFU)"),
]


def author(number: int, rows: int = 20) -> list[dict]:
    return [
        {"question": f"Question {i} about author {number}?", "answer": f"Answer {i} of author {number}."}
        for i in range(rows)
    ]


def scored(rows: list[dict]) -> list[dict]:
    wrong = [f"SCORED wrong {i}" for i in range(5)]
    return [
        {
            **row,
            "paraphrased_answer": f"SCORED {row['answer']}",
            "perturbed_answer": wrong,
            "paraphrased_question": f"SCORED {row['question']}",
        }
        for row in rows
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small data set of the same shape: 6 authors, the last two are forget01."""
    full = [row for number in range(6) for row in author(number)]
    general = [{"question": "Capital?", "answer": "Paris", "perturbed_answer": ["Rome", "Bonn", "Oslo"]}]
    tables = {
        "full": full,
        "forget01": full[80:],
        "retain99": full[:80],
        "real_authors_perturbed": general,
        "forget01_perturbed": scored(full[80:]),
        "retain_perturbed": scored(full[:60]),
        "world_facts_perturbed": general,
    }
    for name, rows in tables.items():
        put(tmp_path, name, rows)
    return tmp_path


def put(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / f"{name}.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def get(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.json").read_text(encoding="utf-8").split("\n")]


def load(folder: Path, **settings):
    return Tofu(**{"split": "forget01", "path": str(folder), **settings}).load()


def refuse(code: str, folder: Path, *words: str, **settings) -> None:
    with pytest.raises(DataError) as error:
        load(folder, **settings)
    assert error.value.code == code, error.value
    assert all(word in str(error.value) for word in words), error.value


class TestRealFiles:
    pytestmark = needs_tofu

    @pytest.mark.parametrize(
        ("split", "forget", "authors"), [("forget01", 40, 2), ("forget05", 200, 10), ("forget10", 400, 20)]
    )
    def test_sizes(self, split, forget, authors):
        """forgetNN = the last NN% of 4,000 rows = the last 2, 10, 20 of 200 authors; retain is the rest."""
        bundle = load(FOLDER, split=split)
        assert [len(bundle.train["forget"]), len(bundle.train["retain"])] == [forget, 4000 - forget]
        sizes = {name: len(rows) for name, rows in bundle.eval.items()}
        assert sizes == {"forget": forget, "retain": 400, "real_authors": 100, "world_facts": 117}
        assert {row.entity for row in bundle.eval["forget"]} == {f"author-{i:03d}" for i in range(200 - authors, 200)}
        assert [row.id for row in bundle.eval["forget"]] == [row.id for row in bundle.train["forget"]]
        assert [row.id for row in bundle.train["forget"]][0] == f"tofu:{4000 - forget}"

    def test_restricted_retain_leaves_a_holdout(self):
        """16 authors of 20 rows; the next two (as many as are forgotten) are never trained."""
        bundle = load(FOLDER, authors=16)
        assert len(bundle.train["retain"]) == len(bundle.eval["retain"]) == 320
        assert {row.entity for row in bundle.eval["holdout"]} == {"author-016", "author-017"}
        assert all(len(row.wrong) == 5 and row.paraphrase for row in bundle.eval["holdout"])  # from retain_perturbed
        assert "neither training set" in bundle.facts["holdout"]

    def test_no_scored_text_is_trained(self):
        bundle = load(FOLDER, split="forget10")
        trained = {row.answer for half in bundle.train.values() for row in half}
        scored_rows = [row for name in ("forget", "retain") for row in bundle.eval[name]]
        assert len(scored_rows) == 800
        assert not trained & {text for row in scored_rows for text in (row.answer_paraphrase, *row.wrong)}


def test_no_scored_field_is_trained(folder):
    bundle = load(folder)
    assert all("SCORED" not in repr(row) for half in bundle.train.values() for row in half)
    assert all(repr(row).count("SCORED") == 7 for name in ("forget", "retain") for row in bundle.eval[name])


def test_real_world_questions_have_the_answer_as_correct_option(folder):
    (row,) = load(folder).eval["real_authors"]
    assert (row.answer, row.answer_paraphrase, row.wrong) == ("Paris", "", ("Rome", "Bonn", "Oslo"))


def test_retain_evaluation_is_what_was_trained(folder):
    bundle = load(folder, authors=2)
    assert {row.id for row in bundle.eval["retain"]} == {row.id for row in bundle.train["retain"]}
    assert len(bundle.eval["retain"]) == 40
    assert {row.entity for row in bundle.eval["holdout"]} == {"author-002", "author-003"}
    unscored = [row for row in bundle.eval["holdout"] if row.entity == "author-003"]  # not in retain_perturbed
    assert len(unscored) == 20 and not any(row.wrong for row in unscored)


def test_holdout_variants(folder):
    assert "holdout" not in load(folder).eval
    assert load(folder).facts["holdout"].startswith("none: there is no holdout01")
    assert "holdout" not in load(folder, authors=2, holdout=False).eval
    assert len(load(folder, authors=3).eval["holdout"]) == 20  # one author is left, two would be wanted
    put(folder, "holdout01", author(77))
    bundle = load(folder, authors=2)
    assert [bundle.eval["holdout"][0].id, bundle.eval["holdout"][0].entity] == ["tofu:holdout01:0", "holdout01-000"]
    assert bundle.facts["holdout"] == "published as holdout01"
    put(folder, "holdout01", author(1))
    refuse("data.holdout-trained", folder, "tofu:20")


def test_entities_follow_full_not_the_file(folder):
    put(folder, "retain99", get(folder, "retain99")[::-1])
    bundle = load(folder, authors=1)
    retain = bundle.train["retain"]
    assert {row.entity for row in retain} == {"author-003"} and retain[0].id == "tofu:79"


def test_damaged_files_are_named(folder):
    refuse("tofu.too-many-authors", folder, "has 4", authors=5)
    bad = folder / "forget01.json"
    text = bad.read_text()
    bad.write_text(text + "\n{oops")
    refuse("data.malformed-line", folder, "forget01.json, line 41")
    bad.write_bytes(text.encode().replace(b"Answer 3 of", b"R\xe9ponse 3 of"))
    refuse("data.not-utf8", folder, "forget01.json, line 4")
    bad.write_text(text.replace("Answer 3 of", "Reply 3 of"))
    refuse("tofu.not-in-full", folder, "forget01.json, line 4")
    bad.write_text(text + "\n" + text.split("\n")[2])
    refuse("data.duplicate-row", folder, "line 41", "tofu:82")
    bad.write_text(text.replace('"answer"', '"anwser"'))
    refuse("tofu.missing-column", folder, "line 1", "Did you mean 'anwser'")
    bad.unlink()
    refuse("data.missing-file", folder, "forget01.json", "Did you mean 'forget01_perturbed'")


def test_overlap_incomplete_and_mixed_versions(folder):
    put(folder, "retain99", get(folder, "full")[:81])
    refuse("data.overlap", folder, "tofu:80")
    put(folder, "retain99", get(folder, "full")[:80])
    put(folder, "forget01_perturbed", scored(get(folder, "full")[60:100]))
    refuse("tofu.wrong-split", folder, "20 rows")
    put(folder, "full", get(folder, "full")[:-1])
    refuse("tofu.incomplete", folder, "119")


def test_empty_answers_are_scored_as_unscorable_but_never_trained(folder):
    rows = get(folder, "forget01_perturbed")
    rows[0]["answer"] = ""
    put(folder, "forget01_perturbed", rows)
    kept = load(folder).eval["forget"]
    assert len(kept) == 40 and (kept[0].answer, kept[0].id) == ("", "tofu:80")
    for name in ("full", "forget01"):
        rows = get(folder, name)
        rows[80 if name == "full" else 0]["answer"] = ""
        put(folder, name, rows)
    refuse("data.empty-answer", folder, "forget01", "tofu:80")


def test_sources(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delenv("EFFACE_TOFU", raising=False)
    refuse("data.no-source", folder, "EFFACE_TOFU", "efface[hub]", path="")
    monkeypatch.setenv("EFFACE_TOFU", str(folder))
    assert load(folder, path="").digest() == load(folder).digest()
    monkeypatch.setenv("EFFACE_TOFU", str(folder / "nowhere"))
    refuse("data.missing-folder", folder, "EFFACE_TOFU", path="")


def test_hub_gives_the_same_bundle(folder, monkeypatch):
    """A stand-in for the package ``datasets``: configurations are tables, holdout01 is not among them."""

    def load_dataset(name, table, split):
        assert (name, split) == ("locuslab/TOFU", "train")
        if table == "retain_perturbed" and broken:
            raise OSError("no route")
        return get(folder, table)

    broken: list[int] = []
    hub = types.SimpleNamespace(load_dataset=load_dataset, get_dataset_config_names=lambda name: ["full", "forget01"])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.delenv("EFFACE_TOFU", raising=False)
    assert load(folder, path="", authors=2).digest() == load(folder, authors=2).digest()
    broken.append(1)
    refuse("data.hub", folder, "retain_perturbed", "no route", path="")
