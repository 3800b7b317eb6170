"""What ``check`` says a run will cost, against what was measured; and the attacks with their price."""

from __future__ import annotations

import pytest

from efface import api, estimating
from efface.api import demo_spec
from efface.checking import not_computed
from efface.errors import ModelError, SpecError
from efface.estimating import attack_minutes, memory_gib, parameters, training_seconds
from efface.loading import load_data
from efface.spec import resolve
from efface.suites import Suite


@pytest.fixture(autouse=True)
def two_idle_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(estimating.os, "cpu_count", lambda: 2)


def demo(model: str, *sets: str):
    spec = demo_spec(model=model, sets=sets).spec
    return spec, load_data(spec)[0], parameters(spec)


def test_the_demo_takes_what_was_measured() -> None:
    """Measured on two idle cores: target 97 s, reference 81 s, NPO 44 s; each within a fifth."""
    found = training_seconds(*demo("smollm2-135m"))
    assert found is not None and set(found) == {"target", "reference", "method"}
    for part, measured in {"target": 97, "reference": 81, "method": 44}.items():
        assert found[part] == pytest.approx(measured, rel=0.2), part


def test_the_tiny_demo_takes_what_was_measured() -> None:
    """15 s of one core for the target; a second core does not help it."""
    found = training_seconds(*demo("tiny"))
    assert found is not None and found["target"] == pytest.approx(15, rel=0.2)


def test_estimate_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 tokens a row, 100 tokens a second on one thread and no cost of a step: 252 rows x 4 epochs x 10 / 100 s."""
    monkeypatch.setattr(estimating, "TEMPLATE_TOKENS", 10.0)
    monkeypatch.setattr(estimating, "CHARACTERS_PER_TOKEN", 1e12)
    monkeypatch.setattr(estimating, "STEP_SECONDS", 0.0)
    spec, data, size = demo("smollm2-135m")
    monkeypatch.setattr(estimating, "TOKENS", 100 * size)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = training_seconds(spec, data, size)
    assert found == pytest.approx({"target": 100.8, "reference": 84.0, "method": 40.0})
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert training_seconds(spec, data, size)["target"] == pytest.approx(100.8 / 4)


@pytest.mark.parametrize("change", ["model.device=cuda", "size"])
def test_what_cannot_be_estimated_is_not(change: str) -> None:
    spec, data, size = demo("smollm2-135m", *([change] if change != "size" else []))
    size = None if change == "size" else size
    assert training_seconds(spec, data, size) is None and attack_minutes(spec, data, size, [1, 2]) == [None, None]


def test_memory() -> None:
    """Measured at the peak: 6.7 GiB and 0.5 GiB."""
    assert memory_gib(134_500_000) == pytest.approx(6.7, rel=0.1) and memory_gib(1_500_000) < 0.7
    assert memory_gib(None) is None


def test_attacks_with_their_price() -> None:
    """Cheapest first, row forwards on all models together, and minutes (relearning measured on two models: 25 s and
    31 s; here the base is a third)."""
    plan = api.check(demo_spec(sets=["audit.attacks=[relearn_in_domain, relearn_benign, round_weights]"]))
    assert [a["label"] for a in plan["attacks"]] == ["relearn_in_domain", "round_weights", "relearn_benign"]
    forwards = [a["forwards"] for a in plan["attacks"]]
    assert forwards == sorted(forwards) and forwards[0] > 0 and plan["audit_minutes"] is None
    minutes = [a["minutes"] for a in plan["attacks"]]
    assert minutes[::2] == pytest.approx([1.5 * 25 / 60, 1.5 * 31 / 60], rel=0.25)
    assert all(a["fits"] for a in plan["attacks"]) and "no limit is set" in "\n".join(plan["lines"])
    assert any(line.startswith("  relearn_in_domain: 1,572 row forwards, about 0.6") for line in plan["lines"])


def test_what_a_time_limit_and_a_threat_model_leave_out() -> None:
    plan = api.check(demo_spec(sets=["audit.minutes=0.9", "audit.attacks=[relearn_in_domain, relearn_benign]"]))
    assert [(a["label"], a["fits"]) for a in plan["attacks"]] == [
        ("relearn_in_domain", True),
        ("relearn_benign", False),
    ]
    told = "\n".join(plan["lines"])
    assert "0.9 minutes are allowed" in told and "does not fit any more" in told
    assert "round_weights was not asked for." in plan["attacks_left_out"] and "left out - round_weights" in told
    quiet = api.check(demo_spec(sets=["audit.threat=black-box"]))
    assert "relearn_benign" not in {a["label"] for a in quiet["attacks"]}
    assert any(reason.startswith("relearn_benign needs a white-box") for reason in quiet["attacks_left_out"])


def test_an_attack_without_its_control_costs_less_and_is_named() -> None:
    """Relearning runs on the unlearned model, the reference and the base; without a reference it costs a third less."""
    both, one = (api.check(demo_spec(sets=s)) for s in ([], ["reference.kind=none"]))
    three, two = ({a["label"]: a["forwards"] for a in plan["attacks"]}["relearn_benign"] for plan in (both, one))
    assert two * 3 == three * 2
    assert any(line.startswith("attack relearn_benign: excess") for line in one["not_computed"])


def lacking(roles: set[str], *names: str, rows: str = "all") -> list[str]:
    data = load_data(demo_spec().spec)[0]
    return list(not_computed(roles, data, Suite(name="x", metrics={rows: list(names)})))


def test_every_model_a_metric_reads_is_announced() -> None:
    """Weight metrics compare with the target; FADE samples the reference too; the harness reads no rows of ours."""
    target, reference = "there is no target model", "there is no reference model (retrained without the forget set)"
    assert lacking({"unlearned"}, "weights_moved", "concept_cosine") == [
        f"weights_moved: {target}",
        f"concept_cosine: {target}",
    ]
    assert lacking({"unlearned", "target"}, "weights_moved", "concept_cosine", "harness:efface_trivia") == []
    assert lacking({"unlearned", "target"}, "fade", rows="forget") == [f"fade: {reference}"]
    assert lacking({"unlearned"}, "probability", rows="nowhere") == [
        "probability on nowhere: the data has no nowhere rows"
    ]


def test_weights_that_were_cut_short_are_refused_by_name(tmp_path) -> None:
    """``check`` counts parameters from the headers of the weights, which may be broken."""
    (tmp_path / "model.safetensors").write_bytes(b"\xff\xff\x00\x00\x00\x00\x00\x00{")
    spec = demo_spec(model=str(tmp_path)).spec
    with pytest.raises(ModelError, match=r"model\.broken.*model\.safetensors"):
        parameters(spec)


# -- attacks beyond the suite ------------------------------------------------------------------------------------------
def test_attacks_that_the_suite_does_not_hold() -> None:
    """By name they are planned; without names one sentence says which were not run."""
    plan = api.check(demo_spec(sets=["audit.attacks=[paraphrase, round_weights]"]))
    assert {a["label"] for a in plan["attacks"]} == {"paraphrase", "round_weights"}
    told = [t for t in api.check(demo_spec())["attacks_left_out"] if t.startswith("Not in suite people, so not run: ")]
    assert len(told) == 1 and "paraphrase" in told[0] and "relearn" not in told[0]


def test_all_attacks_of_one_threat_model() -> None:
    """The suite alone has nothing for a black-box attacker; `all` has, and names every attack that it leaves out."""
    from efface.attacks.base import ATTACKS

    assert api.check(demo_spec(sets=["audit.threat=black-box"]))["attacks"] == []
    plan = api.check(demo_spec(sets=["audit.threat=black-box", "audit.attacks=all"]))
    labels = {a["label"] for a in plan["attacks"]}
    assert {"paraphrase", "prompts"} <= labels and all(ATTACKS.get(name).threat == "black-box" for name in labels)
    told = " ".join([*plan["attacks_left_out"], *plan["not_computed"]])
    assert [name for name in ATTACKS.names() if name not in labels and name not in told] == []


def test_what_cannot_apply_is_named() -> None:
    """An attack on language models and rows that are images."""
    values = {"model": {"name": "cnn"}, "data": {"benchmark": "digits"}, "method": {"name": "random_label"}}
    spec = resolve(("test", values | {"audit": {"attacks": ["all"]}}))
    plan = api.check(spec)
    assert {a["label"] for a in plan["attacks"]} <= {"round_weights", "mix_back"}
    assert "attack gcg: it does not apply to a classifier" in plan["not_computed"]


def test_unknown_attacks_are_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"audit\.unknown-attack.*'paraphrse'.*'paraphrase'"):
        api.check(demo_spec(sets=["audit.attacks=[paraphrse]"]))
