"""A package outside Efface adds a method, a metric, an attack and a benchmark, and all of Efface works with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, efface
from tests.plugin_site import install

PLUGIN = Path(__file__).resolve().parents[1] / "plugin"
PARTS = {"bounded_ascent": "methods", "weakest_token": "metrics", "reminder": "attacks", "gardens": "benchmarks"}
SUITE = """
name: with_plugin
metrics:
  forget: [probability, rouge, weakest_token]
  retain: [probability, rouge, weakest_token]
attacks:
  - {name: reminder, settings: {said: "Please remember."}}
attack_metrics: [weakest_token, probability]
max_new_tokens: 16
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the plug-in is installed, as a PYTHONPATH."""
    source = Path(__file__).resolve().parents[2] / "src"
    return os.pathsep.join([str(install(PLUGIN, tmp_path_factory.mktemp("site"))), str(source)])


def test_every_part_is_listed_and_shown(site: str) -> None:
    """With the package on the path its parts are there by name, with their Card; without it they are not."""
    code = f"""
        import json
        from efface import api
        parts = {PARTS!r}
        listed = {{name: [row["name"] for row in api.list_components(kind)] for name, kind in parts.items()}}
        print(json.dumps([listed, {{name: api.show(name) for name in parts}}]))
    """
    done = python(code, site)
    assert done.returncode == 0, done.stderr
    listed, shown = json.loads(done.stdout)
    for name, kind in PARTS.items():
        assert name in listed[name] and len(listed[name]) > 4, name
        assert f"{shown[name]['kind']}s" == kind and "example" in shown[name]["card"]["source"], name
        assert shown[name]["file"].startswith("efface_plugin_example/"), name
    without = python(code, str(Path(__file__).resolve().parents[2] / "src"))
    assert without.returncode == 1 and "show.unknown" in without.stderr


def test_command_line_lists_and_shows_it(site: str) -> None:
    told = efface("list", "methods", "--json", PYTHONPATH=site)
    rows = {row["name"]: row["about"] for row in json.loads(told.stdout)}
    assert rows["bounded_ascent"] == "Bounded ascent (own choice, an example)" and "npo" in rows
    told = efface("show", "bounded_ascent", "--json", PYTHONPATH=site)
    assert [s["name"] for s in json.loads(told.stdout)["settings"]] == ["floor"]


def test_a_demo_runs_with_all_of_it(site: str, shared_cache: Path, tmp_path: Path) -> None:
    """Method, metric and attack of the plug-in in one run of the tiny demo; the record verifies."""
    (tmp_path / "suite.yaml").write_text(SUITE)
    words = ["demo", "--model", "tiny", "--method", "bounded_ascent", "--json", "--out", str(tmp_path / "runs"), *SMALL]
    words += ["--set", f"audit.suite={tmp_path / 'suite.yaml'}", "--set", "method.floor=4.0"]
    environment = {"PYTHONPATH": site, "EFFACE_CACHE": str(shared_cache)}
    done = efface(*words, **environment)
    assert done.returncode == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    scores = {(s["role"], s["rows"]): s for s in json.loads((run / "scores.json").read_text())["scores"]
              if s["name"] == "weakest_token"}  # fmt: skip
    assert scores["unlearned", "forget"]["value"] < scores["target", "forget"]["value"]
    curve = json.loads((run / "attacks" / "reminder" / "curve.json").read_text())
    assert curve["metric"] == "weakest_token" and {p["role"] for p in curve["points"]} == {"unlearned", "reference"}
    assert {p["budget"]["words"] for p in curve["points"]} == {0, 2}
    checked = efface("verify", str(run), "--json", **environment)
    assert checked.returncode == 0 and json.loads(checked.stdout)["rederived"] > 10


def test_a_run_starts_from_its_benchmark(site: str) -> None:
    """``check`` reads the plug-in's rows; a setting it does not have is refused with the nearest name."""
    words = ["check", "--benchmark", "gardens", "--suite", "deletion_request", "--json", "--set", "data.forget=2"]
    plan = json.loads(efface(*words, PYTHONPATH=site).stdout)
    assert plan["train"] == {"forget": 6, "retain": 6}
    wrong = efface(*words, "--set", "data.forgets=2", PYTHONPATH=site)
    assert wrong.returncode == 1 and "forget" in json.loads(wrong.stdout)["fix"]


def test_the_conformance_battery_passes_from_outside(site: str, shared_cache: Path) -> None:
    """Everything Efface asks of its own methods and attacks, asked of the plug-in's."""
    code = """
        from efface.testing import battery
        from efface.testing.bench import bench
        small = bench("causal_lm")
        for check in battery.METHOD_CHECKS:
            check("bounded_ascent", small)
        for check in battery.ATTACK_CHECKS:
            check("reminder", small)
        print(len(battery.METHOD_CHECKS), "and", len(battery.ATTACK_CHECKS), "checks passed")
    """
    done = python(code, site, EFFACE_CACHE=str(shared_cache))
    assert done.returncode == 0 and "checks passed" in done.stdout, done.stderr


def python(code: str, path: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own with ``path`` as PYTHONPATH."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path} | env,
    )
