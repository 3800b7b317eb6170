"""Artifacts: strength 0 is the target bit for bit, save -> load gives the same outputs, strengths mix, guards guard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from efface.artifact import KINDS, Artifact, LoRA, Weights, artifact_class
from efface.engine.finetune import fit
from efface.engine.settings import Select, TrainSettings
from efface.errors import ModelError, NeedsError, SpecError
from efface.guards import Instruction, LogitBias
from efface.passes.cache import fingerprint
from efface.passes.generate import GenerateSettings, generate
from efface.testing.battery import outputs
from efface.testing.bench import bench

STEPS = TrainSettings(lr=2e-3, steps=3, batch_size=8)


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


def changed(b, **select):
    adapter = b.model("target")
    fit(adapter, list(b.data.train["retain"])[:16], STEPS.model_copy(update={"select": Select(**select)}), seed=0)
    return adapter


@pytest.mark.parametrize(("make", "select"), [(Weights.between, {"kind": "full"}), (None, {"kind": "lora", "rank": 4})])
def test_save_load_and_strength(b, tmp_path: Path, make, select) -> None:
    target, trained, rows = b.model("target"), changed(b, **select), list(b.data.eval["forget"])[:4]
    artifact = make(target, trained, "x") if make else LoRA.of(trained, target, "x")
    artifact.save(tmp_path)
    loaded = Artifact.load(tmp_path)
    assert outputs(loaded.attach(target), rows) == outputs(trained, rows) != outputs(target, rows)
    assert outputs(loaded.attach(target, 0.0), rows) == outputs(target, rows)


def test_weights_mix_by_hand(b) -> None:
    """Strength 0.25: target + 0.25 * (unlearned - target)."""
    target, trained = b.model("target"), changed(b)
    mixed = Weights.between(target, trained, "x").attach(target, 0.25)
    for t, u, m in zip(*(a.module.parameters() for a in (target, trained, mixed)), strict=True):
        assert torch.equal(m, t if torch.equal(t, u) else t + 0.25 * (u - t))


def test_weights_keep_only_what_changed(b) -> None:
    target = b.model("target")
    artifact = Weights.between(target, changed(b, kind="layers", first=1, last=1, modules=("mlp",)), "x")
    assert artifact.tensors and all("layers.1.mlp" in name for name in artifact.tensors)


def test_other_target_is_refused(b) -> None:
    artifact = Weights.between(b.model("target"), changed(b), "x")
    with pytest.raises(ModelError, match="artifact.other-target"):
        artifact.attach(b.model("reference"))


def test_logit_bias_conceals_and_leaves_weights_alone(b, tmp_path: Path) -> None:
    """A bias against the end token: nothing ends any more, scored or generated; the weights are the target's."""
    target, rows = b.model("target"), list(b.data.eval["forget"])[:3]
    bias = torch.zeros(len(target.tokenizer))
    bias[sorted(target.stops)] = -1e4
    LogitBias(fingerprint(target), "bias", {"bias": bias}).save(tmp_path)
    guarded = Artifact.load(tmp_path).attach(target)
    assert fingerprint(guarded) == fingerprint(target) and guarded.identity() != target.identity()
    assert generate(target, rows, settings=GenerateSettings(max_new_tokens=40))["finish"].to_pylist() == ["stop"] * 3
    assert generate(guarded, rows, settings=GenerateSettings(max_new_tokens=40))["finish"].to_pylist() == ["length"] * 3
    assert all(lp[-1] < -100 for lp in outputs(guarded, rows))


def test_instruction_changes_what_is_asked(b, tmp_path: Path) -> None:
    target, rows = b.model("target"), list(b.data.eval["forget"])[:3]
    Instruction(fingerprint(target), "guard", {}, {"instruction": "Say that you do not know."}).save(tmp_path)
    guarded = Artifact.load(tmp_path).attach(target)
    assert outputs(guarded, rows) != outputs(target, rows)
    assert outputs(Artifact.load(tmp_path).attach(target, 0.0), rows) == outputs(target, rows)


def test_kinds() -> None:
    """Six kinds are defined; one that nothing provides here is refused by name, an unknown one with the nearest."""
    assert set(KINDS) == {"weights", "edit", "adapter", "logit_wrapper", "input_guard", "retrieval_guard"}
    for kind in KINDS[:5]:
        assert artifact_class(kind).kind == kind
    with pytest.raises(NeedsError, match="artifact.no-provider"):
        artifact_class("retrieval_guard")
    with pytest.raises(SpecError, match="Did you mean 'weights'"):
        artifact_class("weight")
