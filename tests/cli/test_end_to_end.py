"""Every verb, once, on one finished run."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, efface


def test_demo_says_what_was_found(run: Path) -> None:
    """Target knows the forget set, the unlearned model less so; the record is complete."""
    scores = {(s["role"], s["name"], s["rows"]): s for s in json.loads((run / "scores.json").read_text())["scores"]}
    assert scores["target", "rouge", "forget"]["value"] >= 0.9
    # twelve of the recipe's forty steps: on the way, and clearly so
    assert (
        scores["unlearned", "probability", "forget"]["value"] < scores["target", "probability", "forget"]["value"] - 0.1
    )
    assert (
        scores["unlearned", "probability", "forget"]["target"] == scores["reference", "probability", "forget"]["value"]
    )
    names = {p.name for p in run.iterdir()}
    assert {
        "spec.yaml",
        "request.json",
        "provenance.json",
        "status.json",
        "events.jsonl",
        "model",
        "samples",
        "tables",
        "scores.json",
        "attacks",
        "conclusion.json",
        "report.html",
        "report.md",
        "manifest.json",
    } <= names
    assert {p.name for p in (run / "attacks").iterdir()} == {"round_weights", "relearn_in_domain", "relearn_benign"}


def test_every_curve_has_its_control(run: Path) -> None:
    for attack in (run / "attacks").iterdir():
        points = json.loads((attack / "curve.json").read_text())["points"]
        assert {"unlearned", "reference"} <= {p["role"] for p in points} and len(points) >= 6
    assert "target" in {p["role"] for p in json.loads((run / "attacks/round_weights/curve.json").read_text())["points"]}


def test_training_record(run: Path) -> None:
    training = json.loads((run / "training.json").read_text())
    assert training["steps"] == 12 and training["moved_share"] > 0.5 and training["warnings"] == []


def test_origins_are_recorded(run: Path) -> None:
    import yaml

    spec = yaml.safe_load((run / "spec.yaml").read_text())
    assert spec["origins"]["train.steps"] == "user --set" and spec["origins"]["train.lr"].startswith("recipe npo")


def test_verify_report_compare(run: Path, cli) -> None:
    code, out, _ = cli("verify", str(run), "--json")
    found = json.loads(out)
    assert code == 0 and found["findings"] == [] and found["rederived"] > 40
    code, out, _ = cli("report", str(run), "--format", "md")
    assert code == 0 and "does not" in out.lower()
    code, out, _ = cli("report", str(run), "--format", "html")
    assert (
        code == 0
        and out.lstrip().lower().startswith("<!doctype html")
        and "http://" not in out.replace("http://www.w3.org", "")
    )
    assert cli("report", str(run), "--format", "json", "--json")[0] == 0
    code, out, _ = cli("compare", str(run), str(run), "--json")
    assert code == 0 and json.loads(out)


def test_verify_names_a_changed_file(run: Path, cli, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    scores = copy / "scores.json"
    scores.write_text(scores.read_text().replace('"n_forget": ', '"n_forget":  '))
    code, out, err = cli("verify", str(copy))
    assert code == 1 and "scores.json" in out + err


@pytest.mark.parametrize("kind", ["methods", "metrics", "attacks", "rules", "benchmarks", "suites", "recipes"])
def test_list(kind: str, cli) -> None:
    code, out, _ = cli("list", kind, "--json")
    assert code == 0 and len(json.loads(out)) >= 2


@pytest.mark.parametrize("name", ["npo", "rouge", "relearn", "sum", "people", "tofu"])
def test_show(name: str, cli) -> None:
    code, out, _ = cli("show", name, "--json")
    data = json.loads(out)
    assert code == 0 and data["name"] == name and data["card"]["title"] and data["file"].startswith("efface/")


def test_show_tells_of_everything_with_that_name(cli) -> None:
    """tofu is a benchmark and a suite."""
    code, out, _ = cli("show", "tofu")
    assert code == 0 and "tofu (benchmark)" in out and "tofu (suite)" in out
    assert [one["kind"] for one in json.loads(cli("show", "tofu", "--json")[1])["also"]] == ["suite"]


@pytest.mark.parametrize(
    "words",
    [
        ["--methods", "npo"],
        ["--model", "tiny"],
        ["--benchmark", "tofu"],
        ["--split", "forget01"],
        ["--spec", "x.yaml"],
        ["--set", "seed=1"],
        ["--out", "elsewhere"],
        ["--budget", "equal"],
        ["--tau", "0.9"],
    ],
    ids=lambda words: words[0],
)
def test_bench_refuses_what_it_would_not_use(words: list[str], cli) -> None:
    for what in ("metrics", "attacks"):
        code, out, _ = cli("bench", what, "--dry-run", "--json", *words)
        assert code == 1 and json.loads(out)["error"] == "bench.unused-option" and words[0] in json.loads(out)["cause"]


def test_check_and_dry_run_write_nothing(cli, tmp_path: Path) -> None:
    code, out, _ = cli("check", "--model", "tiny", "--json", *SMALL)
    plan = json.loads(out)
    assert code == 0 and plan["train"]["forget"] > 0 and plan["memory_gib"] and plan["minutes"] is not None
    for verb in (
        ["demo", "--model", "tiny"],
        ["unlearn", "--model", "tiny"],
        ["bench", "methods", "--methods", "npo,idk", "--model", "tiny"],
    ):
        assert cli(*verb, "--dry-run", "--out", str(tmp_path / "out"), *SMALL)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_check_says_early_what_will_not_be_computed(cli) -> None:
    code, out, _ = cli("check", "--model", "tiny", "--set", "reference.kind=none", "--json")
    told = json.loads(out)["not_computed"]
    assert (
        code == 0
        and any(t.startswith("forget_quality") for t in told)
        and any(t.startswith("attack relearn") for t in told)
    )


def report_of(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_the_audited_folder_is_the_model(cli, run: Path, tmp_path: Path) -> None:
    """Cost is that of the folder, not of the tiny model; of an artifact that of its target; a name that is set wins."""
    from efface.build import base
    from efface.loading import load_data
    from efface.spec import load, parse_spec

    spec = parse_spec(load(run / "spec.yaml"))
    start = base(spec, load_data(spec)[0]).folder
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "artifact.json").write_text("{}")
    for words in ([str(start)], [str(tmp_path / "own"), "--target", str(start)]):
        code, out, err = cli("audit", *words, "--dry-run", "--json")
        plan = json.loads(out)
        assert code == 0 and plan["model"] == str(start) and 0 < plan["parameters"] < 1_500_000, err
    code, out, _ = cli("audit", str(start), "--dry-run", "--json", "--set", "model.name=tiny")
    assert json.loads(out)["model"] == "tiny"


def test_audit_of_folders_exits_3_when_knowledge_is_there(run: Path, cli, tmp_path: Path) -> None:
    """The target audited as if it were unlearned: retained, exit 3. No reference: inconclusive, exit 0, no excess."""
    from efface.build import base, made
    from efface.loading import load_data
    from efface.spec import load, parse_spec

    spec = parse_spec(load(run / "spec.yaml"))
    data, _ = load_data(spec)
    models = {role: made(role, spec, data, base(spec, data)).folder for role in ("target", "reference")}
    plain = [
        "--benchmark",
        "people",
        "--suite",
        "people",
        "--set",
        "data.people=8",
        "--set",
        "data.world_facts=false",
        "--set",
        "data.everyday=false",
        "--set",
        "audit.attacks=[round_weights]",
        "--set",
        "audit.resamples=100",
        "--json",
        "--out",
        str(tmp_path),
    ]
    code, out, err = cli(
        "audit",
        str(models["target"]),
        "--target",
        str(models["target"]),
        "--reference",
        str(models["reference"]),
        *plain,
    )
    assert code == 3, err
    assert json.loads(out)["conclusion"]["label"] == "retained"
    folder = Path(json.loads(out)["run"])
    assert models["target"].name[:8] in folder.name and str(models["target"].parent) not in report_of(folder)
    assert f"Audit of {models['target'].name}" in report_of(folder) and "_tiny_" not in folder.name
    code, out, err = cli("audit", str(run / "model"), "--target", str(models["target"]), *plain)
    assert code == 0 and json.loads(out)["conclusion"]["label"] == "inconclusive", err
    quality = [
        s
        for s in json.loads((Path(json.loads(out)["run"]) / "scores.json").read_text())["scores"]
        if s["name"] == "forget_quality"
    ]
    assert quality[0]["value"] is None and "reference" in quality[0]["reason"]


def test_unlearn_from_a_spec_file(cli, tmp_path: Path) -> None:
    assert cli("new", "spec", "mine", "--folder", str(tmp_path))[0] == 0
    code, out, err = cli(
        "unlearn",
        str(tmp_path / "mine.yaml"),
        "--json",
        "--out",
        str(tmp_path / "runs"),
        *[w if w != "train.steps=12" else "train.steps=4" for w in SMALL],
        "--set",
        "audit.attacks=[round_weights]",
    )
    assert code == 0, err
    assert json.loads(out)["scores"]


def test_bench_writes_a_leaderboard_and_takes_finished_runs(cli, tmp_path: Path) -> None:
    words = [
        "bench",
        "methods",
        "--methods",
        "npo,task_vector",
        "--model",
        "tiny",
        "--suite",
        "people",
        "--board",
        str(tmp_path / "board"),
        "--out",
        str(tmp_path / "runs"),
        *[w if w != "train.steps=12" else "train.steps=3" for w in SMALL],
        "--set",
        "audit.attacks=[round_weights]",
        "--json",
    ]
    code, out, err = cli(*words)
    assert code == 0, err
    before = sorted(p.name for p in (tmp_path / "runs").iterdir())
    again = cli(*words)
    assert again[0] == 0 and sorted(p.name for p in (tmp_path / "runs").iterdir()) == before
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    assert [r["method"] for r in board["rows"]] == ["npo", "task_vector"] and all(r["spec_hash"] for r in board["rows"])
    assert "| *reference* |" in (tmp_path / "board" / "leaderboard.md").read_text()


@pytest.mark.parametrize(("kind", "registry"), [("method", "METHODS"), ("metric", "METRICS"), ("attack", "ATTACKS")])
def test_new_files_work_as_they_are(kind: str, registry: str, cli, tmp_path: Path, monkeypatch) -> None:
    assert cli("new", kind, f"my_{kind}", "--folder", str(tmp_path))[0] == 0
    code = f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        import my_{kind}
        from efface.{kind}s.base import {registry}
        from efface.testing import battery
        from efface.testing.bench import bench
        b = bench("causal_lm")
        if {kind!r} == "method":
            for check in battery.METHOD_CHECKS:
                check("my_method", b)
        elif {kind!r} == "attack":
            battery.check_attack("my_attack", b)
        else:
            from efface.metrics.base import METRICS, compute
            from efface.testing.tables import hand_tables
        assert "my_{kind}" in {registry}.names()
        print("works")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("works"), done.stderr


def test_doctor(cli) -> None:
    code, out, _ = cli("doctor", "--json")
    assert code == 0 and {"torch", "cache", "cores"} <= {row["what"] for row in json.loads(out)}


def test_import_is_instant() -> None:
    """``import efface`` loads no torch and takes under 0.3 s of CPU time; ``--help`` loads no torch either."""
    code = (
        "import time; s = time.process_time(); import efface; t = time.process_time() - s; import sys; "
        "print(t, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    took, torch, numpy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    ).stdout.split()
    assert float(took) < 0.3 and (torch, numpy) == ("False", "False")
    code = "import sys; from efface.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        .stdout.strip()
        .endswith("False")
    )


def test_usage_errors_exit_1_without_a_traceback() -> None:
    done = efface("no_such_verb")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "fix:" in done.stderr
