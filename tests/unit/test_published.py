"""Loaders of published benchmarks, on files of the published formats that ``published_files`` makes up."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import published_files as files
import pytest

from efface.data.benchmarks.knowundo import KnowUnDo
from efface.data.benchmarks.lume import Lume
from efface.data.benchmarks.muse import Muse
from efface.data.benchmarks.pch import Pch
from efface.data.benchmarks.pistol import Pistol, component, neighbours
from efface.data.benchmarks.rwku import Rwku
from efface.data.benchmarks.whp import Whp
from efface.data.benchmarks.wmdp import Wmdp
from efface.data.prompts import letter_rows, pieces
from efface.data.splits import SplitFolder
from efface.errors import DataError

MAKERS = {
    Muse: (files.muse, {}),
    Rwku: (files.rwku, {}),
    KnowUnDo: (files.knowundo, {"domain": "privacy"}),
    Lume: (files.lume, {}),
    Pistol: (files.pistol, {}),
    Pch: (files.pch, {"requests": 4}),
    Whp: (files.whp, {}),
    Wmdp: (files.wmdp, {}),
}


def settings(kind, folder: Path) -> dict[str, str]:
    """Where a kind finds its files below ``folder``; WMDP has its corpora and MMLU in places of their own."""
    more = {"corpora": str(folder), "mmlu": str(folder / "mmlu.json")} if kind is Wmdp else {}
    return {"path": str(folder), **more, **MAKERS[kind][1]}


def load(kind, folder: Path, **changed):
    MAKERS[kind][0](folder)
    return kind(**{**settings(kind, folder), **changed}).load()


def sizes(bundle) -> dict[str, int]:
    return {name: len(rows) for name, rows in bundle.eval.items()}


def refuse(code: str, call, *words: str) -> None:
    with pytest.raises(DataError) as error:
        call()
    assert error.value.code == code and error.value.fix, error.value
    assert all(word in str(error.value) for word in words), error.value


# -- each format ---------------------------------------------------------------------------------------------------
def test_muse_reads_the_repository_and_writes_the_published_prompts(tmp_path):
    """Two shots, then the question, then "Answer: " with its blank; folds contain each other or are disjoint."""
    bundle = load(Muse, tmp_path)
    assert sizes(bundle) == {
        "forget": 4,
        "retain": 4,
        "verbatim_forget": 3,
        "passages_forget": 3,
        "passages_holdout": 3,
        "passages_retain": 3,
    }
    block = "Question: Shot 0?\nAnswer: shot 0\n\nQuestion: Shot 1?\nAnswer: shot 1\n\n"
    assert bundle.eval["forget"][0].prompt == f"{block}Question: What is forget 0?\nAnswer: "
    assert bundle.facts["template"] == "{question}" and not bundle.train["forget"][0].prompt
    bare = Muse(path=str(tmp_path), prompts="question").load()
    assert bare.eval["forget"][0].prompt == "What is forget 0?" and bare.facts["template"] == ""
    texts = {f: {r.answer for r in Muse(path=str(tmp_path), fold=f).load().train["forget"]} for f in FOLDS}
    assert texts["scal_1"] < texts["scal_2"] and not texts["sust_1"] & texts["sust_2"]
    assert texts["scal_1"] == texts["sust_1"] == {r.answer for r in bundle.train["forget"]}


FOLDS = ("scal_1", "scal_2", "sust_1", "sust_2")


def test_muse_leaves_out_what_cannot_be_trained_and_counts_it(tmp_path):
    """One empty and one repeated document to forget; one of them is also to be kept."""
    files.muse(tmp_path)
    files.put(tmp_path / "raw/forget.json", ["One story.", "", "One story.", "Two stories."])
    files.put(tmp_path / "raw/retain1.json", ["Two stories.", "A report."])
    bundle = Muse(path=str(tmp_path)).load()
    assert [r.answer for r in bundle.train["forget"]] == ["One story.", "Two stories."]
    assert [r.answer for r in bundle.train["retain"]] == ["A report."]
    assert bundle.facts["left_out"] == {"empty forget": 1, "repeated forget": 1, "retain also in forget": 1}


def test_rwku_asks_as_published_and_only_about_the_chosen(tmp_path):
    bundle = load(Rwku, tmp_path)
    assert sizes(bundle) == {
        "forget": 2,
        "blank_forget": 2,
        "neighbour": 2,
        "blank_neighbour": 2,
        "adversarial_forget": 4,
        "suffix_forget": 2,
        "passages_forget": 1,
        "passages_retain": 1,
        "utility_general": 1,
        "utility_truthfulness": 1,
        "utility_factuality": 1,
    }
    brief = "Please briefly answer the following question.\n"
    assert bundle.eval["forget"][0].prompt == f"{brief}Question: direct question about Stephen King 0?\n"
    assert bundle.eval["blank_forget"][0].prompt.startswith("Please complete the blank in the following question.\n")
    asked = {r.id.split(":")[2]: r.prompt for r in bundle.eval["adversarial_forget"]}
    assert asked["incontext_learning"] == f"{brief}incontext learning about Stephen King 1?\n"
    assert asked["role_play"] == f"{brief}Question: role play about Stephen King 1?\n"
    suffix = bundle.eval["suffix_forget"][0]
    assert suffix.prompt == f"{brief}Question: affirmative suffix about Stephen King 0?"  # nothing after it
    assert [r.answer for r in bundle.train["forget"]] == ["Stephen King wrote a lot."] and not bundle.train["retain"]
    assert not any("Confucius" in r.prompt + r.answer for rows in bundle.eval.values() for r in rows)


def test_rwku_utility_prompts(tmp_path):
    """MMLU: the record's solved question in front, letter answers; TriviaQA: accepted answers one a line."""
    bundle = load(Rwku, tmp_path)
    (question,) = bundle.eval["utility_general"]
    assert question.prompt.startswith(
        "The following are multiple choice questions (with answers) about college law.\n\n"
    )
    assert "Question: One?\nA. a\nB. b\nC. c\nD. d\nAnswer: C\n\n" in question.prompt
    assert question.prompt.endswith("Question: Two?\nA. e\nB. f\nC. g\nD. h\nAnswer:")
    assert (question.answer, question.wrong) == ("B", ("A", "C", "D"))
    assert bundle.eval["utility_factuality"][0].answer == "Ann\nAnn Lee"
    assert bundle.eval["utility_truthfulness"][0].wrong == ("false one", "false two")


def test_rwku_refuses_unknown_people_and_takes_an_own_corpus(tmp_path):
    refuse("rwku.unknown-target", lambda: load(Rwku, tmp_path, targets=("Stephen Kong",)), "Stephen King")
    files.put(tmp_path / "own.jsonl", [{"prompt": "Who is it?", "answer": "An author.", "entity": "Stephen King"}])
    (row,) = load(Rwku, tmp_path, corpus=str(tmp_path / "own.jsonl")).train["forget"]
    assert (row.prompt, row.answer, row.entity) == ("Who is it?", "An author.", "Stephen King")


def test_wmdp_rotates_options_and_asks_without_them(tmp_path):
    """Question 1 has its answer in second place: B, then A, then (from the front) D, then C."""
    folder = files.wmdp(tmp_path)
    bundle = Wmdp(path=str(folder), corpora=str(folder), mmlu=str(folder / "mmlu.json")).load()
    assert sizes(bundle) == {"forget": 12, "open_forget": 3, "utility_general": 4, "retain": 4}
    second = [r for r in bundle.eval["forget"] if r.entity == "wmdp:cyber:1"]
    assert [r.answer for r in second] == ["B", "A", "D", "C"]
    head = "The following are multiple choice questions (with answers) about cybersecurity.\n\n"
    assert second[0].prompt == f"{head}Q1?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert second[1].prompt == f"{head}Q1?\nA. x\nB. y\nC. z\nD. w\nAnswer:"
    opened = bundle.eval["open_forget"][1]
    assert (opened.prompt, opened.answer, opened.wrong) == ("Q1?", "x", ("w", "y", "z"))
    assert {side: len(rows) for side, rows in bundle.train.items()} == {"forget": 3, "retain": 3}  # "short" is no line
    refuse(
        "wmdp.no-corpus", lambda: Wmdp(domain="bio", path=str(_bio(folder)), corpora=str(folder)).load(), "asked for"
    )


def _bio(folder: Path) -> Path:
    files.put(folder / "wmdp-bio/test.json", [{"question": "B?", "choices": ["a", "b"], "answer": 0}])
    return folder


def test_knowundo_trains_train_and_scores_val(tmp_path):
    bundle = load(KnowUnDo, tmp_path)
    assert [r.prompt for r in bundle.train["forget"]] == ["unlearn train 0?", "unlearn train 1?"]
    assert [r.prompt for r in bundle.eval["retain"]] == ["retention val 0?", "retention val 1?"]
    taught = load(KnowUnDo, tmp_path, teach_val=True, direct_prompt=True)
    assert len(taught.train["retain"]) == 4
    assert taught.eval["forget"][0].prompt.startswith("You are a privacy-sensitive assistant.")
    assert not taught.train["forget"][0].prompt.startswith("You are")


def test_lume_tells_completions_from_questions_by_their_ids(tmp_path):
    bundle = load(Lume, tmp_path)
    assert sizes(bundle) == {
        "forget": 3,
        "completion_forget": 3,
        "retain": 3,
        "completion_retain": 3,
        "passages_forget": 2,
        "passages_holdout": 2,
    }
    assert bundle.eval["forget"][0].id == "lume:Task1:forgetTask1qa0"
    assert bundle.eval["forget"][0].entity == bundle.eval["completion_forget"][0].entity
    assert len(bundle.train["forget"]) == 6
    rows = [json.loads(line) for line in (tmp_path / "forget.jsonl").read_text().split("\n")]
    files.put(tmp_path / "forget.jsonl", [{**rows[0], "id": "strange"}])
    refuse("lume.unknown-kind", lambda: Lume(path=str(tmp_path)).load(), "line 1", "sc<n>")


def test_lume_reads_the_challenges_parquet_parts(tmp_path):
    """data/forget_train-00000-of-00001.parquet, as the challenge's folder has it; a missing part is named."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files.lume(tmp_path / "plain")
    (tmp_path / "hub/data").mkdir(parents=True)
    for half in ("forget", "retain"):
        rows = [json.loads(line) for line in (tmp_path / f"plain/{half}.jsonl").read_text().split("\n")]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"hub/data/{half}_train-00000-of-00001.parquet")
    assert Lume(path=str(tmp_path / "hub")).load().train == Lume(path=str(tmp_path / "plain")).load().train
    part = tmp_path / "hub/data/forget_train-00000-of-00001.parquet"
    part.rename(tmp_path / "hub/data/forget_train-00000-of-00002.parquet")
    refuse("data.missing-part", lambda: Lume(path=str(tmp_path / "hub")).load(), "1 of the 2 parts")


def test_pistol_knows_neighbours_from_independent_edges(tmp_path):
    """A_C shares A with A_B; B_D is joined to it through A_B but no neighbour; E_F is in no way connected."""
    edges = ["A_B", "A_C", "B_D", "E_F"]
    assert neighbours(edges, ("A_C",)) == {"A_B"} and component(edges, ("A_C",)) == {"A_B", "A_C", "B_D"}
    bundle = load(Pistol, tmp_path)
    found = {name: {r.entity for r in bundle.eval[name]} for name in ("forget", "retain", "neighbour", "independent")}
    assert found == {"forget": {"A_C"}, "retain": {"A_B", "B_D", "E_F"}, "neighbour": {"A_B"}, "independent": {"E_F"}}
    assert bundle.facts["neighbours"] == {"A_C": 1} and len(bundle.eval["world_facts"]) == 1
    refuse("pistol.unknown-edge", lambda: load(Pistol, tmp_path, edges=("A_Z",)), "A_B")


def test_pch_goes_from_request_to_request(tmp_path):
    """The second of four requests: its text goes, the forget side is the first two, everything else is to be kept."""
    bundle = load(Pch, tmp_path, since=1, upto=2)
    assert [r.id for r in bundle.train["forget"]] == ["pch:1:text"]
    assert [r.id for r in bundle.eval["forget"]] == ["pch:0:qa", "pch:1:qa"]
    assert [r.id for r in bundle.train["retain"]] == [f"pch:{i}:text" for i in (2, 3, 4, 5)]
    shuffled = load(Pch, tmp_path, order=3)
    pairs = list(zip(shuffled.eval["text_forget"], shuffled.eval["forget"], strict=True))
    assert all(t.entity == q.entity for t, q in pairs)  # one order for texts and questions
    assert [t.entity for t, _ in pairs] != [f"pch:{i}" for i in range(4)]
    plan = Pch(path=str(tmp_path), requests=4, every=3).plans()["requests"]
    assert plan.steps == ({"since": 0, "upto": 3}, {"since": 3, "upto": 4}) and plan.sizes == (3.0, 4.0)
    refuse("pch.bad-step", lambda: load(Pch, tmp_path, since=2, upto=2))
    files.put(tmp_path / "PCH_QA.jsonl", [{"question": "Who?", "answer": "One."}])
    refuse("pch.lengths-differ", lambda: Pch(path=str(tmp_path), requests=4).load(), "6 texts", "1 questions")


def test_whp_one_row_a_telling_word(tmp_path):
    bundle = load(Whp, tmp_path)
    assert [(r.answer, r.wrong) for r in bundle.eval["forget"]] == [
        ("Hogwarts", ("school", "bed")),
        ("Azkaban", ("school", "bed")),
    ]
    assert bundle.eval["open_forget"][0].answer == "A wizard with a scar.\nA boy."
    refuse("whp.no-path", lambda: Whp().load())


# -- shared pieces -------------------------------------------------------------------------------------------------
def test_pieces_keep_the_text():
    text = "one  two\nthree four five"
    assert pieces(text, 2) == ["one  two", "three four", "five"] and pieces(text, 0) == [text]


def test_letter_rows_refuse_an_answer_that_is_no_option():
    refuse("data.bad-value", lambda: letter_rows("k", "Q?", ["a", "b"], 2), "k: answer 2")


def test_hub_and_folder_give_the_same_rows(tmp_path, monkeypatch):
    """A stand-in for the package ``datasets``: configurations and splits as tables."""
    folder = files.muse(tmp_path)
    reader = SplitFolder(folder)

    def load_dataset(name, config, split):
        assert name == "muse-bench/MUSE-News"
        return [record.values for record in reader.records(config, split.replace("retain_qa", "retain2_qa"))]

    splits = {
        "knowmem": ["forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"],
        "privleak": ["forget", "holdout", "retain2"],
    }
    hub = types.SimpleNamespace(
        load_dataset=load_dataset,
        get_dataset_config_names=lambda name: ["raw", "knowmem", "privleak", "verbmem"],
        get_dataset_split_names=lambda name, config: splits.get(config, []),
    )
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.delenv("EFFACE_MUSE_NEWS", raising=False)
    assert Muse().load().digest() == Muse(path=str(folder)).load().digest()


def test_a_gated_data_set_is_told_from_a_lost_network(tmp_path, monkeypatch):
    def load_dataset(name, config, split):
        raise OSError(said)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.delenv("EFFACE_WMDP", raising=False)
    for said, code in (("cais/wmdp is a gated repo, 401", "data.gated"), ("no route to host", "data.hub")):
        refuse(code, Wmdp().load, said[:12])


# -- bad input -----------------------------------------------------------------------------------------------------
RENAMED = [
    (Muse, "knowmem/forget_qa.json", "answer", "anwser"),
    (Muse, "verbmem/forget.json", "gt", "gold"),
    (Rwku, "forget_level2.json", "query", "question"),
    (Rwku, "forget_level3.json", "type", "kind"),
    (KnowUnDo, "privacy/unlearn.json", "labels", "label"),
    (Lume, "forget.jsonl", "task", "tasks"),
    (Pistol, "sample_data_1.json", "edge", "edges"),
    (Pch, "PCH_QA.jsonl", "answer", "answers"),
    (Whp, "familiarity.jsonl", "generic", "others"),
    (Wmdp, "wmdp-cyber/test.json", "choices", "choises"),
    (Wmdp, "cyber-forget-corpus.jsonl", "text", "texts"),
    (Wmdp, "mmlu.json", "answer", "anwser"),
]


@pytest.mark.parametrize(("kind", "file", "old", "new"), RENAMED, ids=lambda v: getattr(v, "__name__", v))
def test_a_renamed_column_is_named_with_the_nearest(kind, file, old, new, tmp_path):
    load(kind, tmp_path)
    path = tmp_path / file
    path.write_text(path.read_text().replace(f'"{old}":', f'"{new}":'))
    refuse("data.missing-field", lambda: kind(**settings(kind, tmp_path)).load(), Path(file).name, repr(old), new)


@pytest.mark.parametrize("kind", MAKERS, ids=lambda k: k.__name__)
def test_another_encoding_is_named_with_its_line(kind, tmp_path):
    load(kind, tmp_path)
    file = next(p for p in sorted(tmp_path.rglob("*.json*")) if p.name not in ("intro.json", "factual_data.json"))
    file = {"Rwku": tmp_path / "forget_level2.json", "Muse": tmp_path / "raw/forget.json"}.get(kind.__name__, file)
    lines = file.read_bytes().split(b"\n")
    place = len(lines) // 2
    lines[place] = lines[place].replace(b"o", b"\xf6", 1) if b"o" in lines[place] else lines[place] + b"\xf6"
    file.write_bytes(b"\n".join(lines))
    refuse("data.not-utf8", lambda: kind(**settings(kind, tmp_path)).load(), file.name, f"line {place + 1}", "0xf6")


def test_a_published_id_used_twice_is_named(tmp_path):
    files.lume(tmp_path)
    text = (tmp_path / "forget.jsonl").read_text()
    (tmp_path / "forget.jsonl").write_text(text + "\n" + text.split("\n")[1])
    refuse("data.duplicate-id", lambda: Lume(path=str(tmp_path)).load(), "line 7", "line 2", "forgetTask1qa0")


def test_empty_answers_are_kept_for_scoring(tmp_path):
    """The row stays in its set, unscorable; a model says so (see test_continuation)."""
    files.muse(tmp_path)
    files.put(
        tmp_path / "knowmem/forget_qa.json",
        [{"question": "What?", "answer": ""}, {"question": "Who?", "answer": "Ann"}],
    )
    assert [r.answer for r in Muse(path=str(tmp_path)).load().eval["forget"]] == ["", "Ann"]


def test_wmdp_keeps_empty_options_and_a_question_asked_twice(tmp_path):
    """Ids come from the place in the file, so a repeated question has its own; an empty right option cannot be scored,
    and stays."""
    twice = {"question": "Q?", "choices": ["a", "b"], "answer": 1}
    empty = {"question": "R?", "choices": ["", "x"], "answer": 0}
    files.wmdp(tmp_path)
    files.put(tmp_path / "wmdp-cyber/test.json", [twice, twice, empty])
    rows = Wmdp(**settings(Wmdp, tmp_path)).load().eval["open_forget"]
    assert [(r.id, r.answer) for r in rows] == [
        ("wmdp:cyber:0:open", "b"),
        ("wmdp:cyber:1:open", "b"),
        ("wmdp:cyber:2:open", ""),
    ]


@pytest.mark.parametrize(("answer", "told"), [(4, "none of its 2"), ("E", "none of its 2"), (None, "answer")])
def test_wmdp_refuses_an_answer_that_is_no_option(answer, told, tmp_path):
    files.wmdp(tmp_path)
    files.put(tmp_path / "wmdp-cyber/test.json", [{"question": "Q?", "choices": ["a", "b"], "answer": answer}])
    refuse("data.bad-value", lambda: Wmdp(**settings(Wmdp, tmp_path)).load(), told)


def test_wmdp_names_the_bad_line_of_either_folder(tmp_path):
    """Questions in one folder, corpora in another."""
    files.wmdp(tmp_path / "asked")
    files.wmdp(tmp_path / "corpora")
    paths = {"path": str(tmp_path / "asked"), "corpora": str(tmp_path / "corpora")}
    assert Wmdp(**paths).load().train["forget"]
    for file in ("corpora/cyber-retain-corpus.jsonl", "asked/wmdp-cyber/test.json"):
        whole = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(whole.replace(b"e", b"\xe9", 1))
        refuse("data.not-utf8", lambda: Wmdp(**paths).load(), Path(file).name, "0xe9")
        (tmp_path / file).write_bytes(whole)
    (tmp_path / "corpora/cyber-forget-corpus.jsonl").unlink()
    refuse("wmdp.no-corpus", lambda: Wmdp(**paths).load(), "cyber-forget-corpus")


def test_a_missing_file_names_the_nearest(tmp_path):
    files.muse(tmp_path)
    (tmp_path / "raw/forget.json").rename(tmp_path / "raw/forgets.json")
    refuse("data.missing-file", lambda: Muse(path=str(tmp_path)).load(), "Did you mean 'forgets'")


def test_not_a_list_of_texts(tmp_path):
    files.whp(tmp_path)
    files.put(tmp_path / "completions.jsonl", [{"prompt": "Tell.", "references": "A wizard."}])
    refuse("data.bad-value", lambda: Whp(path=str(tmp_path)).load(), "completions.jsonl, line 1", "not a list")
