"""The run directory, its record, its manifest, its samples."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up_run import HASH, KEY, make

from efface.errors import RecordError, RunFailed
from efface.runs import files, manifest, provenance, samples
from efface.runs.layout import RunDir, inside, part, tidy, write_json
from efface.runs.record import RunRecord, load_run

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", method="npo", model="tiny", spec_hash=HASH, date="2026-09-14")


def events(run: RunDir) -> list[dict]:
    return [json.loads(line) for line in run.events.read_text().splitlines()]


# -- names and places ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "name"), [
    ("npo", "npo"), ("../../etc/passwd", "etc-passwd"), ("a/b\\c", "a-b-c"), ("", "unnamed"), ("..", "unnamed"), (".hidden", "hidden"),
    ("naïve médel", "naive-medel"), ("x" * 90, "x" * 40), ("a\nb\0c", "a-b-c")])
def test_names_are_never_paths(text: str, name: str) -> None:
    assert tidy(text) == name


def test_run_directory_name_and_collisions(tmp_path: Path) -> None:
    options = {"method": "../npo", "model": "/home/jane/models/SmolLM2", "spec_hash": HASH, "date": "2026-09-14"}
    first, second = (RunDir.create(tmp_path, **options) for _ in range(2))
    assert first.path.name == "2026-09-14_npo_SmolLM2_3f9a1c5be07d"
    assert second.path.name == "2026-09-14_npo_SmolLM2_3f9a1c5be07d-2"
    assert first.path.parent == tmp_path


def test_two_labels_never_share_a_folder(run: RunDir) -> None:
    assert part("relearn_benign") == "relearn_benign"
    assert len({part("a/b"), part("a-b"), part("a b")}) == 3
    assert run.curve("../../x").is_relative_to(run.attacks)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "./a", "a\\b", "a\0b"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError) as error:
        inside(tmp_path, name)
    assert error.value.code == "record.bad-name"


# -- files -----------------------------------------------------------------------------------------------------
def test_json_is_strict(tmp_path: Path) -> None:
    """NaN becomes null, infinities become words; numpy scalars become numbers."""
    import numpy as np

    data = {"a": float("nan"), "b": float("-inf"), "c": np.float32(0.5), "d": (1, np.int64(2)), "e": np.float32("nan")}
    write_json(tmp_path / "x.json", data)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text and files.read_json(tmp_path / "x.json") == {
        "a": None, "b": "-Infinity", "c": 0.5, "d": [1, 2], "e": None}


@pytest.mark.parametrize("content", [b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b""])
def test_reading_refuses_what_is_not_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RecordError) as error:
        files.read_json(tmp_path / "x.json")
    assert error.value.code == "record.bad-file" and "x.json" in error.value.cause


def test_reading_refuses_size_and_links(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", list(range(100)))
    with pytest.raises(RecordError, match="record.too-large"):
        files.read_json(tmp_path / "x.json", limit=50)
    (tmp_path / "link.json").symlink_to(tmp_path / "x.json")
    with pytest.raises(RecordError):
        files.read_json(tmp_path / "link.json")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch, broken: str) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": True})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, broken, full)
    with pytest.raises(RunFailed) as error:
        write_json(path, {"new": True})
    assert error.value.code == "disk.full" and error.value.exit_code == 2 and error.value.fix
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_full_disk_does_not_glue_events_together(run: RunDir, monkeypatch) -> None:
    """Half a line is taken back, and the error of a full disk is not hidden by a second one."""
    record = RunRecord(run)
    record.event("before")
    real = record._file

    class Full:
        closed = False

        def __getattr__(self, name: str):
            return getattr(real, name)

        def write(self, data: bytes) -> int:
            if len(data) > 10:
                return real.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    record._file = Full()  # type: ignore[assignment]
    with pytest.raises(RunFailed, match="disk.full"):
        record.event("lost", text="a" * 8)
    record._file = real
    record.event("after")
    assert [e["event"] for e in events(run)] == ["before", "after"]


# -- events, stages, resume --------------------------------------------------------------------------------------
def test_events_have_time_and_stage(run: RunDir) -> None:
    record = RunRecord(run)
    with record.stage("unlearn"):
        record.event("note", text="hello")
    record.training_log("target")({"event": "step", "step": 1, "loss": 0.5})
    first, note, done, step = events(run)
    assert [e["event"] for e in (first, note, done, step)] == ["stage-started", "note", "stage-done", "step"]
    assert note["stage"] == "unlearn" and note["text"] == "hello" and note["time"].endswith("+00:00")
    assert step["stage"] == "target" and step["loss"] == 0.5
    assert done["seconds"] >= 0 and done["cpu_seconds"] >= 0 and done["memory"]["ram"] > 1


def test_finished_stages_are_skipped_and_keep_their_data(run: RunDir) -> None:
    record = RunRecord(run)
    with record.stage("models") as stage:
        assert stage.todo
        stage.data["key"] = "abc"
    with pytest.raises(ValueError), record.stage("unlearn"):
        raise ValueError("no")
    again = RunRecord(run)
    with again.stage("models") as stage:
        assert not stage.todo and stage.data == {"key": "abc"}
    with again.stage("unlearn") as stage:
        assert stage.todo
    assert sum(e["event"] == "stage-started" and e["stage"] == "models" for e in events(run)) == 1


def test_a_stage_whose_output_is_gone_runs_again_and_so_do_later_ones(run: RunDir) -> None:
    record = RunRecord(run)
    for name in ("models", "unlearn", "audit"):
        with record.stage(name, [f"{name}.json"]):
            write_json(run.path / f"{name}.json", {})
    record.close()
    (run.path / "unlearn.json").unlink()
    again = RunRecord(run)
    todo = {}
    for name in ("models", "unlearn", "audit"):
        with again.stage(name, [f"{name}.json"]) as stage:
            todo[name] = stage.todo
            write_json(run.path / f"{name}.json", {})
    assert todo == {"models": False, "unlearn": True, "audit": True}


def test_a_stage_must_write_what_it_promised(run: RunDir) -> None:
    with pytest.raises(RecordError, match="record.no-output"), RunRecord(run).stage("audit", ["scores.json"]):
        pass


def test_a_line_cut_short_is_dropped(run: RunDir) -> None:
    record = RunRecord(run)
    record.event("one")
    record.close()
    with open(run.events, "ab") as handle:
        handle.write(b'{"event": "stage-done", "stage": "au')
    assert [e["event"] for e in load_run(run.path).events] == ["one"]
    again = RunRecord(run)
    again.event("two")
    assert [e["event"] for e in events(run)] == ["one", "two"]


def test_history_counts_a_repeated_step_once(run: RunDir) -> None:
    """Steps 1, 2, 3 were logged, the process was killed after the checkpoint of step 1; 2 and 3 come again."""
    record = RunRecord(run)
    log = record.training_log("unlearn")
    for step, loss in ((1, .1), (2, .2), (3, .3), (2, .25), (3, .35)):
        log({"event": "step", "step": step, "loss": loss})
    record.training_log("target")({"event": "step", "step": 1, "loss": 9.})
    assert [(e["step"], e["loss"]) for e in record.history("unlearn")] == [(1, .1), (2, .25), (3, .35)]


def test_failure_is_recorded_and_the_run_can_go_on(run: RunDir) -> None:
    with pytest.raises(RunFailed), RunRecord(run) as record, record.stage("unlearn"):
        raise RunFailed("train.non-finite", "step 3", "lower train.lr")
    status = load_run(run.path).status
    assert (status.state, status.stage, status.error.code, status.error.fix) == (
        "failed", "unlearn", "train.non-finite", "lower train.lr")
    assert status.spec_hash == HASH and status.started
    assert RunDir.find_resumable(run.path.parent, HASH) == run
    RunRecord(run).close()
    assert load_run(run.path).status.state == "running"


def test_find_resumable(run: RunDir) -> None:
    root = run.path.parent
    assert RunDir.find_resumable(root / "nowhere", HASH) is None
    assert RunDir.find_resumable(root, "f" * 64) is None
    record = RunRecord(run)
    assert RunDir.find_resumable(root, HASH) is None  # a live process writes it
    with pytest.raises(RecordError, match="record.busy"):
        RunRecord(run)
    record.close()
    (root / "foreign").mkdir()
    (root / "foreign" / "status.json").write_text("not json")
    assert RunDir.find_resumable(root, HASH) == run
    RunRecord(run).complete()
    assert RunDir.find_resumable(root, HASH) is None
    with pytest.raises(RecordError, match="record.complete"):
        RunRecord(run)


def test_killed_process_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """kill -9 in the middle of a stage: its lock is gone, finished stages are known, the open one is to be done."""
    code = f"""
import sys, time
from pathlib import Path
from efface.runs.layout import RunDir
from efface.runs.record import RunRecord
run = RunDir.create(Path({str(tmp_path)!r}), method="npo", model="tiny", spec_hash={HASH!r})
record = RunRecord(run)
with record.stage("models"): pass
with record.stage("unlearn"):
    print("ready", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SRC)})
    assert process.stdout.readline() == b"ready\n"
    assert RunDir.find_resumable(tmp_path, HASH) is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.time() + 5
    while (found := RunDir.find_resumable(tmp_path, HASH)) is None and time.time() < deadline:
        time.sleep(.05)
    record = RunRecord(found)
    with record.stage("models") as models, record.stage("unlearn") as unlearn:
        assert (models.todo, unlearn.todo) == (False, True)


def test_complete_writes_the_manifest_last(run: RunDir) -> None:
    record = RunRecord(run)
    (run.path / ".left.json.123-ab.tmp").write_text("left by a killed writer")
    path = record.complete(lambda: (run.path / "report.html").write_text("<p>"))
    listed = json.loads(path.read_text())["files"]
    assert set(listed) == {"events.jsonl", "report.html", "status.json"}
    assert load_run(run.path).status.state == "complete" and manifest.verify(run) == []


def test_a_report_that_fails_leaves_the_run_incomplete(run: RunDir) -> None:
    with pytest.raises(ZeroDivisionError):
        RunRecord(run).complete(lambda: 1 / 0)
    assert not run.manifest.exists() and load_run(run.path).status.state == "failed"


# -- manifest and verification -----------------------------------------------------------------------------------
NAMES = ["attacks/relearn_in_domain/curve.json", "conclusion.json", "events.jsonl", "provenance.json", "report.html", "report.md",
         "request.json", "rows.json", "samples/unlearned.jsonl", "scores.json", "spec.yaml", "status.json", "training.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, tmp_path / made.name))


def test_an_untouched_run_verifies(copy: Path) -> None:
    assert manifest.verify(copy) == []
    manifest.require_intact(copy)
    assert manifest.count(copy) == len([p for p in copy.rglob("*") if p.is_file()]) - 1
    assert len(manifest.digest(copy)) == 64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["one byte", "longer", "removed", "link"])
def test_every_change_is_named(copy: Path, name: str, how: str) -> None:
    path = copy / name
    data = bytearray(path.read_bytes())
    if how == "one byte":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "longer":
        path.write_bytes(bytes(data) + b" ")
    else:
        path.unlink()
        if how == "link":
            path.symlink_to("/etc/hostname")
    found = manifest.verify(copy)
    kind = {"one byte": "changed", "longer": "changed", "removed": "missing", "link": "link"}[how]
    assert [(f.kind, f.file) for f in found] == [(kind, name)]
    with pytest.raises(RecordError, match="record.changed") as error:
        manifest.require_intact(copy)
    assert name in error.value.cause


def test_added_files_and_linked_folders_are_named(copy: Path, tmp_path: Path) -> None:
    (copy / "attacks" / "extra").mkdir()
    (copy / "attacks" / "extra" / "curve.json").write_text("{}")
    (copy / "elsewhere").symlink_to(tmp_path)
    assert {(f.kind, f.file) for f in manifest.verify(copy)} == {("extra", "attacks/extra/curve.json"), ("extra", "elsewhere")}


def test_without_a_manifest_a_run_is_incomplete(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    assert [f.kind for f in manifest.verify(copy)] == ["incomplete"]
    with pytest.raises(RecordError, match="record.incomplete"):
        manifest.require_intact(copy)
    with pytest.raises(RecordError, match="record.missing"):
        manifest.verify(copy / "nowhere")


def test_a_hostile_manifest_reads_nothing_outside(copy: Path) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    data = json.loads((copy / "manifest.json").read_text())
    write_json(copy / "manifest.json", {**data, "files": {**data["files"], "../../secret": entry}})
    assert [(f.kind, f.file) for f in manifest.verify(copy)] == [("bad", "../../secret")]
    with pytest.raises(RecordError, match="record.bad-name"):
        load_run(copy)
    write_json(copy / "manifest.json", {**data, "files": {"a": {"sha256": "xyz", "size": 1}}})
    assert [f.kind for f in manifest.verify(copy)] == ["bad"]


def test_scores_are_derived_again(copy: Path) -> None:
    """A record rewritten with its manifest passes the hashes; the tables still contradict it."""
    stored = {(s.role, s.name, s.rows): s.value for s in load_run(copy).scores.scores}

    def tables(_: Path):
        yield from ((*key, value) for key, value in stored.items())
        yield "unlearned", "not_recomputable", "forget", None

    assert manifest.verify(copy, tables) == []
    data = json.loads((copy / "scores.json").read_text())
    data["scores"][0]["value"] += 0.001
    write_json(copy / "scores.json", data)
    manifest.write(copy)
    assert manifest.verify(copy) == []
    found = manifest.verify(copy, tables)
    first = data["scores"][0]
    assert [(f.kind, f.file) for f in found] == [("score", "scores.json")] and first["name"] in found[0].what


def test_a_score_that_was_hidden_is_found(copy: Path) -> None:
    data = json.loads((copy / "scores.json").read_text())
    key, value = [data["scores"][0][k] for k in ("role", "name", "rows")], data["scores"][0]["value"]
    data["scores"][0]["value"] = None
    write_json(copy / "scores.json", data)
    manifest.write(copy)
    found = manifest.verify(copy, lambda _: [(*key, value)])
    assert len(found) == 1 and "says nothing" in found[0].what


# -- loading -------------------------------------------------------------------------------------------------------
def test_load_run(made: Path) -> None:
    run = load_run(made)
    assert run.complete and run.status.state == "complete" and run.name == made.name
    assert run.spec["method"]["settings"] == {"beta": 0.1} and run.origins["method.settings.beta"] == "user --set"
    assert run.scores.suite == "people" and run.conclusion.label == "concealed" and run.provenance.git.dirty
    assert [c.attack for c in run.curves].count("round_weights") == 3
    assert run.curves[1].attack == "relearn_in_domain" and run.curves[1].points[0].budget == {"steps": 0}
    assert len(run.samples("unlearned")) == 24 * 3 + 20 and run.samples("base") == []


def test_loading_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="record.missing"):
        load_run(tmp_path)


@pytest.mark.parametrize(("name", "change", "code"), [
    ("scores.json", {"schema": 2}, "record.unknown-schema"),
    ("status.json", {"schema": "1; drop"}, "record.unknown-schema"),
    ("scores.json", {"scores": [{"role": "unlearned"}]}, "record.bad-file"),
    ("conclusion.json", {"label": "certainly gone"}, "record.bad-file"),
    ("training.json", {"steps": "many"}, "record.bad-file"),
    ("attacks/round_weights/curve.json", {"points": {}}, "record.bad-file")])
def test_loading_validates_every_file(copy: Path, name: str, change: dict, code: str) -> None:
    write_json(copy / name, {**json.loads((copy / name).read_text()), **change})
    with pytest.raises(RecordError) as error:
        load_run(copy)
    assert error.value.code == code and name in error.value.cause


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x\n", "a: !!python/object/apply:os.system ['true']\n", "a: [", "\0"])
def test_hostile_spec_is_refused(copy: Path, text: str) -> None:
    (copy / "spec.yaml").write_text(text)
    with pytest.raises(RecordError) as error:
        load_run(copy)
    assert error.value.code == "record.bad-file" and "spec.yaml" in error.value.cause


def test_links_are_not_followed(copy: Path, tmp_path: Path) -> None:
    (copy / "conclusion.json").rename(tmp_path / "elsewhere.json")
    (copy / "conclusion.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RecordError, match="record.link"):
        load_run(copy)


def test_a_bad_sample_line_is_named(copy: Path) -> None:
    with open(copy / "samples" / "unlearned.jsonl", "a") as handle:
        handle.write("{}\n")
    with pytest.raises(RecordError, match="line 93"):
        load_run(copy).samples("unlearned")


# -- samples -------------------------------------------------------------------------------------------------------
ROW = {"row": "f1", "entity": "Ilvane Torrick", "set": "forget", "prompt": "Where was Ilvane born?", "gold": "in Vallmora",
       "output": "in Vallmora", "scores": {"rouge": 1.0, "probability": float("nan")}, "problem": ""}


def test_forget_text_is_hashed_with_a_key(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "set": "forget_paraphrase"}, {**ROW, "set": "holdout"}, {**ROW, "set": "retain", "row": "r1"}]
    samples.write_sample_rows(tmp_path / "s.jsonl", rows, keep_text=False, key=KEY)
    first, second, third, retain = map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())
    for row in (first, second, third):
        assert row["hidden"] and all(row[k].startswith("hmac-sha256:") for k in ("entity", "prompt", "gold", "output"))
        assert "Vallmora" not in json.dumps(row) and "Ilvane" not in json.dumps(row)
    assert first["gold"] == first["output"] != first["prompt"]
    assert first["scores"] == {"rouge": 1.0, "probability": None}
    assert retain["output"] == "in Vallmora" and not retain["hidden"]
    assert samples.keyed_hash("in Vallmora", KEY) == first["gold"] != samples.keyed_hash("in Vallmora", b"other")


def test_text_is_kept_when_asked(tmp_path: Path) -> None:
    samples.write_sample_rows(tmp_path / "s.jsonl", [ROW], keep_text=True)
    assert json.loads((tmp_path / "s.jsonl").read_text())["gold"] == "in Vallmora"


def test_the_key_lies_outside_the_run_and_is_private(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    samples.write_sample_rows(tmp_path / "run" / "s.jsonl", [ROW], keep_text=False)
    key = tmp_path / "cache" / "keys" / "samples.key"
    assert len(key.read_bytes()) == 32 and key.stat().st_mode & 0o777 == 0o600 and samples.sample_key() == key.read_bytes()
    assert key.read_bytes().hex() not in (tmp_path / "run" / "s.jsonl").read_text()
    key.write_bytes(b"")
    with pytest.raises(RecordError, match="record.bad-key"):
        samples.sample_key()


# -- provenance ------------------------------------------------------------------------------------------------------
def test_provenance_says_what_ran_and_nothing_private() -> None:
    from efface.runs.schema import Provenance, check

    models = {"target": {"origin": "folder", "key": "/home/jane/secret/model", "made": {"rows": 3}}}
    data = provenance.collect(seeds={"run": 7}, models=models, fingerprints={"target": "ab"}, data={"name": "people", "sha256": "cd"})
    loaded = check(Provenance, data, "provenance.json")
    assert loaded.seeds == {"run": 7} and loaded.python == ".".join(map(str, sys.version_info[:3]))
    assert loaded.packages["pydantic"] and loaded.hardware["cores"] and loaded.memory["ram"] > 1
    assert loaded.models["target"] == {"origin": "folder", "key": "model", "made": {"rows": 3}}
    import socket

    for private in ("/home/", str(Path.home()) + "/", socket.gethostname()):
        assert private not in json.dumps(data)


def test_git_state(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)

    assert provenance.git_state(tmp_path) is None
    git("init")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-m", "one")
    clean = provenance.git_state(tmp_path / "code")
    assert len(clean["commit"]) == 40 and not clean["dirty"]
    (tmp_path / "code" / "x.py").write_text("x = 2\n")
    assert provenance.git_state(tmp_path / "code")["dirty"]
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "y.py").write_text("y = 1\n")
    assert provenance.git_state(tmp_path / "installed") is None  # somebody else's checkout around an installed copy


def test_nothing_here_loads_torch() -> None:
    code = ("import sys, efface.runs.record, efface.runs.samples, efface.runs.compare, efface.report.html, efface.report.comparison;"
            "bad = {'torch', 'numpy', 'pyarrow', 'jinja2'} & set(sys.modules); sys.exit(str(bad) if bad else 0)")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(SRC)})
