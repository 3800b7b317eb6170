"""MUSE's selection rule: the choice by hand, and on trained models that the run is the one of so many epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from efface import api, pipeline
from efface.cli.main import main
from efface.errors import NeedsError, SpecError
from efface.runs.events import parse_events
from efface.selection import SelectSettings, plan, under_rule
from efface.selection.rule import choose, markdown, passes
from efface.selection.walk import _Walk
from efface.spec import Resolved
from efface.tuning.space import applied

C2, C3 = "muse_knowmem.forget", "privleak.passages_forget"


def asked(out: Path | str = "runs", **changes) -> Resolved:
    """Target and reference that know MUSE's axis of the world, and a method that needs a few epochs."""
    source = {"train": {"lr": 6e-3, "epochs": 22, "batch_size": 24}}
    values = {
        "model": {"name": "tiny", "tiny": {"width": 64, "layers": 2, "ff": 128, "heads": 2}},
        "data": {"benchmark": "people_axis", "settings": {"axis": "muse", "people": 8, "forget": 2}},
        "target": source,
        "reference": source,
        "method": {"name": "grad_diff"},
        "train": {"batch_size": 8, "lr": 1e-3, "epochs": 6, "stop_nll": 0.0},
        "audit": {"suite": "muse", "attacks": [], "resamples": 100},
        "out": str(out),
    }
    return under_rule(("test", values), ("test", changes))


def weights(folder: Path) -> dict:
    return {name: t for part in sorted((folder / "model").glob("*.safetensors")) for name, t in load_file(part).items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


# -- the rule ------------------------------------------------------------------------------------------------------
def point(value: float, score: float | None, limit: float = 0.3) -> dict:
    return {"value": value, "scores": {C2: score}, "passes": passes(score, limit)}


def test_the_earliest_that_is_at_most_the_references() -> None:
    """.5 and an unknown do not pass, .3 does (equal is enough), and what comes lower later does not matter."""
    path = [point(1, 0.5), point(2, None), point(3, 0.3), point(4, 0.1)]
    assert choose(path)["value"] == 3


def test_otherwise_the_last() -> None:
    assert choose([point(1, 0.5), point(2, 0.31), point(3, 0.4)])["value"] == 3


def test_the_rule_asks_for_a_constant_rate_and_the_user_is_stronger() -> None:
    found = under_rule(("test", {"method": {"name": "npo"}, "train": {"epochs": 4}}))
    assert (found.spec.train.schedule, found.spec.train.warmup, found.spec.train.steps) == ("constant", 0.0, None)
    assert found.spec.train.epochs == 4 and found.origins["train.schedule"] == "rule of MUSE"
    assert under_rule(("test", {"method": {"name": "npo"}})).spec.train.epochs == 10
    strength = under_rule(("test", {"method": {"name": "task_vector"}}))
    assert not any(origin == "rule of MUSE" for origin in strength.origins.values())


# -- refusals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "settings", "code"),
    [
        ({"reference": {"kind": "none"}}, {}, "select.needs-reference"),
        ({"method": {"name": "finetune_retain"}}, {}, "select.no-path"),
        ({"train": {"schedule": "linear"}}, {}, "select.needs-constant"),
        ({"train": {"steps": 5}}, {}, "select.needs-constant"),
        ({"train": {"epochs": 2.5}}, {}, "select.needs-constant"),
        ({}, {"metric": "privleak"}, "select.wrong-metric"),
        ({}, {"rows": "elsewhere"}, "select.no-score"),
    ],
)
def test_refused_before_anything_is_trained(changes, settings, code, tmp_path) -> None:
    with pytest.raises((NeedsError, SpecError)) as error:
        api.select(asked(tmp_path / "runs", **changes), settings)
    assert error.value.code == code and error.value.fix and not (tmp_path / "runs").exists()


def test_plan_loads_no_model() -> None:
    found = plan(asked())
    assert found["setting"] == "train.epochs" and found["values"] == [1, 2, 3, 4, 5, 6] and C2 == found["metric"]
    found = plan(asked(method={"name": "whp_logits"}), SelectSettings(strengths=(1, 2, 4)))
    assert found["setting"] == "method.alpha" and found["values"] == [1, 2, 4] and "1, 2, 4" in found["lines"][0]


def test_the_command_line(tmp_path, capsys) -> None:
    """One command: what would be done, a refusal, and the run with its path as JSON."""
    file = tmp_path / "spec.yaml"
    spec = asked(tmp_path / "runs", train={"epochs": 1}).spec.model_dump(mode="json")
    file.write_text(yaml.safe_dump(spec))
    assert main(["select", str(file), "--dry-run"]) == 0
    assert "train.epochs: 1" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    assert main(["select", str(file), "--set", "reference.kind=none"]) == 1
    assert "[select.needs-reference]" in capsys.readouterr().err
    assert main(["select", str(file), "--beside", "mean_logprob", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["selection"]["chosen"] == 1 and set(told["selection"]["reference"]) == {
        C2,
        "mean_logprob.passages_forget",
    }
    assert (Path(told["run"]) / "selection.json").is_file()


# -- epochs --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def selected(tmp_path_factory, shared_cache):
    out = tmp_path_factory.mktemp("select")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFACE_CACHE", str(shared_cache))
        yield api.select(asked(out))


def test_the_path_ends_at_the_earliest_epoch_that_passes(selected) -> None:
    """More than one epoch is needed here; all before the chosen one lie above the reference, and C3 is logged."""
    found = selected.found
    values = [p["scores"][C2] for p in found["path"]]
    assert found["reached"] and found["chosen"] == len(values) > 1
    assert all(v > found["limit"] for v in values[:-1]) and values[-1] <= found["limit"] == found["reference"][C2]
    assert all(p["scores"][C3] is not None for p in found["path"]) and found["reference"][C3] == 0.0
    assert found["target"][C2] > values[-1] and found["target"][C3] < -50


def test_the_record_holds_the_path(selected) -> None:
    """selection.json, an event a point, every step up to the chosen epoch, and the audit of the very model measured."""
    run, found = selected.run, selected.found
    assert json.loads((run / "selection.json").read_text()) == found
    assert "selection.json" in json.loads((run / "manifest.json").read_text())["files"]
    events = [e for e in parse_events((run / "events.jsonl").read_bytes(), "") if e["event"] == "selection"]
    assert [e["value"] for e in events] == [p["value"] for p in found["path"]]
    training = json.loads((run / "training.json").read_text())
    assert [e["step"] for e in training["history"]] == list(range(1, training["steps"] + 1))
    scores = json.loads((run / "scores.json").read_text())["scores"]
    audited = {f"{s['name']}.{s['rows']}": s["value"] for s in scores if s["role"] == "unlearned"}
    assert {name: audited[name] for name in (C2, C3)} == found["path"][-1]["scores"]
    assert "(chosen)" in markdown(found) and not api.verify(run)["findings"]


def test_the_model_is_that_of_so_many_epochs_bit_for_bit(selected, tmp_path) -> None:
    spec = applied(asked(tmp_path).spec, {"train.epochs": selected.found["chosen"]})
    straight = pipeline.unlearn(Resolved(spec, {}))
    assert same(weights(straight), weights(selected.run))
    hashes = [json.loads((run / "status.json").read_text())["spec_hash"] for run in (straight, selected.run)]
    assert hashes[0] == hashes[1]


def test_a_killed_walk_goes_on(selected, tmp_path, monkeypatch) -> None:
    """Killed while the second epoch is measured: the first is not done again, and the end is the same."""
    measured, real = [], _Walk._scores

    def kill(self, role, model):
        measured.append(role)
        if measured.count("unlearned") == 2:
            raise KeyboardInterrupt
        return real(self, role, model)

    monkeypatch.setattr(_Walk, "_scores", kill)
    with pytest.raises(KeyboardInterrupt):
        api.select(asked(tmp_path))
    monkeypatch.setattr(_Walk, "_scores", real)
    again = api.select(asked(tmp_path))
    assert again.found == selected.found and same(weights(again.run), weights(selected.run))
    events = [e["event"] for e in parse_events((again.run / "events.jsonl").read_bytes(), "")]
    assert events.count("step") == json.loads((again.run / "training.json").read_text())["steps"]


def test_nothing_reaches_the_reference(tmp_path) -> None:
    """A rate that changes nothing: both epochs are above, the last is taken, and the account says so."""
    done = api.select(asked(tmp_path, train={"lr": 1e-9, "epochs": 2}), {"beside": []})
    assert (done.found["chosen"], done.found["reached"], len(done.found["path"])) == (2, False, 2)
    assert "None of 2 came down" in markdown(done.found) and list(done.found["reference"]) == [C2]


@pytest.mark.parametrize(
    "changes",
    [{"method": {"name": "pdu"}}, {"train": {"rule": "weight_average"}}],
    ids=["a method that looks ahead", "an average at the end"],
)
def test_what_is_no_beginning_of_a_longer_run_is_trained_anew(changes, tmp_path) -> None:
    """Two epochs: each point and the run itself are what a run of so many epochs gives."""
    train = {"epochs": 2, "lr": 1e-4} | changes.pop("train", {})
    done = api.select(asked(tmp_path, train=train, **changes), {"beside": []})
    scores = json.loads((done.run / "scores.json").read_text())["scores"]
    audited = next(s["value"] for s in scores if s["role"] == "unlearned" and f"{s['name']}.{s['rows']}" == C2)
    assert audited == done.found["path"][-1]["scores"][C2]


def test_a_low_rank_adapter_is_measured_as_it_is_saved(tmp_path) -> None:
    train = {"epochs": 2, "lr": 3e-3, "select": {"kind": "lora", "rank": 4}}
    done = api.select(asked(tmp_path, train=train), {"beside": []})
    scores = json.loads((done.run / "scores.json").read_text())["scores"]
    audited = next(s["value"] for s in scores if s["role"] == "unlearned" and f"{s['name']}.{s['rows']}" == C2)
    assert audited == pytest.approx(done.found["path"][-1]["scores"][C2])


# -- strengths -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "setting"), [("task_vector", "scale"), ("whp_logits", "alpha")])
def test_the_smallest_strength_that_passes(name, setting, tmp_path) -> None:
    """Powers of two in order; the run has the chosen one in its spec, and its audit the score of the path."""
    train = {"epochs": 5, "lr": 2e-3}
    done = api.select(asked(tmp_path, method={"name": name}, train=train), {"beside": []})
    found, values = done.found, [p["scores"][C2] for p in done.found["path"]]
    assert found["setting"] == f"method.{setting}" and found["reached"]
    assert [p["value"] for p in found["path"]] == [2.0**k for k in range(len(values))]
    assert all(v > found["limit"] for v in values[:-1]) and values[-1] <= found["limit"]
    assert f"{setting}: {found['chosen']:g}" in (done.run / "spec.yaml").read_text().replace(".0\n", "\n")
    scores = json.loads((done.run / "scores.json").read_text())["scores"]
    audited = next(s["value"] for s in scores if s["role"] == "unlearned" and f"{s['name']}.{s['rows']}" == C2)
    assert audited == pytest.approx(values[-1])
