"""``audit`` of models made elsewhere: adapters, guards, any threat model within a time, resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from efface.attacks.base import ATTACKS
from tests.cli.test_wrong import refused

ROWS = [
    "--benchmark", "people", "--suite", "people", "--set", "data.people=8", "--set", "data.world_facts=false",
    "--set", "data.everyday=false", "--set", "audit.resamples=100",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(run: Path, shared_cache: Path) -> dict[str, Path]:
    """Folders of base, target and reference of the small run."""
    from efface.build import base, made
    from efface.loading import load_data
    from efface.spec import load, parse_spec

    was, os.environ["EFFACE_CACHE"] = os.environ.get("EFFACE_CACHE"), str(shared_cache)
    try:
        spec = parse_spec(load(run / "spec.yaml"))
        data, _ = load_data(spec)
        start = base(spec, data)
        found = {role: made(role, spec, data, start).folder for role in ("target", "reference")}
    finally:
        os.environ.pop("EFFACE_CACHE") if was is None else os.environ.__setitem__("EFFACE_CACHE", was)
    return {"base": start.folder, **found}


def words(models: dict[str, Path], out: Path) -> list[str]:
    roles = [word for role in ("target", "reference") for word in (f"--{role}", str(models[role]))]
    return [*roles, *ROWS, "--json", "--out", str(out)]


def done(cli, *call: str) -> tuple[Path, dict]:
    """The record of an audit, which ``verify`` finds nothing wrong with, and its conclusion."""
    code, out, err = cli("audit", *call)
    assert code in (0, 3), err
    folder = Path(json.loads(out)["run"])
    code, out, err = cli("verify", str(folder), "--json")
    assert code == 0 and json.loads(out)["conclusion"] == "derived again", out
    return folder, json.loads((folder / "conclusion.json").read_text())


def attacks(folder: Path) -> set[str]:
    return {path.name for path in (folder / "attacks").iterdir()}


@pytest.fixture
def adapter(models: dict[str, Path], tmp_path: Path) -> Path:
    """A LoRA adapter as peft saves it, which says that it belongs elsewhere."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(models["target"])
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.fill_(0.02)
    model.peft_config["default"].base_model_name_or_path = "somebody/another-model"
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_peft_adapter(cli, models, adapter: Path, tmp_path: Path) -> None:
    """Put on the target that is given; the record says what the adapter says itself; its base is never opened."""
    asked = ["--attacks", "remove_guard,round_weights"]
    folder, found = done(cli, str(adapter), *words(models, tmp_path / "out"), *asked)
    assert attacks(folder) == {"remove_guard", "round_weights"}
    warnings = json.loads((folder / "training.json").read_text())["warnings"]
    assert any("'somebody/another-model'" in w and models["target"].name in w for w in warnings)
    prints = json.loads((folder / "provenance.json").read_text())["fingerprints"]
    assert prints["unlearned"] != prints["target"] and "base" not in prints
    points = json.loads((folder / "attacks/remove_guard/curve.json").read_text())["points"]
    own = [p["value"] for p in points if p["role"] == "unlearned"]
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    target = next(
        s["value"] for s in scores if (s["role"], s["name"], s["rows"]) == ("target", "probability", "forget")
    )
    assert own[-1] == pytest.approx(target, abs=1e-4), "without the adapter it is the target again"
    assert found["label"] in ("retained", "concealed")


def test_an_adapter_without_its_target_is_refused(cli, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(cli, ["audit", str(adapter), *ROWS, "--out", str(out)], "model.adapter-folder", "--target", out=out)
    elsewhere = ["audit", str(adapter), *ROWS, "--out", str(out), "--set", "model.name=tiny", "--dry-run"]
    refused(cli, elsewhere, "audit.adapter-needs-target", "--target", out=out)


def test_an_adapter_that_is_no_lora_is_refused_early(cli, models, adapter: Path, tmp_path: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"LORA"', '"PREFIX_TUNING"'))
    call = ["audit", str(adapter), "--target", str(models["target"]), *ROWS, "--out", str(tmp_path / "out")]
    for extra in ([], ["--dry-run"]):
        refused(cli, [*call, *extra], "model.bad-adapter", "PREFIX_TUNING", out=tmp_path / "out")


def test_a_guard(cli, models, run: Path, tmp_path: Path) -> None:
    """An artifact that asks something else where a forgotten name is asked about: the guard conceals, and taking it off
    brings all back."""
    from efface.guards import Instruction
    from efface.loading import load_data
    from efface.models.open import open_model
    from efface.passes.cache import fingerprint
    from efface.spec import load, parse_spec

    target = fingerprint(open_model(models["target"]))
    data, _ = load_data(parse_spec(load(run / "spec.yaml")))
    names = sorted({row.entity for row in data.eval["forget"]})
    guard = {"instruction": "", "names": names, "instead": "What is the capital of France?"}
    Instruction(target, "by hand", {}, guard).save(tmp_path / "guard")
    folder, found = done(
        cli, str(tmp_path / "guard"), *words(models, tmp_path / "out"), "--attacks", "remove_guard,paraphrase"
    )
    assert attacks(folder) == {"remove_guard", "paraphrase"}
    points = json.loads((folder / "attacks/remove_guard/curve.json").read_text())["points"]
    own = [p["value"] for p in points if p["role"] == "unlearned"]
    assert own[0] < 0.7 < own[1] and found["label"] == "concealed"
    assert any(text.startswith("round_weights was not asked for") for text in found["limits"])


def test_a_black_box_attacker_with_some_minutes(cli, models, run: Path, tmp_path: Path, monkeypatch) -> None:
    """Every black-box attack there is, and a reason for each that was not run; the second call takes the curves of the
    first from the cache; a time of nothing leaves everything out by name."""
    call = [str(run / "model"), *words(models, tmp_path / "out"), "--threat", "black-box"]
    folder, found = done(cli, *call, "--minutes", "20")
    ran = attacks(folder)
    assert {"paraphrase", "prompts"} <= ran
    assert all(ATTACKS.get(name).threat == "black-box" for name in ran)
    told = " ".join(found["limits"])
    assert [name for name in ATTACKS.names() if name not in ran and name not in told] == []
    assert "gcg needs a white-box attacker" in told and "relearn_in_domain needs a white-box" in told

    def again(self, context):
        raise AssertionError("a curve was computed again")

    for name in ran:
        monkeypatch.setattr(ATTACKS.get(name), "points", again)
    second, same = done(cli, *call, "--minutes", "19")
    assert attacks(second) == ran and same["label"] == found["label"] and same["findings"] == found["findings"]
    third, left = done(cli, *call, "--minutes", "1e-6")
    assert any(text.startswith("paraphrase needs about") and "allowed" in text for text in left["limits"])
    assert "paraphrase" not in (attacks(third) if (third / "attacks").is_dir() else set())


def test_a_suite_alone_says_what_it_does_not_hold(cli, models, run: Path, tmp_path: Path) -> None:
    """And a spec file that names attacks keeps them under --threat."""
    _, out, _ = cli("audit", str(run / "model"), *words(models, tmp_path), "--dry-run")
    told = [text for text in json.loads(out)["attacks_left_out"] if text.startswith("Not in suite people")]
    assert len(told) == 1 and "paraphrase" in told[0] and "round_weights" not in told[0]
    (tmp_path / "mine.yaml").write_text("audit: {attacks: [prompts]}")
    spec = ["--spec", str(tmp_path / "mine.yaml"), "--threat", "grey-box", "--dry-run"]
    _, out, _ = cli("audit", str(run / "model"), *words(models, tmp_path), *spec)
    assert [a["label"] for a in json.loads(out)["attacks"]] == ["prompts"]
    wrong = ["audit", str(run / "model"), *words(models, tmp_path / "out")[:-3], "--attacks", "promts", "--dry-run"]
    refused(cli, wrong, "audit.unknown-attack", "'prompts'")


def test_the_base_model_is_a_role(cli, models, run: Path, tmp_path: Path) -> None:
    """Named by model.name; loaded only where something asks for it; without it the audit goes on."""
    call = [str(run / "model"), *words(models, tmp_path / "out")]
    base = ["--set", f"model.name={models['base']}"]
    folder, _ = done(cli, *call, *base, "--attacks", "relearn_in_domain")
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["models"]["base"]["origin"] == "folder"
    points = json.loads((folder / "attacks/relearn_in_domain/curve.json").read_text())["points"]
    assert {"unlearned", "reference", "base"} == {p["role"] for p in points}
    gone, _ = done(cli, *call, "--set", "model.name=nobody/no-such-model", "--attacks", "round_weights")
    assert "base" not in json.loads((gone / "provenance.json").read_text())["models"]
    assert any("no base model" in w for w in json.loads((gone / "training.json").read_text())["warnings"])
