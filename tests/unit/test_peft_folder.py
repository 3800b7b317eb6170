"""A PEFT adapter from a stranger: put on the target as peft itself would, or refused under which code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from efface.errors import ModelError
from efface.models.folder_check import ADAPTER, ADAPTER_WEIGHTS, adapter_base, check_adapter, is_adapter
from efface.models.open import open_adapter
from efface.testing.battery import outputs
from efface.testing.bench import bench


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


def write(b, folder: Path, **settings) -> Path:
    """An adapter on the target as peft saves it, its weights drawn at random."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1} | settings
    model = get_peft_model(b.model("target").module, LoraConfig(**settings, task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p) * 0.2 + (1.0 if "magnitude" in name else 0.0))
    model.save_pretrained(folder)
    return folder


def edit(folder: Path, **entries) -> None:
    path = folder / ADAPTER
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}},
        {"target_modules": r"(?:.*?)\.layers\.1\.(?:self_attn|mlp)\.(?:q_proj|up_proj)"},
        {"layers_to_transform": [1], "init_lora_weights": "gaussian"},
    ],
    ids=["plain", "rslora", "dora", "patterns", "regex", "layers"],
)
def test_it_is_what_peft_makes_of_it(b, tmp_path: Path, settings) -> None:
    folder, target, rows = write(b, tmp_path / "a", **settings), b.model("target"), list(b.data.eval["forget"])[:4]
    before = outputs(target, rows)
    theirs = b.model("target")
    theirs.module = PeftModel.from_pretrained(theirs.module, str(folder)).eval()
    ours = open_adapter(folder, target)
    assert outputs(ours, rows) == outputs(theirs, rows) != before == outputs(target, rows)
    assert is_adapter(folder) and not ours.module.training


def test_what_it_says_it_belongs_to_is_not_opened(b, tmp_path: Path) -> None:
    folder = write(b, tmp_path / "a")
    edit(folder, base_model_name_or_path="/nowhere/else", auto_mapping={"parent_library": "antigravity"})
    open_adapter(folder, b.model("target"))
    assert adapter_base(folder) == "/nowhere/else"


@pytest.mark.parametrize(
    ("entries", "code", "told"),
    [
        ({"peft_type": "IA3"}, "model.bad-adapter", "IA3"),
        ({"peft_type": None}, "model.bad-adapter", "None"),
        ({"task_type": "SEQ_CLS"}, "model.bad-adapter", "SEQ_CLS"),
        ({"modules_to_save": ["lm_head"]}, "model.bad-adapter", "modules_to_save"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "model.bad-adapter", "megatron_config"),
        ({"from_the_future": 3}, "model.bad-adapter", "from_the_future"),
        ({"lora_bias": True}, "model.bad-adapter", "lora_bias"),
        ({"bias": "all"}, "model.bad-adapter", "bias"),
        ({"init_lora_weights": "pissa"}, "model.bad-adapter", "pissa"),
        ({"init_lora_weights": []}, "model.bad-adapter", "init_lora_weights"),
        ({"r": 10**9}, "model.bad-adapter", "rank"),
        ({"r": "4"}, "model.bad-adapter", "rank"),
        ({"rank_pattern": {"(a+)+": 4}}, "model.bad-adapter", "rank_pattern"),
        ({"rank_pattern": [4]}, "model.bad-adapter", "rank"),
        ({"r": 2}, "model.bad-adapter", "does not fit"),
        ({"target_modules": ["q_proj"]}, "model.bad-adapter", "does not fit"),
        ({"target_modules": ["no_such_module"]}, "model.bad-adapter", "cannot be put"),
        ({"lora_alpha": "much"}, "model.bad-adapter", "cannot be put"),
    ],
)
def test_settings_that_are_refused(b, tmp_path: Path, entries, code, told) -> None:
    folder = write(b, tmp_path / "a")
    edit(folder, **entries)
    with pytest.raises(ModelError) as caught:
        open_adapter(folder, b.model("target"))
    assert caught.value.code == code and told in caught.value.cause and caught.value.fix


def test_tied_embeddings_are_not_untied(b, tmp_path: Path) -> None:
    if not b.model("target").hf.config.tie_word_embeddings:
        pytest.skip("the tiny model's embeddings are not tied")
    folder = write(b, tmp_path / "a", target_modules=["embed_tokens"])
    with pytest.raises(ModelError, match="tied"):
        open_adapter(folder, b.model("target"))


def test_files_that_are_refused(b, tmp_path: Path) -> None:
    """Pickles, nothing at all, damage, a tensor that belongs nowhere, a link out of the folder."""
    folder = write(b, tmp_path / "a")
    weights = folder / ADAPTER_WEIGHTS
    tensors = load_file(weights)

    def code() -> str:
        with pytest.raises(ModelError) as caught:
            open_adapter(folder, b.model("target"))
        return caught.value.code

    save_file(tensors | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, weights)
    assert code() == "model.bad-adapter"
    weights.write_bytes(b"\xff" * 40)
    assert code() == "model.broken"
    weights.unlink()
    assert code() == "model.no-weights"
    torch.save(tensors, folder / "adapter_model.bin")
    assert code() == "model.pickle-only"
    (tmp_path / "elsewhere.safetensors").write_bytes(b"")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    assert code() == "model.unsafe-file"


def test_an_image_target_is_refused(b, tmp_path: Path) -> None:
    folder = write(b, tmp_path / "a")
    target = b.model("target")
    target.family = "classifier"
    with pytest.raises(ModelError, match="classifier"):
        open_adapter(folder, target)
    assert check_adapter(folder)["r"] == 4
