"""Comparisons of methods: budgets, origins, seeds, costs, processes, what is done once, and what the page shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from page import Page

from efface import suites
from efface.audit.calibrate import CalibrateSettings, Calibration
from efface.bench import BENCHES, bench_named, jobs, memory
from efface.bench.budget import EQUAL, budgeted
from efface.bench.methods import methods
from efface.bench.origins import settings_of
from efface.bench.rows import robustness
from efface.bench.table import over_seeds, table
from efface.bench.task import Outcome, Task, calibration_file, do, finished, read_calibration
from efface.errors import SpecError
from efface.loading import load_data
from efface.progress import SILENT
from efface.report import leaderboard
from efface.running import running
from efface.runs.files import read_json
from efface.runs.results import Curve
from efface.spec import Resolved, resolve
from efface.testing.bench import TEXT


def spec_of(name: str, seed: int = 0, out: str = "runs", **changes) -> Resolved:
    """The spec of the tiny bench: its target and reference are the ones that other tests use too."""
    audit = {"suite": "people", "resamples": 100, "attacks": ["round_weights"]}
    own = {"method": {"name": name}, "seed": seed, "out": out, "audit": audit} | changes
    return resolve(("python", TEXT), ("user --set", own))


# -- budgets ---------------------------------------------------------------------------------------------------------
def by_recipe(name: str, steps: int, batch: int) -> Resolved:
    """A spec whose recipe says so many steps of so many rows."""
    one = spec_of(name)
    train = one.spec.train.model_copy(update={"steps": steps, "batch_size": batch})
    origins = one.origins | {"train.steps": "recipe x/tiny", "train.batch_size": "recipe x/tiny"}
    return replace(one, spec=one.spec.model_copy(update={"train": train}), origins=origins)


def test_equal_budget_is_what_most_recipes_take() -> None:
    """40, 40 and 20 steps of 16, 16 and 8 rows: 40 of 16. Retraining has no such budget."""
    before = [by_recipe("npo", 40, 16), by_recipe("rmu", 40, 8), by_recipe("grad_ascent", 20, 16), spec_of("retrain")]
    specs, how = budgeted(before, "equal")
    assert {(s.spec.train.steps, s.spec.train.batch_size) for s in specs[:3]} == {(40, 16)}
    assert how["steps"] == [40] and how["batch_size"] == [16] and how["exempt"] == ["retrain"] and how["user"] == []
    assert specs[2].origins["train.steps"] == EQUAL and specs[2].hash != before[2].hash
    assert specs[3].hash == before[3].hash and specs[0].spec.train.lr == before[0].spec.train.lr


def test_on_a_tie_the_larger_budget_wins() -> None:
    specs, _ = budgeted([by_recipe("npo", 40, 16), by_recipe("rmu", 60, 8)], "equal")
    assert [(s.spec.train.steps, s.spec.train.batch_size) for s in specs] == [(60, 16)] * 2


def test_what_the_user_sets_is_the_budget() -> None:
    chosen = [spec_of(m, train={"steps": 7}) for m in ("npo", "grad_ascent")]
    specs, how = budgeted(chosen, "equal")
    assert [s.spec.train.steps for s in specs] == [7, 7] and how["steps"] == [7] and "train.steps" in how["user"]
    assert all(s.origins["train.steps"] == "user --set" for s in specs)


def test_recipe_budgets_stay() -> None:
    before = [spec_of("npo"), spec_of("grad_ascent")]
    specs, how = budgeted(before, "recipe")
    assert [s.hash for s in specs] == [s.hash for s in before] and how["kind"] == "recipe"


# -- how many at once --------------------------------------------------------------------------------------------------
def test_too_many_jobs_are_refused_with_the_reason(monkeypatch) -> None:
    monkeypatch.setattr(memory, "core_count", lambda: 4)
    big = [spec_of("npo", model={"name": "smollm2-135m"})]
    one = memory.memory_gib(134_500_000)
    monkeypatch.setattr(memory, "free_memory", lambda device: (2.5 * one, "memory"))
    memory.check_jobs(2, big)
    with pytest.raises(SpecError, match=f"3 x {one:.1f} GiB, and {2.5 * one:.1f} GiB of memory are free.*--jobs 2"):
        memory.check_jobs(3, big)
    with pytest.raises(SpecError, match="4 cores"):
        memory.check_jobs(5, [spec_of("npo")])
    with pytest.raises(SpecError, match="bench.bad-jobs"):
        memory.check_jobs(0, big)
    unknown = [spec_of("npo", model={"name": "somebody/some-model"})]
    memory.check_jobs(1, unknown)
    with pytest.raises(SpecError, match="bench.unknown-size"):
        memory.check_jobs(2, unknown)
    monkeypatch.setattr(memory, "free_memory", lambda device: (None, "memory"))
    memory.check_jobs(3, big)


def test_threads_are_shared(monkeypatch) -> None:
    """8 cores for 2 processes: 4 each; no more than OMP_NUM_THREADS asks for; tiny models take one."""
    monkeypatch.setattr(memory, "core_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [memory.threads(n, "smollm2-135m") for n in (1, 2, 3, 9)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert memory.threads(2, "smollm2-135m") == 2 and memory.threads(2, "tiny") == 1


def test_free_memory_is_read() -> None:
    free, what = memory.free_memory("cpu")
    assert what == "memory" and (free is None or 0 < free < 1e5)


# -- one line ----------------------------------------------------------------------------------------------------------
def test_origin_of_every_value() -> None:
    """Paper, recipe, user, equal budget, derived: each value of the run says which."""
    chosen = spec_of("npo_irm", train={"lr": 3e-4}, method={"name": "npo_irm", "settings": {"beta": 0.2}})
    origins = chosen.origins | {
        "method.settings.gamma": "recipe npo_irm/tiny",
        "train.retain_weight": "recipe npo_irm/tiny",
    }
    (one,), _ = budgeted([replace(chosen, origins=origins)], "equal")
    found = {s["setting"]: (s["value"], s["kind"]) for s in settings_of(one.spec, one.origins)}
    assert found["method.beta"] == (0.2, "user") and found["train.lr"] == (3e-4, "user")
    assert found["method.gamma"][1] == "recipe" and found["method.rows"][1] == "derived"
    assert found["train.steps"][1] == "budget" and found["train.retain_weight"][1] == "recipe"
    assert "train.weight_decay" not in found
    assert {s["setting"]: s["kind"] for s in settings_of(spec_of("npo").spec, {})}["method.beta"] == "paper"


def test_numbers_over_seeds() -> None:
    """One seed keeps its interval; several give mean and range; what was not computed does not count."""
    assert over_seeds([[0.2, 0.1, 0.4]]) == {"value": 0.2, "low": 0.1, "high": 0.4, "min": 0.2, "max": 0.2, "seeds": 1}
    three = over_seeds([[0.2, 0.1, 0.4], [0.6, 0.5, 0.7], [None, None, None], None])
    assert (three["value"], three["low"], three["min"], three["max"], three["seeds"]) == (0.4, None, 0.2, 0.6, 2)
    assert over_seeds([None, [None, None, None]]) is None


def made_row(method: str, seed: int, forget: float, mixed: float, seconds: float = 10.0, **more) -> dict:
    score = {"value": mixed, "low": 0.0, "high": 1.0, "n": 4, "reason": ""}
    places = {"target": score | {"value": 1.0}, "mixed": score, "unlearned": score | {"value": forget}}
    sets = dict.fromkeys(("forget", "forget_reworded", "retain"), places)
    uwc = Calibration(0.95, 0.5, points=((0.0, 1.0),), scores=sets).to_json()
    return {
        "method": method,
        "seed": seed,
        "spec_hash": "ab" * 32,
        "error": "",
        "run": f"{method}-{seed}",
        "conclusion": "concealed",
        "values": {"extraction_strength.forget": [forget, 0.0, 1.0]},
        "controls": {"target": {"extraction_strength.forget": [1.0, 1.0, 1.0]}},
        "seconds": seconds,
        "steps": 10,
        "seconds_per_step": seconds / 10,
        "stopped": "",
        "trained_parameters": 100,
        "moved_share": 1.0,
        "recovery": [],
        "robustness": [],
        "uwc": uwc,
        "settings": [],
    } | more


ABOUT = {"budget": {"kind": "recipe", "exempt": []}, "jobs": 1, "calibrate": {"tau": 0.95}}


def board(*rows: dict) -> dict:
    specs = [spec_of(r["method"], r["seed"]) for r in rows]
    return table(specs, rows, ABOUT)


def test_ranks_change_with_control_and_costs_are_relative() -> None:
    """npo forgets most (.1) but at equal retention least (.7); means over two seeds decide. 15 s a step against 10."""
    rows = [made_row("npo", s, 0.1, 0.7 + s / 10, 15.0) for s in (0, 1)]
    rows += [made_row("grad_diff", s, 0.4, 0.4) for s in (0, 1)]
    found = {m["method"]: m for m in board(*rows)["methods"]}
    assert (found["npo"]["rank"], found["npo"]["rank_without_control"]) == (2, 1)
    assert (found["grad_diff"]["rank"], found["grad_diff"]["rank_without_control"]) == (1, 2)
    assert found["npo"]["uwc"]["forget_mixed"]["value"] == pytest.approx(0.75)
    assert found["npo"]["uwc"]["forget_mixed"]["max"] == pytest.approx(0.8) and found["npo"]["seeds"] == [0, 1]
    assert found["npo"]["relative_step_cost"] == 1.5 and found["grad_diff"]["relative_step_cost"] == 1.0


def test_a_failure_is_a_line() -> None:
    failed = {"method": "rmu", "seed": 0, "spec_hash": "cd" * 32, "error": "train.non-finite: the loss is not finite"}
    made = board(made_row("npo", 0, 0.1, 0.2), failed)
    line = made["methods"][1]
    assert line["rank"] is None and line["failed"][0]["seed"] == 0 and not line["seeds"] and len(made["rows"]) == 2
    text = leaderboard.as_markdown(made)
    assert "| rmu | – | failed |" in text and "train.non-finite" in text


def curve(metric: str, rows: str, **points: list[float]) -> Curve:
    listed = [
        {"budget": {"bits": b}, "role": role, "value": v}
        for role, values in points.items()
        for b, v in zip((0, 4, 3), values, strict=False)
    ]
    return Curve.model_validate(
        {"schema": 1, "attack": "round", "axis": "bits", "metric": metric, "rows": rows, "points": listed}
    )


def test_robustness_is_the_worst_point_read_jointly() -> None:
    """UE = mean of both metrics: 4 bits (.4 + .2) / 2 = .3, 3 bits (.6 + .8) / 2 = .7: the worst, with the reference's
    (.2 + .0) / 2 and UT (.5 + .3) / 2 at the same 3 bits. The model as it is (0) is no attack."""
    run = type("Run", (), {})()
    run.curves = (
        curve("mcq_options", "forget", unlearned=[0.9, 0.4, 0.6], reference=[0.2, 0.2, 0.2]),
        curve("entailment", "forget", unlearned=[0.9, 0.2, 0.8], reference=[0.0, 0.0, 0.0]),
        curve("mcq_options", "retain", unlearned=[1.0, 0.9, 0.5]),
        curve("entailment", "retain", unlearned=[1.0, 0.7, 0.3]),
    )
    (found,) = robustness(run)
    assert found["at"] == {"bits": 3} and found["ue"] == pytest.approx(0.7)
    assert found["reference"] == pytest.approx(0.1) and found["ut"] == pytest.approx(0.4)
    run.curves = run.curves[:1]
    assert list(robustness(run)) == []


# -- the page ----------------------------------------------------------------------------------------------------------
def test_page_is_self_contained_and_escaped() -> None:
    evil = '<script>alert("x")</script>|`*'
    made = board(
        made_row(
            "npo",
            0,
            0.1,
            0.2,
            conclusion=evil,
            run=evil,
            settings=[{"setting": evil, "value": evil, "kind": "user", "origin": evil}],
        ),
        {"method": "rmu", "seed": 0, "spec_hash": "cd" * 32, "error": evil},
    )
    source = leaderboard.as_html(made)
    page = Page(source)
    assert [dict(a).get("type") for t, a in page.tags if t == "script"] == ["application/json"]
    assert not any(t in ("link", "img", "iframe") or "src" in a or "onclick" in a for t, a in page.tags)
    assert "http:" not in source and "https:" not in source and "default-src 'none'" in source
    assert page.sections == ["scores", "calibrated", "cost", "settings", "runs"]
    assert json.loads(page.record)["methods"][0]["method"] == "npo" and 'alert("x")' in page.words
    text = leaderboard.as_markdown(made)
    assert "<script>" not in text and "\\<script\\>" in text
    for heading in ("At equal retention (tau 0.95)", "Cost", "Settings and where they come from"):
        assert heading in page.words and f"## {heading}" in text


# -- runs --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def done(tmp_path_factory, shared_cache) -> tuple[Path, list[Resolved], dict]:
    """Two methods in two processes at once; one has no such layers and fails."""
    place = tmp_path_factory.mktemp("bench")
    short = {"train": {"steps": 8}, "out": str(place / "runs")}
    specs = [spec_of("npo", **short)]
    specs.append(spec_of("grad_diff", **short | {"train": {"steps": 8, "select": {"kind": "layers", "first": 9}}}))
    patch = pytest.MonkeyPatch()
    patch.setenv("EFFACE_CACHE", str(shared_cache))
    patch.setattr(memory, "core_count", lambda: 2)
    try:
        return place, specs, methods(specs, place / "board", jobs=2)
    finally:
        patch.undo()


def test_runs_in_processes_of_their_own(done) -> None:
    place, _, made = done
    good, bad = made["rows"]
    assert [r["method"] for r in made["rows"]] == ["npo", "grad_diff"] and "train.bad-layers" in bad["error"]
    assert good["uwc"]["tau"] == 0.95 and good["uwc"]["scores"]["forget"]["mixed"]["value"] is not None
    assert good["steps"] == 8 and good["seconds_per_step"] > 0 and good["trained_parameters"] > 0
    assert read_json(place / "board" / "leaderboard.json") == json.loads(json.dumps(made))
    assert "UWC" in (place / "board" / "leaderboard.md").read_text()
    assert "2 runs shared the machine" in Page((place / "board" / "leaderboard.html").read_text()).words
    assert made["methods"][1]["failed"] and made["methods"][0]["seeds"] == [0] and made["methods"][0]["rank"] == 1
    assert made["controls"]["reference"]["extraction_strength.forget"]["value"] < 0.3
    assert not list((place / "board" / "logs").iterdir())


def test_what_is_done_is_not_done_again(done, monkeypatch) -> None:
    """The same command trains and calibrates nothing again; its rows are the same, and failures are tried again."""
    place, specs, made = done
    import efface.bench.task as tasks

    tried = []
    monkeypatch.setattr(tasks.pipeline, "unlearn", lambda spec, progress: tried.append(spec.hash) or 1 / 0)
    monkeypatch.setattr(tasks, "calibrate_run", lambda *a, **k: 1 / 0)
    again = methods(specs, place / "board", jobs=1)
    assert again["rows"][0] == made["rows"][0] and tried == [specs[1].hash]
    assert "ZeroDivisionError" in again["rows"][1]["error"]
    assert "Traceback" in (place / "board" / "failures" / "grad_diff-seed0.txt").read_text()


def test_calibrations_are_kept_by_settings(done) -> None:
    """One file for each run and tau, beside the leaderboard; a task survives its way to another process."""
    place, specs, _ = done
    task = Task(specs[0], place / "board", CalibrateSettings())
    found = read_calibration(task)
    assert found is not None and found.tau == 0.95 and found.points[0] == (0.0, 1.0)
    other = Task(specs[0], place / "board", CalibrateSettings(tau=0.9))
    assert read_calibration(other) is None and calibration_file(other) != calibration_file(task)
    assert Task.from_json(task.to_json()) == task


@pytest.fixture
def complete(tmp_path: Path) -> tuple[Task, Path, Path, Path]:
    """(task, its complete run, its suite file, its data file); nothing was trained."""
    suite, data, request = (tmp_path / name for name in ("own.yaml", "rows.jsonl", "request.json"))
    suite.write_text("name: own\nmetrics: {forget: [rouge]}\n")
    data.write_text("".join(json.dumps({"prompt": f"Who is {n}?", "answer": n, "entity": n}) + "\n" for n in "abc"))
    request.write_text(json.dumps({"id": "r", "entities": ["a"], "data": {"path": "rows.jsonl"}}))
    audit = {"suite": str(suite), "resamples": 100}
    one = spec_of("npo", out=str(tmp_path / "runs"), request=str(request), audit=audit)
    return Task(one, tmp_path / "board", CalibrateSettings()), record_of(one), suite, data


def record_of(one: Resolved) -> Path:
    data, request = load_data(one.spec)
    with running(one, data, request, suites.load(one.spec.audit.suite), "npo", SILENT) as run:
        run.record.complete()
    return run.folder


def test_a_run_is_finished_for_its_rows_and_suite_alone(complete) -> None:
    task, folder, suite, data = complete
    assert finished(task.resolved) == folder
    before = suite.read_text()
    suite.write_text(before.replace("rouge", "probability"))
    assert finished(task.resolved) is None
    suite.write_text(before)
    assert finished(task.resolved) == folder
    data.write_text(data.read_text().replace("Who is b?", "Who was b?"))
    assert finished(task.resolved) is None


def test_a_run_that_is_done_again_is_calibrated_anew(complete) -> None:
    task, folder, _, _ = complete
    before = calibration_file(task)
    assert before == calibration_file(task, folder)
    (folder / "manifest.json").unlink()
    record_of(task.resolved)
    assert calibration_file(task) != before and finished(task.resolved) == folder


def test_a_process_that_dies_is_a_failure(tmp_path: Path, monkeypatch) -> None:
    script = tmp_path / "dies.sh"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(jobs.sys, "executable", str(script))
    tasks = [Task(spec_of("npo"), tmp_path, CalibrateSettings())] * 2
    found = list(jobs.results(tasks, 2, SILENT))
    assert sorted(n for n, _ in found) == [0, 1] and all("signal 9" in o.error for _, o in found)


def test_a_process_left_alone_ends_itself(tmp_path: Path, shared_cache: Path) -> None:
    """The pipe closes when the parent dies: the child must not go on for hours."""
    task = Task(spec_of("npo", out=str(tmp_path / "runs")), tmp_path, CalibrateSettings())
    src = Path(jobs.__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "efface.bench.worker"],
        input=task.to_json() + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(src), "EFFACE_CACHE": str(shared_cache)},
    )
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.glob("runs/*/manifest.json"))


def test_an_interrupt_ends_the_comparison(tmp_path: Path, monkeypatch) -> None:
    import efface.bench.task as tasks

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks.pipeline, "unlearn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do(Task(spec_of("npo", out=str(tmp_path)), tmp_path, CalibrateSettings()))


def test_rows_of_a_task_that_failed() -> None:
    from efface.bench.rows import row

    line = row(spec_of("npo", 3), Outcome(error="x.y: z"), None)
    assert line["method"] == "npo" and line["seed"] == 3 and line["error"] == "x.y: z" and "values" not in line


# -- names -------------------------------------------------------------------------------------------------------------
def test_unknown_bench() -> None:
    assert bench_named("methods") is BENCHES["methods"]
    with pytest.raises(SpecError, match="bench.unknown.*methods"):
        bench_named("method")
    with pytest.raises(SpecError, match="bench.no-methods"):
        methods([], Path("nowhere"))


def test_command_line_makes_one_spec_for_each_method_and_seed() -> None:
    """The suite's name brings the benchmark and its methods; explicit methods win; --split is data.split."""
    from efface.cli.bench import _specs

    none = dict.fromkeys(("model__name", "data__benchmark", "data__settings__split", "audit__suite", "out"))
    tofu = _specs(
        None, None, "npo,grad_diff", "0,1", none | {"audit__suite": "tofu", "data__settings__split": "forget01"}
    )
    assert [(s.spec.method.name, s.spec.seed) for s in tofu] == [
        ("npo", 0),
        ("npo", 1),
        ("grad_diff", 0),
        ("grad_diff", 1),
    ]
    assert all(s.spec.data.benchmark == "tofu" and s.spec.data.settings == {"split": "forget01"} for s in tofu)
    twelve = _specs(None, None, None, None, none | {"audit__suite": "full_stack"})
    assert len(twelve) == 12 and {s.spec.data.benchmark for s in twelve} == {"people"}
    assert [s.spec.method.name for s in _specs(None, None, "rmu", None, none | {"audit__suite": "full_stack"})] == [
        "rmu"
    ]
    with pytest.raises(SpecError, match="bench.bad-seeds"):
        _specs(None, None, "rmu", "0,x", none)
