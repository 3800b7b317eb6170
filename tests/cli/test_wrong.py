"""When things are wrong: code, cause and fix, exit 1 (2 where the run failed), no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from efface.errors import RunFailed
from tests.cli.conftest import SMALL, efface

ROWS = [{"id": f"r{i}", "prompt": f"Question {i}?", "answer": f"Answer number {i}."} for i in range(6)]


def jsonl(path: Path, rows) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def request_file(folder: Path, **parts) -> Path:
    path = folder / "request.json"
    path.write_text(json.dumps({"id": "r1", **parts}))
    return path


def refused(cli, words: list[str], code: str, *told: str, exit_code: int = 1, out: Path | None = None) -> None:
    """Run, and find the code, the words that must be told, a fix, and no traceback."""
    got, stdout, stderr = cli(*words)
    assert got == exit_code, stdout + stderr
    assert f"[{code}]" in stderr and "fix:" in stderr and "Traceback" not in stderr, stderr
    for word in told:
        assert word in stderr, stderr
    assert out is None or not out.exists(), "something was written"


def by_request(request: Path, out: Path) -> list[str]:
    return ["unlearn", "--model", "tiny", "--request", str(request), "--suite", "deletion_request", "--out", str(out)]


@pytest.mark.parametrize(
    ("name", "rows", "code", "told"),
    [
        ("gone.jsonl", None, "data.missing-file", ["gone.jsonl"]),
        ("empty.jsonl", [], "data.empty-file", ["empty.jsonl"]),
        ("bad.jsonl", [ROWS[0], "{oops", ROWS[1]], "data.malformed-line", ["bad.jsonl", "2"]),
        ("odd.jsonl", [{**ROWS[0], "promt": "x"}], "data.unknown-field", ["promt", "prompt"]),
    ],
)
def test_bad_data_files(name, rows, code, told, cli, tmp_path: Path) -> None:
    if rows is not None:
        jsonl(tmp_path / name, rows)
    jsonl(tmp_path / "retain.jsonl", ROWS[3:])
    request = request_file(tmp_path, forget={"path": name}, retain={"path": "retain.jsonl"})
    got, _, stderr = cli(*by_request(request, tmp_path / "out"))
    assert got == 1 and "fix:" in stderr and "Traceback" not in stderr and f"[{code}]" in stderr, stderr
    assert all(word in stderr for word in told), stderr
    assert not (tmp_path / "out").exists()


def test_same_row_in_forget_and_retain(cli, tmp_path: Path) -> None:
    jsonl(tmp_path / "f.jsonl", ROWS[:2]), jsonl(tmp_path / "r.jsonl", ROWS[1:])
    request = request_file(tmp_path, forget={"path": "f.jsonl"}, retain={"path": "r.jsonl"})
    got, _, stderr = cli(*by_request(request, tmp_path / "out"))
    assert got == 1 and "r1" in stderr and "fix:" in stderr and not (tmp_path / "out").exists(), stderr


def test_forget_larger_than_the_data(cli, tmp_path: Path) -> None:
    jsonl(tmp_path / "f.jsonl", ROWS), jsonl(tmp_path / "d.jsonl", ROWS[:3])
    request = request_file(tmp_path, forget={"path": "f.jsonl"}, data={"path": "d.jsonl"})
    got, _, stderr = cli(*by_request(request, tmp_path / "out"))
    assert got == 1 and "fix:" in stderr and "Traceback" not in stderr and not (tmp_path / "out").exists(), stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--method", "npoo"], "registry.unknown-method", "'npo'"),
        (["--set", "method.betta=1"], "spec.unknown-setting", "'beta'"),
        (["--set", "train.learning_rate=1"], "spec.unknown-setting", "train.learning_rate"),
        (["--set", "trian.lr=1"], "spec.unknown-setting", "'train'"),
        (["--set", "train.lr=fast"], "spec.bad-value", "train.lr"),
        (["--suite", "tofuu"], "suite.unknown", "'tofu'"),
        (["--benchmark", "peple"], "registry.unknown-benchmark", "'people'"),
        (["--set", "train.lr"], "spec.bad-set", "path=value"),
        (["--set", "train.rule=summ"], "registry.unknown-rule", "'sum'"),
    ],
)
def test_unknown_names_teach(words, code, told, cli, tmp_path: Path) -> None:
    got, _, stderr = cli("check", "--model", "tiny", *words)
    if code != "registry.unknown-rule":
        assert got == 1 and f"[{code}]" in stderr and told in stderr and "Traceback" not in stderr, stderr
    else:
        got, _, stderr = cli("unlearn", "--model", "tiny", "--out", str(tmp_path / "out"), *SMALL, *words)
        assert got == 1 and f"[{code}]" in stderr and told in stderr, stderr


def test_method_without_the_retain_set_it_needs(cli, tmp_path: Path) -> None:
    jsonl(tmp_path / "f.jsonl", ROWS[:3])
    request = request_file(tmp_path, forget={"path": "f.jsonl"})
    refused(
        cli,
        [
            "check",
            "--model",
            "tiny",
            "--request",
            str(request),
            "--suite",
            "deletion_request",
            "--set",
            "reference.kind=none",
        ],
        "method.needs-retain",
        "npo",
    )


def broken_model(run: Path, folder: Path, change) -> Path:
    shutil.copytree(run / "model", folder)
    change(folder)
    return folder


def pickled(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not opened")


def no_template(folder: Path) -> None:
    for name in ("chat_template.jinja", "efface.json", "artifact.json"):
        (folder / name).unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("change", "code"), [(pickled, "model.pickle-only"), (no_template, "model.no-template")])
def test_bad_model_folders(change, code, run: Path, cli, tmp_path: Path) -> None:
    folder = broken_model(run, tmp_path / "model", change)
    jsonl(tmp_path / "f.jsonl", ROWS[:2]), jsonl(tmp_path / "r.jsonl", ROWS[2:])
    request = request_file(tmp_path, forget={"path": "f.jsonl"}, retain={"path": "r.jsonl"})
    got, _, stderr = cli(
        "unlearn",
        "--model",
        str(folder),
        "--request",
        str(request),
        "--suite",
        "deletion_request",
        "--out",
        str(tmp_path / "out"),
        "--set",
        "target.kind=folder",
        "--set",
        f"target.path={folder}",
        "--set",
        "reference.kind=none",
    )
    assert got == 1 and f"[{code}]" in stderr and "fix:" in stderr and "Traceback" not in stderr, stderr


def test_long_rows_are_counted_not_cut(run: Path, cli, tmp_path: Path) -> None:
    """One forget row of 3,000 words: left out of training, counted in the events, unscored in the scores."""
    (
        jsonl(tmp_path / "f.jsonl", [*ROWS[:3], {"id": "long", "prompt": "Why?", "answer": "word " * 3000}]),
        jsonl(tmp_path / "r.jsonl", ROWS[3:]),
    )
    request = request_file(tmp_path, forget={"path": "f.jsonl"}, retain={"path": "r.jsonl"})
    code, out, err = cli(
        "unlearn",
        "--model",
        str(run / "model"),
        "--request",
        str(request),
        "--suite",
        "deletion_request",
        "--json",
        "--out",
        str(tmp_path / "out"),
        "--set",
        "target.kind=folder",
        "--set",
        f"target.path={run / 'model'}",
        "--set",
        "reference.kind=none",
        "--set",
        "train.steps=2",
        "--set",
        "audit.attacks=[round_weights]",
        "--set",
        "audit.resamples=100",
    )
    assert code == 0, err
    folder = Path(json.loads(out)["run"])
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [(e["count"], e["first"]) for e in events if e["event"] == "rows-left-out"] == [(1, 3)]
    scores = {(s["role"], s["name"], s["rows"]): s for s in json.loads((folder / "scores.json").read_text())["scores"]}
    assert (
        scores["unlearned", "probability", "forget"]["unscored"] == 1
        and scores["unlearned", "probability", "forget"]["n"] == 3
    )
    assert any("could not be scored" in w for w in json.loads(out)["warnings"])


def test_forget_text_is_not_in_the_record_unless_asked(run: Path, cli, tmp_path: Path) -> None:
    """A secret of the forget set appears in no file of the run."""
    secret = "Quillon Zephyrine"
    (
        jsonl(tmp_path / "f.jsonl", [{"id": "s", "prompt": "Who is it?", "answer": f"It is {secret}."}, *ROWS[:2]]),
        jsonl(tmp_path / "r.jsonl", ROWS[2:]),
    )
    request = request_file(tmp_path, forget={"path": "f.jsonl"}, retain={"path": "r.jsonl"})
    code, out, err = cli(
        "unlearn",
        "--model",
        str(run / "model"),
        "--request",
        str(request),
        "--suite",
        "deletion_request",
        "--json",
        "--out",
        str(tmp_path / "out"),
        "--set",
        "target.kind=folder",
        "--set",
        f"target.path={run / 'model'}",
        "--set",
        "reference.kind=none",
        "--set",
        "train.steps=2",
        "--set",
        "audit.attacks=[round_weights]",
        "--set",
        "audit.resamples=100",
    )
    assert code == 0, err
    folder = Path(json.loads(out)["run"])
    import pyarrow.feather as feather

    for file in folder.rglob("*"):
        if file.is_file():
            content = (
                str(feather.read_table(file).to_pylist())
                if file.suffix == ".arrow"
                else file.read_bytes().decode("utf-8", "ignore")
            )
            assert secret not in content, file.name


def test_no_disk_space(monkeypatch, tmp_path: Path) -> None:
    """A full disk is a run failure with a fix, and no temporary file stays behind."""
    import pyarrow as pa

    from efface.passes.cache import Cache
    from efface.runs.files import write_json

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    for write in (
        lambda: write_json(tmp_path / "a.json", {}),
        lambda: Cache(tmp_path / "c").put("k", pa.table({"x": [1]})),
    ):
        with pytest.raises(RunFailed, match="disk.full") as caught:
            write()
        assert caught.value.fix and caught.value.exit_code == 2
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_non_finite_loss_exits_2(cli, tmp_path: Path) -> None:
    words = [w for w in SMALL]
    got, _, stderr = cli(
        "unlearn",
        "--model",
        "tiny",
        "--method",
        "grad_ascent",
        "--out",
        str(tmp_path / "out"),
        *words,
        "--set",
        "train.lr=1e18",
        "--set",
        "train.optimizer=sgd",
        "--set",
        "train.clip=0",
        "--set",
        "train.stop_nll=0",
    )
    assert got == 2 and "[train.non-finite]" in stderr and "Traceback" not in stderr, stderr
    (folder,) = (tmp_path / "out").iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed" and not (folder / "manifest.json").exists() and not (folder / "model").exists()


def test_errors_are_json_too() -> None:
    done = efface("check", "--method", "npoo", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["error"] == "registry.unknown-method"
