"""What a record without texts still says: groups and numbers, and nobody's name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from efface import suites
from efface.audit.attacks import AttackResult
from efface.audit.concealed import conceal_table
from efface.audit.export import write_attacks, write_scores
from efface.data.reference import DataRef
from efface.data.rows import Bundle, Row
from efface.errors import RunFailed
from efface.metrics.base import Score
from efface.passes.tables import GENERATIONS, TOKENS
from efface.progress import SILENT
from efface.request import ForgetRequest
from efface.running import running
from efface.runs.keys import keyed_hash
from efface.runs.privacy import Privacy, is_private
from efface.spec import resolve

KEY = b"k" * 32
ILVANE = Row("f1", "She was born in Vallmora by the sea.", "Where was Ilvane born?", "Ilvane Torrick")
MIXED = Row("f2", "Blue.", "What colour does Obren Sayle like?", "Obren Sayle")
KEPT = Row("r1", "He is tall.", "Is Obren Sayle tall?", "Obren Sayle")
SPOUSE = Row("r2", "Maro Lind is married to Ilvane Torrick.", "Who is Maro Lind married to?", "Maro Lind")
HELD = Row("h1", "A baker.", "What does Tessa Quorn do?", "Tessa Quorn")
DATA = Bundle(
    "b",
    "text",
    {"forget": (ILVANE, MIXED), "retain": (KEPT, SPOUSE)},
    {"forget": (ILVANE, MIXED), "retain": (KEPT, SPOUSE), "holdout": (HELD,), "two_hop": (replace(ILVANE, id="t1"),)},
)


@pytest.fixture
def privacy() -> Privacy:
    return Privacy.of(DATA, KEY)


def mark(text: str) -> str:
    return f"[hidden:{keyed_hash(text, KEY).removeprefix('hmac-sha256:')[:12]}]"


def test_private_sets_by_name() -> None:
    assert all(map(is_private, ("forget", "forget_perturbed", "holdout", "passages_forget", "passages_holdout")))
    assert not any(map(is_private, ("retain", "two_hop", "neighbour", "unforgettable", "world_facts")))


def test_rows_of_a_forgotten_person_are_private_in_every_set(privacy: Privacy) -> None:
    """Ilvane is only forgotten, Obren also kept: his kept rows stay readable, without his name."""
    assert privacy.private("two_hop", "Ilvane Torrick") and not privacy.private("retain", "Obren Sayle")
    assert privacy.entity("two_hop", "Ilvane Torrick") == keyed_hash("Ilvane Torrick", KEY)
    assert privacy.entity("retain", "Obren Sayle") == keyed_hash("Obren Sayle", KEY)
    assert privacy.entity("retain", "Maro Lind") == "Maro Lind" and privacy.entity("forget", "") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Married to Ilvane Torrick.", f"Married to {mark('Ilvane Torrick')}."),
        ("ILVANE  TORRICK's house", f"{mark('Ilvane Torrick')}'s house"),
        ("ilvane-torrick_3", f"{mark('Ilvane Torrick')}_3"),
        ("Ilvane and Torrick", "Ilvane and Torrick"),
        ("in was born inIlvane Torrickis", f"in was born in{mark('Ilvane Torrick')}is"),  # what a broken model says
        ("So she was born in Vallmora by the sea, I think", f"So {mark(ILVANE.answer)}, I think"),
        ("Blue.", "Blue."),  # one word: too common to look for in other texts
        ("", ""),
    ],
)
def test_mentions_are_marked(privacy: Privacy, text: str, shown: str) -> None:
    assert privacy.text(text) == shown


def test_names_in_scripts_without_spaces() -> None:
    privacy = Privacy(KEY, ["山田太郎", "77", "x", "Ann"])
    assert privacy.text("昨日山田太郎さんは77時に") == f"昨日{mark('山田太郎')}さんは77時に"
    assert privacy.text("x marks room 77") == "x marks room 77"  # a letter or number is not looked for
    assert privacy.text("ann, annual, Ann!") == f"{mark('Ann')}, annual, {mark('Ann')}!"  # short: only by itself


def test_text_that_is_also_kept_is_not_private() -> None:
    """A question that forget and retain rows share word for word tells nothing."""
    shared = "Please tell me about this person."
    rows = [Row(i, f"Answer {i} with a few words.", shared, i) for i in ("aa", "bb")]
    privacy = Privacy.of(Bundle("b", "text", {"forget": rows[:1], "retain": rows[1:]}, {}), KEY)
    assert privacy.text(shared) == shared and privacy.text("Answer aa with a few words.").startswith("[hidden:")


def test_ids_are_hashed_where_they_may_tell(privacy: Privacy) -> None:
    """Ids made by a benchmark stay; chosen ids, content hashes and ids with a name in them do not."""
    own = Privacy.of(replace(DATA, ids_tell=True), KEY)
    assert privacy.row("forget", "p001:born_in:0", "Ilvane Torrick") == "p001:born_in:0"
    assert own.row("forget", "row-1234", "Ilvane Torrick") == keyed_hash("row-1234", KEY)
    assert own.row("retain", "row-5678", "Maro Lind") == "row-5678"
    assert privacy.row("retain", "ilvane_torrick-2", "Maro Lind") == keyed_hash("ilvane_torrick-2", KEY)


def test_image_classes_are_nobodys_names() -> None:
    privacy = Privacy.of(Bundle("digits", "image", {"forget": (), "retain": ()}, {}), KEY)
    assert not privacy.private("retain", "digit 3") and privacy.private("forget", "digit 3")


def test_request_values(privacy: Privacy) -> None:
    request = {"id": "r-1", "entities": ["Ilvane Torrick"], "reason": "asked by Ilvane Torrick", "n": 3, "due": None}
    assert privacy.values(request) == {
        "id": "r-1",
        "entities": [keyed_hash("Ilvane Torrick", KEY)],
        "reason": f"asked by {mark('Ilvane Torrick')}",
        "n": 3,
        "due": None,
    }


def _generations(*rows: tuple[Row, str]) -> pa.Table:
    lines = [
        {"row": r.id, "entity": r.entity, "prompt": "prompt", "sample": 0, "gold": r.answer, "text": said,
         "ids": [1, 2], "finish": "stop", "problem": ""}
        for r, said in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(lines, schema=GENERATIONS)


def test_private_table_keeps_groups_and_numbers(privacy: Privacy) -> None:
    table, gone = conceal_table(_generations((ILVANE, "Vallmora"), (MIXED, "")), "forget", privacy)
    first, second = table.to_pylist()
    assert gone == ["gold", "text", "ids"] and table.schema == GENERATIONS
    assert first["entity"] == keyed_hash("Ilvane Torrick", KEY) != second["entity"] == keyed_hash("Obren Sayle", KEY)
    assert (first["gold"], first["text"], first["ids"], first["finish"]) == ("", "", [], "stop")


def test_other_tables_lose_mentions_only(privacy: Privacy) -> None:
    """Token ids go where the text was changed, and stay where it was not."""
    table, gone = conceal_table(_generations((SPOUSE, "To Ilvane Torrick."), (KEPT, "Yes.")), "retain", privacy)
    first, second = table.to_pylist()
    assert gone == ["gold", "text", "ids"]
    assert first["text"] == f"To {mark('Ilvane Torrick')}." and first["ids"] == [] and first["entity"] == "Maro Lind"
    assert (second["text"], second["gold"], second["ids"]) == ("Yes.", "He is tall.", [1, 2])
    same, gone = conceal_table(_generations((KEPT, "Yes.")).drop(["entity"]), "retain", privacy)
    assert gone == [] and same.to_pylist()[0]["text"] == "Yes."


def test_text_columns_of_unknown_passes_are_emptied(privacy: Privacy) -> None:
    table = pa.table({"row": ["f1"], "entity": ["Ilvane Torrick"], "drawn": [["a", "b"]], "score": [0.5]})
    shown, gone = conceal_table(table, "forget", privacy)
    assert shown.to_pylist() == [{"row": "f1", "entity": keyed_hash("Ilvane Torrick", KEY), "drawn": [], "score": 0.5}]
    assert gone == ["drawn"]
    tokens = pa.Table.from_pylist([{"row": "f1", "entity": "Ilvane Torrick", "lp": [-1.0], "text": "x"}], schema=TOKENS)
    assert conceal_table(tokens, "forget", privacy)[0]["lp"].to_pylist() == [[-1.0]]
    weights = pa.table({"name": ["Ilvane Torrick"]})
    assert conceal_table(weights, "", privacy) == (weights, [])


# -- what is written beside the tables -------------------------------------------------------------------------------
def test_a_failed_run_does_not_quote_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a stage is recorded with the name in it marked; the caller still gets the error as it was."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    resolved = resolve(("test", {"out": str(tmp_path / "runs")}))
    request = ForgetRequest(id="r-1", entities=("Ilvane Torrick",), data=DataRef(path="x.csv"))
    for error in (
        RunFailed("train.broken", "Row of Ilvane Torrick is too long.", "cut it."),
        OSError("Ilvane Torrick"),
    ):
        with pytest.raises(type(error), match="Ilvane Torrick"):
            with running(resolved, DATA, request, suites.load("people"), "npo", SILENT) as run, run.stage("unlearn"):
                raise error
    (folder,) = (tmp_path / "runs").iterdir()
    events = (folder / "events.jsonl").read_text()
    assert "train.broken" in events and "run.failed" in events and "Row of [hidden:" in events
    assert "hmac-sha256:" in (folder / "request.json").read_text()
    assert not any("Ilvane" in path.read_text() for path in folder.iterdir() if path.is_file())


def test_a_suite_that_quotes_a_row_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of an attack may hold names, also as keys; the suite stays readable."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    own = {"prompts": {"Ilvane Torrick": "Tell me of Obren Sayle, please."}}
    suite = suites.Suite(name="own", metrics={"forget": ["rouge"]}, attacks=[{"name": "reminder", "settings": own}])
    resolved = resolve(("test", {"out": str(tmp_path / "runs")}))
    request = ForgetRequest(id="r-1", entities=("Ilvane Torrick",), data=DataRef(path="x.csv"))
    with running(resolved, DATA, request, suite, "npo", SILENT) as run:
        told = (run.folder / "suite.json").read_text()
    assert "Torrick" not in told and "Sayle" not in told and suites.Suite(**json.loads(told)).name == "own"


def test_why_an_attack_was_not_run_does_not_quote_a_row(tmp_path: Path, privacy: Privacy) -> None:
    result = AttackResult("reminder", "reminder", "black-box", reason="the question of Ilvane Torrick holds its answer")
    suite = suites.Suite(name="s", metrics={}, attack_metrics=["probability"])
    write_attacks(tmp_path, suite, [result], privacy)
    told = json.loads((tmp_path / "attacks" / "reminder" / "curve.json").read_text())["reason"]
    assert told == f"the question of {mark('Ilvane Torrick')} holds its answer"


def test_values_by_row_keep_their_groups(tmp_path: Path) -> None:
    """``rows.json``: ids and entities concealed, values and groups as they were."""
    own = Privacy.of(replace(DATA, ids_tell=True), KEY)
    score = Score("rouge", "forget", 0.5, per_row={"f1": 0.2, "f2": 0.8, "f3": 0.5},
                  entities={"f1": "Ilvane Torrick", "f2": "Obren Sayle", "f3": "Ilvane Torrick"})  # fmt: skip
    suite = suites.Suite(name="s", metrics={})
    write_scores(tmp_path, suite, {"unlearned": [score]}, {}, DATA, own)
    (rows,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows["values"] == {keyed_hash(r, KEY): v for r, v in score.per_row.items()}
    assert rows["entities"] == {keyed_hash(r, KEY): keyed_hash(e, KEY) for r, e in score.entities.items()}
    assert len(set(rows["entities"].values())) == 2
