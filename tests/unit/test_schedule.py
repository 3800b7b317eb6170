"""Schedules: steps start from the right model, a second call does nothing twice, curves and the reference line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from efface.artifact import LoRA
from efface.build import Made
from efface.data.benchmarks.people_axis import PeopleAxis
from efface.data.plans import plan_of
from efface.errors import NeedsError, SpecError
from efface.metrics.pch import closeness
from efface.schedule.curves import curves, slope, worst
from efface.schedule.steps import run, step, whole
from efface.schedule.table import markdown
from efface.spec import resolve
from efface.testing.bench import bench


@pytest.fixture(scope="module", autouse=True)
def _module_cache(shared_cache):
    """Fixtures of this module use the tests' cache too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFACE_CACHE", str(shared_cache))
        yield


def resolved(axis, **changes):
    train = {"train": {"lr": 6e-3, "epochs": 1, "batch_size": 24}}
    values = {
        "model": {"name": "tiny", "tiny": {"width": 64, "layers": 2, "ff": 128, "heads": 2}},
        "data": {"benchmark": "people_axis", "settings": {"axis": axis, "people": 8, "forget": 2}},
        "target": train,
        "reference": train,
        "method": {"name": "grad_ascent"},
        "train": {"steps": 1, "batch_size": 8, "lr": 1e-3},
        "audit": {"suite": axis, "attacks": [], "resamples": 100},
    }
    return resolve(("test", values), ("test", changes))


# -- curves --------------------------------------------------------------------------------------------------------
def test_slope_by_hand():
    """(1, 1), (2, 3), (3, 2): means 2 and 2; (-1 * -1 + 0 * 1 + 1 * 0) / 2 = .5. A gap is skipped."""
    assert slope((1, 2, 3), (1.0, 3.0, 2.0)) == pytest.approx(0.5)
    assert slope((1, 2, 3), (1.0, None, 3.0)) == pytest.approx(1.0)
    assert slope((1, 2), (1.0, None)) is None and slope((2, 2), (1.0, 3.0)) is None


def test_worst_follows_the_direction():
    values = (0.5, 0.2, 0.9)
    assert worst(values, "higher", (None,) * 3) == 0.2 and worst(values, "lower", (None,) * 3) == 0.9
    assert worst(values, "match", (0.5, 0.6, 0.8)) == 0.2  # .4 away
    assert worst(values, "match", (None,) * 3) == 0.9 and worst((None,), "higher", (None,)) is None


def test_curves_leave_a_gap_where_a_step_has_no_value():
    def one(size, **scores):
        return {
            "size": size,
            "scores": {
                "unlearned": {k: {"value": v, "direction": "higher", "target": None} for k, v in scores.items()}
            },
        }

    found = curves([one(1, a=0.8), one(2), one(3, a=0.4)])
    assert found["a"]["values"] == [0.8, None, 0.4] and found["a"]["slope"] == pytest.approx(-0.2)
    assert found["a"]["worst"] == 0.4


# -- plans ---------------------------------------------------------------------------------------------------------
def test_plans_by_name():
    plan = plan_of(PeopleAxis(axis="muse", forget=8), "scalability")
    assert plan.sizes == (2, 4, 6, 8) and not plan.sequential and plan.steps[1] == {"fold": "scal_2"}
    assert plan_of(PeopleAxis(axis="muse"), "sustainability").sequential
    with pytest.raises(SpecError) as error:
        plan_of(PeopleAxis(axis="muse"), "sustainable")
    assert error.value.code == "schedule.unknown-plan" and "Did you mean 'sustainability'" in error.value.fix
    with pytest.raises(SpecError):
        plan_of(PeopleAxis(axis="wmdp"), "scalability")


# -- running -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """PCH's plan of two requests on the world, each with a reference."""
    out = tmp_path_factory.mktemp("schedule")
    return out, run(resolved("pch"), "requests", out)


def fingerprints(out: Path, one) -> dict[str, str]:
    roles = json.loads((out / "runs" / one["run"] / "scores.json").read_text())["roles"]
    return {name: role["fingerprint"] for name, role in roles.items()}


def test_each_request_starts_from_the_result_of_the_one_before(requests):
    out, table = requests
    first, second = (fingerprints(out, one) for one in table["steps"])
    assert second["target"] == first["unlearned"] != first["target"]
    assert len({first["reference"], second["reference"]}) == 2  # each retrained without what was asked so far
    assert [one["size"] for one in table["steps"]] == [1.0, 2.0] and table["axis"] == "requests"
    assert json.loads((out / "schedule.json").read_text()) == json.loads(json.dumps(table))


def test_the_reference_line_of_the_whole_plan(requests):
    """The line ends at the last reference's score; each value is the closeness to it at that step."""
    _, table = requests
    for side, name in (("forget", "forget_degree"), ("retain", "retain_utility")):
        line = table["line"][name]
        last = table["steps"][-1]["scores"]["reference"][f"pch_score_{side}.{side}"]["value"]
        assert line["line"][-1] == pytest.approx(last) and len(line["line"]) == 2
        assert line["values"] == [closeness(s, w) for s, w in zip(line["scores"], line["line"], strict=True)]


def test_a_second_call_goes_on_where_the_first_ended(requests):
    """Nothing is run again; a step whose record is incomplete is finished, and only that one."""
    out, table = requests
    before = sorted((out / "runs").iterdir())
    stamps = {p: (p / "manifest.json").stat().st_mtime_ns for p in before}
    assert run(resolved("pch"), "requests", out)["steps"] == table["steps"]
    assert sorted((out / "runs").iterdir()) == before
    assert {p: (p / "manifest.json").stat().st_mtime_ns for p in before} == stamps
    (out / "runs" / table["steps"][1]["run"] / "manifest.json").unlink()
    again = run(resolved("pch"), "requests", out)
    assert sorted((out / "runs").iterdir()) == before
    assert [one["scores"]["unlearned"] for one in again["steps"]] == [
        one["scores"]["unlearned"] for one in table["steps"]
    ]
    assert (out / "runs" / table["steps"][0]["run"] / "manifest.json").stat().st_mtime_ns in stamps.values()


def test_the_table_as_text(requests):
    text = markdown(requests[1])
    assert text.startswith("# grad_ascent on people_axis, plan requests") and "| probability.forget |" in text
    assert "| forget_degree (reference line) |" in text


def test_parallel_steps_share_one_target_and_one_base(tmp_path):
    """A plan that is not sequential: the spec of every step names the same folders."""
    base = Made(tmp_path / "base", "initialised", "k")
    target = Made(tmp_path / "target", "trained", "t")
    one, two = (step(resolved("muse"), {"fold": f"scal_{k}"}, base, target, tmp_path).spec for k in (1, 2))
    assert one.target.path == two.target.path == str((tmp_path / "target").absolute())
    assert one.model.name == two.model.name == str(tmp_path / "base")
    assert (one.data.settings["fold"], two.data.settings["fold"]) == ("scal_1", "scal_2")


# -- what the next request can start from --------------------------------------------------------------------------
def test_an_adapter_is_merged(tmp_path):
    """The merged folder says what the target with its adapter says."""
    from efface.engine.select import add_lora
    from efface.engine.settings import Select

    lm = bench()
    before, after = lm.model("target"), lm.model("target")
    add_lora(after, Select(kind="lora", rank=2, modules=("q_proj", "down_proj")), seed=0)
    with torch.no_grad():
        for name, p in after.module.named_parameters():
            if "lora_B" in name:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    folder = tmp_path / "run"
    LoRA.of(after, before, "npo").save(folder / "model")
    place = whole(folder, lm.made["target"], resolved("muse"), tmp_path / "merged")
    merged = Made(place, "folder", "").open(lm.spec.model)
    ids = torch.tensor([[5, 9, 30, 41]])
    with torch.no_grad():
        logits = [m.module.eval()(input_ids=ids).logits for m in (merged, after, before)]
    assert torch.allclose(logits[0], logits[1], atol=1e-4) and not torch.allclose(logits[0], logits[2], atol=1e-2)
    assert place.parent == tmp_path and place.name.startswith("merged-")
    assert whole(folder, lm.made["target"], resolved("muse"), tmp_path / "merged") == place


def test_a_merged_adapter_is_never_that_of_another_run(tmp_path, monkeypatch):
    """Its folder is named after the adapter, and is there whole or not at all."""
    from efface.schedule import steps

    class Merged:
        module = type("Module", (), {"merge_and_unload": lambda self: self})()

        def save(self, folder):
            (folder / "config.json").write_text("{}")
            if broken:
                raise RuntimeError("killed")

    stored = type("Adapter", (), {"kind": "adapter", "attach": lambda self, target: Merged()})()
    monkeypatch.setattr(steps.Artifact, "load", lambda folder: stored)
    target = type("Target", (), {"open": lambda self, model: None})()
    (tmp_path / "model").mkdir()
    places = []
    for content in ("one", "two"):
        (tmp_path / "model/artifact.json").write_text(content)
        broken = True
        with pytest.raises(RuntimeError):
            whole(tmp_path, target, resolved("muse"), tmp_path / "merged")
        broken = False
        places.append(whole(tmp_path, target, resolved("muse"), tmp_path / "merged"))
    assert places[0] != places[1] and all((place / "config.json").is_file() for place in places)


def test_a_guard_leaves_nothing_to_start_from(tmp_path):
    (tmp_path / "model").mkdir()
    head = {"schema": 1, "kind": "input_guard", "target": "x", "method": "guard", "config": {}}
    (tmp_path / "model/artifact.json").write_text(json.dumps(head))
    with pytest.raises(NeedsError) as error:
        whole(tmp_path, bench().made["target"], resolved("muse"), tmp_path / "merged")
    assert error.value.code == "schedule.needs-weights" and "input_guard" in error.value.cause


def test_command_line(requests, tmp_path, capsys):
    """The verb takes the finished steps as they are and prints the table."""
    import yaml

    from efface.cli.schedule import command

    out, table = requests
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(resolved("pch").spec.model_dump(mode="json")))
    assert command("requests", spec, to=out, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["curves"] == json.loads(json.dumps(table["curves"]))
    assert (out / "schedule.md").read_text() == markdown(table)
