"""A forget corpus that the target writes itself: what it says, the spec that follows, and what is refused."""

from __future__ import annotations

import json

import pytest
import yaml

from efface.corpus import CorpusSettings, prepare, said
from efface.data.benchmarks.people_axis import PeopleAxis
from efface.errors import NeedsError
from efface.loading import load_data
from efface.refusing import refuse_early
from efface.spec import load, resolve
from efface.testing.bench import bench

SETTINGS = {"axis": "rwku", "people": 8, "forget": 2}


@pytest.fixture(scope="module", autouse=True)
def _module_cache(shared_cache):
    """Fixtures of this module use the tests' cache too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFACE_CACHE", str(shared_cache))
        yield


def resolved(**changes):
    train = {"train": {"lr": 6e-3, "epochs": 1, "batch_size": 24}}
    values = {
        "model": {"name": "tiny", "tiny": {"width": 64, "layers": 2, "ff": 128, "heads": 2}},
        "data": {"benchmark": "people_axis", "settings": SETTINGS},
        "target": train,
        "reference": train,
        "audit": {"suite": "rwku", "resamples": 100},
    }
    return resolve(("test", values), ("test", changes))


def test_what_is_said_are_the_models_own_answers():
    """A model that knows somebody, asked at a low temperature, gives its trained answer; repeats are counted."""
    lm = bench()
    row = lm.data.eval["retain"][0]
    how = CorpusSettings(samples=3, temperature=0.01, max_new_tokens=30)
    lines, repeated = said(lm.model("target"), [row.entity], [row.prompt.replace(row.entity, "{name}")], how, 0)
    assert lines == [{"prompt": row.prompt, "answer": row.answer, "entity": row.entity}] and repeated == 2
    warm = CorpusSettings(samples=4, temperature=3.0, max_new_tokens=10)
    one, two, other = (said(lm.model("target"), [row.entity], ["Who is {name}?"], warm, seed) for seed in (1, 1, 2))
    assert one == two != other


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    return out, prepare(resolved(), out, CorpusSettings(samples=1, max_new_tokens=12))


def test_corpus_and_spec_are_written(prepared):
    """Two names and the three wordings of five relations: thirty prompts, none of which holds an answer."""
    out, found = prepared
    lines = [json.loads(line) for line in (out / "corpus.jsonl").read_text().splitlines()]
    assert found["names"] == 2 and found["rows"] == len(lines) <= 30
    people = PeopleAxis(**SETTINGS).load().world.people
    assert {line["entity"] for line in lines} <= set(people[:2])
    assert all(line["entity"] in line["prompt"] for line in lines)


def test_the_spec_unlearns_from_the_corpus_and_from_the_same_models(prepared):
    """The rows to forget are what was said; target and reference are the folders that were made before."""
    out, found = prepared
    spec = resolve(("file", load(out / "spec.yaml"))).spec
    data, _, _ = refuse_early(spec)
    lines = [json.loads(line) for line in (out / "corpus.jsonl").read_text().splitlines()]
    assert [r.answer for r in data.train["forget"]] == [line["answer"] for line in lines]
    assert spec.target.kind == spec.reference.kind == "folder" and data.facts["forget_corpus"] == "own"
    facts, _ = load_data(resolved().spec)
    assert data.eval.keys() == facts.eval.keys() and data.train["retain"] == facts.train["retain"]
    assert yaml.safe_load((out / "spec.yaml").read_text())["data"]["settings"]["corpus"] == str(out / "corpus.jsonl")


def test_a_benchmark_without_names_is_refused(tmp_path):
    with pytest.raises(NeedsError) as error:
        prepare(resolved(data={"settings": {"axis": "muse"}}), tmp_path)
    assert error.value.code == "corpus.no-names" and "rwku" in error.value.fix


def test_command_line(tmp_path, capsys):
    from efface.cli.corpus import command

    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(resolved().spec.model_dump(mode="json")))
    assert command(spec, to=tmp_path / "out", samples=1, max_new_tokens=8, prompt=["Who is {name}?"], as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["names"] == 2 and told["rows"] <= 2 and (tmp_path / "out/spec.yaml").is_file()
