"""Model folders from strangers: what is opened, and what is refused under which code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.errors import ModelError
from efface.models.folders import content_sha256, open_causal_lm
from efface.models.tiny import build_tokenizer, tiny_folder, tiny_model

TEXTS = ["Where was Ada born?", "In Oslo.", "Who wrote the book of 1987?", "Nobody did."]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return tiny_folder(TEXTS, tmp_path_factory.mktemp("tiny") / "model", seed=3, width=32, layers=2, ff=48)


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def refusal(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        open_causal_lm(folder, torch.float32)
    return caught.value


def test_opens_with_the_written_weights_in_the_asked_dtype(folder):
    model, tokenizer = open_causal_lm(folder, torch.bfloat16)
    written = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(model.state_dict()[name], written[name].bfloat16()) and not model.training
    assert tokenizer("<|user|>Ada<|end|>", add_special_tokens=False)["input_ids"][0] == 2


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    error = refusal(folder)
    assert error.code == "model.pickle-only" and "pytorch_model.bin" in error.cause and "save_pretrained" in error.fix
    assert not Path("owned").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_refused(folder, name):
    edit(folder / name, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert refusal(folder).code == "model.remote-code"


def test_attention_code_from_a_hub_is_refused(folder):
    edit(folder / "config.json", attn_implementation="somebody/kernel")
    assert refusal(folder).code == "model.remote-code"


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("config.json", "model.no-config"),
        ("model.safetensors", "model.no-weights"),
        ("tokenizer.json", "model.no-tokenizer"),
    ],
)
def test_a_missing_part_is_named(folder, file, code):
    (folder / file).unlink()
    assert refusal(folder).code == code


def test_a_missing_shard_is_named(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "one.safetensors", metadata={"format": "pt"})
    names = dict.fromkeys(weights, "one.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert open_causal_lm(folder, torch.float32)[0].num_parameters() > 0
    index.write_text(json.dumps({"metadata": {}, "weight_map": {**names, "lm_head.weight": "two.safetensors"}}))
    error = refusal(folder)
    assert error.code == "model.missing-shards" and "two.safetensors" in error.cause
    index.write_text(json.dumps({"metadata": {}, "weight_map": {**names, "lm_head.weight": "../two.safetensors"}}))
    assert refusal(folder).code == "model.unsafe-file"


def test_weights_that_are_lacking_are_not_drawn_at_random(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    error = refusal(folder)
    assert error.code == "model.missing-weights" and "layers.0.self_attn.q_proj" in error.cause


def test_broken_weights_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    assert refusal(folder).code == "model.broken"


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    (folder / "vocab.txt").symlink_to(secret)
    assert refusal(folder).code == "model.unsafe-file"


def test_links_of_the_hub_cache_are_followed(made, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    shutil.copytree(made, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert open_causal_lm(snapshot, torch.float32)[0].num_parameters() > 0


@pytest.mark.parametrize(
    "entry",
    [
        {"vocab_file": "/etc/passwd"},
        {"tokenizer_file": "../x.json"},
        {"fast_tokenizer_files": ["../../tokenizer.json"]},
        {"vocab_file": "weights.pkl"},
    ],
)
def test_files_named_outside_the_folder_are_refused(folder, entry):
    edit(folder / "tokenizer_config.json", **entry)
    assert refusal(folder).code == "model.unsafe-file"


def test_an_adapter_folder_does_not_load_its_base_model(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    assert refusal(folder).code == "model.adapter-folder"


def test_a_tokenizer_larger_than_the_model_is_refused(folder):
    tokenizer = build_tokenizer([*TEXTS, "many more words make a larger vocabulary, larger vocabulary"])
    tokenizer.save_pretrained(folder)
    assert refusal(folder).code == "model.vocabulary"


def test_a_model_that_is_no_decoder_and_a_config_that_is_no_json(folder):
    edit(folder / "config.json", model_type="vit", architectures=["ViTModel"])
    assert refusal(folder).code == "model.not-causal"
    (folder / "config.json").write_text("{")
    assert refusal(folder).code == "model.bad-config"


def test_content_hash_follows_weights_and_tokenizer_but_not_the_readme(folder):
    before = content_sha256(folder)
    (folder / "README.md").write_text("hello")
    assert content_sha256(folder) == before
    edit(folder / "tokenizer_config.json", eos_token="<|user|>")
    assert content_sha256(folder) != before


def test_tiny_models_come_from_their_seed_alone(folder, tmp_path):
    tokenizer = build_tokenizer(TEXTS)
    torch.manual_seed(1)
    first = tiny_model(tokenizer, width=32, layers=2, ff=48, seed=3)
    state = torch.random.get_rng_state()
    again = open_causal_lm(tiny_folder(TEXTS, tmp_path / "again", 3, width=32, layers=2, ff=48), torch.float32)[0]
    other = tiny_model(tokenizer, width=32, layers=2, ff=48, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, value), same in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, same), name
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_tiny_default_size_and_ties():
    """Three blocks of 4 * 192^2 (attention) + 3 * 192 * 512 (MLP) + 2 * 192 (norms), one norm, and 192 a token, twice
    if the head has its own."""
    tokenizer = build_tokenizer(TEXTS)
    blocks = 3 * (4 * 192**2 + 3 * 192 * 512 + 2 * 192) + 192
    assert tiny_model(tokenizer).num_parameters() == blocks + 192 * len(tokenizer)
    assert sum(p.numel() for p in tiny_model(tokenizer, tied=False).parameters()) == blocks + 2 * 192 * len(tokenizer)


def test_a_width_that_heads_cannot_share_is_a_user_error():
    with pytest.raises(Exception, match="multiple of 8") as caught:
        tiny_model(build_tokenizer(TEXTS), width=36)
    assert caught.value.code == "spec.bad-value"
