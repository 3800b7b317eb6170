"""The classifier adapter: shapes, exactness, folders, and modules that are not ours."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from efface.data.rows import Bundle, ImageRow, Row
from efface.engine.select import trainable
from efface.engine.settings import Select
from efface.engine.view import View
from efface.errors import ModelError, NeedsError, SpecError
from efface.models.classifier import Classifier, initialise
from efface.models.cnn import CNNConfig, ImageConfig, config_for
from efface.models.open import open_model

WIDTHS = (16, 32, 64, 80)


def images(count: int, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10) -> list[ImageRow]:
    rng = np.random.default_rng(0)
    return [
        ImageRow(f"r{i}", rng.random(shape, dtype=np.float32), i % classes, f"class {i % classes}")
        for i in range(count)
    ]


def batch_of(adapter: Classifier, rows):
    encoded = [adapter.encode(row) for row in rows]
    return adapter.collate(encoded, range(len(rows))).to(adapter.device)


def logits(adapter: Classifier, rows) -> torch.Tensor:
    with adapter.evaluating():
        return adapter.forward(batch_of(adapter, rows)).logits


@pytest.fixture
def cnn() -> Classifier:
    return Classifier.fresh(CNNConfig(), seed=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 16, 12)])
def test_shapes(shape):
    channels, height, width = shape
    adapter = Classifier.fresh(CNNConfig(channels=channels, height=height, width=width, classes=7), seed=0)
    batch = batch_of(adapter, images(5, shape, 7))
    with adapter.evaluating():
        out = adapter.forward(batch, hidden=range(5))
    assert out.logits.shape == (5, 7) and out.logits.dtype == torch.float32
    assert {k: tuple(v.shape) for k, v in out.hidden.items()} == {
        0: (5, 1, channels * height * width),
        **{i + 1: (5, 1, w) for i, w in enumerate(WIDTHS)},
    }
    assert batch.label_at.tolist() == batch.label_row.tolist() == list(range(5))
    assert batch.label_id.tolist() == [0, 1, 2, 3, 4]
    assert batch.token_mask.shape == (5, 1) and batch.token_mask.all() and batch.answer_mask.all()


def test_size_and_structure(cnn):
    """Convolutions 9 * (1*16 + 16*32 + 32*64 + 64*80) = 69,264; norms 2 * (16 + 32 + 64 + 80) = 384; head 810."""
    assert sum(p.numel() for p in cnn.module.parameters()) == 69_264 + 384 + 810
    assert len(cnn.blocks) == 4 and cnn.head_parameters() == ["head.weight", "head.bias"]
    assert (cnn.family, cnn.modality) == ("classifier", "image")


def test_deepest_layer_feeds_the_head(cnn):
    batch = batch_of(cnn, images(4))
    with cnn.evaluating():
        out = cnn.forward(batch, hidden=[4])
        assert torch.equal(cnn.module.head(out.hidden[4][:, 0]), out.logits)


def test_stops_after_the_deepest_layer_asked_for(cnn):
    ran = []
    for i, block in enumerate(cnn.blocks, 1):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    batch = batch_of(cnn, images(3))
    with cnn.evaluating():
        short = cnn.forward(batch, logits=False, hidden=[2])
        assert ran == [1, 2] and short.logits is None
        assert torch.equal(short.hidden[2], cnn.forward(batch, hidden=[2]).hidden[2])
        ran.clear()
        assert set(cnn.forward(batch, logits=False, hidden=[0]).hidden) == {0} and not ran
    assert all(len(b._forward_hooks) == 1 for b in cnn.blocks), "hooks of the forward must be gone"


def test_eight_rows_at_once_equal_one_by_one(cnn):
    rows = images(8)
    whole, single = logits(cnn, rows), torch.cat([logits(cnn, [row]) for row in rows])
    torch.testing.assert_close(whole, single, rtol=0, atol=1e-6)


def test_gradients_add_over_micro_batches(cnn):
    """mean_rows divides by the rows of the effective batch, so eight views of one row sum to one view of eight."""

    def gradient(parts):
        cnn.module.zero_grad()
        for part in parts:
            view = View(cnn, batch_of(cnn, part), "forget", 8, 8)
            view.mean_rows(view.nll).backward()
        return torch.cat([p.grad.flatten() for p in cnn.module.parameters()])

    rows = images(8)
    torch.testing.assert_close(gradient([rows]), gradient([[r] for r in rows]), rtol=1e-4, atol=1e-6)


def test_pixels_are_scaled(cnn):
    """(pixel - 0.5) / 0.5 sends 0, 0.25, 1 to -1, -0.5, 1."""
    row = ImageRow("a", np.full((1, 8, 8), 0.25, np.float32), 0)
    row.pixels[0, 0, 0], row.pixels[0, 0, 1] = 0, 1
    assert batch_of(cnn, [row]).inputs["pixel_values"][0, 0, 0, :3].tolist() == [-1, 1, -0.5]


def test_same_seed_same_bits_and_global_state_untouched():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other, third = (Classifier.fresh(CNNConfig(), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True))
    assert not torch.equal(one.module.head.weight, third.module.head.weight)


def test_clone_shares_nothing(cnn):
    twin, rows = cnn.clone(), images(3)
    before = logits(cnn, rows)
    with torch.no_grad():
        for p in twin.module.parameters():
            p.add_(1)
    assert torch.equal(logits(cnn, rows), before) and not torch.equal(logits(twin, rows), before)
    assert twin.identity() == cnn.identity()


def test_save_and_load(cnn, tmp_path):
    cnn.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again, rows = open_model(tmp_path, device="cpu"), images(6)
    assert isinstance(again, Classifier) and torch.equal(logits(again, rows), logits(cnn, rows))
    assert again.identity() == cnn.identity() and again.config == cnn.config


def test_initialise_fits_the_data(tmp_path):
    rows = images(12, (3, 9, 10), 6)
    initialise(Bundle("x", "image", {"forget": rows[:2], "retain": rows[2:]}, {}), tmp_path, seed=3)
    config = Classifier.load(tmp_path).config
    assert (config.channels, config.height, config.width, config.classes) == (3, 9, 10, 6)
    with pytest.raises(NeedsError, match="model.wrong-rows"):
        config_for([Row("t", "text")])


# -- what cannot be scored ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ImageRow("a", np.zeros((1, 9, 8), np.float32), 0), "1x9x8"),
        (ImageRow("a", np.zeros((1, 8, 8), np.float32), 10), "label 10"),
        (ImageRow("a", np.full((1, 8, 8), 16, np.float32), 0), "between 0 and 1"),
        (ImageRow("a", np.full((1, 8, 8), np.nan, np.float32), 0), "between 0 and 1"),
    ],
)
def test_problem_rows_say_why(cnn, row, why):
    assert why in cnn.encode(row).problem


def test_other_wordings_and_candidates(cnn):
    row = images(1)[0]
    assert cnn.encode(row, prompt="paraphrase").problem == "no paraphrase"
    bare = cnn.encode(row, answers=("wrong",))
    assert bare.names == () and bare.labels == 0
    batch = cnn.collate([cnn.encode(row), bare, cnn.encode(row)], [0, 1, 2])
    assert batch.label_row.tolist() == [0, 2]
    with cnn.evaluating():
        assert cnn.forward(batch).logits.shape == (2, 10)
    with pytest.raises(NeedsError, match="model.wrong-rows"):
        cnn.encode(Row("t", "text"))


def test_layers_that_are_not_there(cnn):
    with pytest.raises(NeedsError, match="model.no-layer"), cnn.evaluating():
        cnn.forward(batch_of(cnn, images(1)), hidden=[5])


# -- hostile and broken folders ---------------------------------------------------------------
def edited(folder, cnn, **changes):
    cnn.save(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"widths": [1 << 40]}, "model.bad-config"),
        ({"widths": [12]}, "model.bad-config"),
        ({"classes": 1}, "spec.bad-value"),
        ({"classes": 11}, "model.broken"),
        ({"classes": 1_000_000, "widths": [4096] * 16}, "model.missing-weights"),
        ({"version": 2}, "spec.bad-value"),
        ({"hidden": 3}, "spec.unknown-setting"),
        ({"widths": [16, 32]}, "model.missing-weights"),
        ({"std": [0]}, "model.bad-config"),
        ({"mean": [0.1, 0.2]}, "model.bad-config"),
        ({"auto_map": {"a": "b"}}, "model.remote-code"),
        ({"architecture": "other"}, "model.not-classifier"),
    ],
)
def test_foreign_configs_are_refused(cnn, tmp_path, changes, code):
    with pytest.raises((ModelError, NeedsError, SpecError), match=code):
        Classifier.load(edited(tmp_path, cnn, **changes))


def test_foreign_weights_are_refused(cnn, tmp_path):
    cnn.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "head.bias"}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="head.bias"):
        Classifier.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04no tensors here")
    with pytest.raises(ModelError, match="model.broken"):
        Classifier.load(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="model.pickle-only"):
        Classifier.load(tmp_path)


def test_device_and_compute_names(cnn, tmp_path):
    cnn.save(tmp_path)
    with pytest.raises(ModelError, match="model.no-device"):
        Classifier.load(tmp_path, device="abacus")
    with pytest.raises(SpecError, match="compute"):
        Classifier.load(tmp_path, compute="fp8")
    half = Classifier.load(tmp_path, compute="bf16")
    assert half.identity() != cnn.identity() and not torch.equal(logits(half, images(2)), logits(cnn, images(2)))


# -- modules that are not ours ---------------------------------------------------------------
class Own(nn.Module):
    """Two stages, the first with batch norm; gives an object with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 6))
        self.spare = nn.Identity()
        self.out = nn.Linear(6, 10)

    def forward(self, x):
        return self.out(self.second(self.first(x)))


def test_own_module():
    torch.manual_seed(0)
    adapter = Classifier(Own(), ImageConfig(), ["first", "second"])
    with adapter.evaluating():
        out = adapter.forward(batch_of(adapter, images(3)), hidden=[1, 2])
    assert out.hidden[1].shape == (3, 1, 4) and out.hidden[2].shape == (3, 1, 6) and out.logits.shape == (3, 10)
    assert adapter.head_parameters() == ["out.weight", "out.bias"]
    assert torch.equal(logits(adapter.clone(), images(3)), logits(adapter, images(3)))


def test_batch_norm_keeps_its_statistics_in_training():
    adapter = Classifier(Own(), ImageConfig(), ["first", "second"])
    before, still = logits(adapter, images(4)), adapter.module.first[1].running_mean.clone()
    with adapter.training():
        assert adapter.module.training
        torch.testing.assert_close(adapter.forward(batch_of(adapter, images(4))).logits, before)
    assert torch.equal(adapter.module.first[1].running_mean, still) and not adapter.module.training


def test_own_module_is_checked(tmp_path):
    for blocks, head in ((["nowhere"], ""), ([], ""), (["first"], "nowhere")):
        with pytest.raises(NeedsError, match="model.no-block"):
            Classifier(Own(), ImageConfig(), blocks, head=head)
    idle = Classifier(Own(), ImageConfig(), ["first", "spare"])
    with pytest.raises(NeedsError, match="model.block-not-run"), idle.evaluating():
        idle.forward(batch_of(idle, images(1)), hidden=[2])
    with pytest.raises(ModelError, match="model.not-savable"):
        idle.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_lora_on_convolutions(cnn, tmp_path):
    rows = images(4)
    before, plain = logits(cnn, rows), cnn.clone()
    chosen = trainable(cnn, Select(kind="lora", rank=2, modules=("conv",)), seed=0)
    assert chosen and torch.equal(logits(cnn, rows), before) and len(cnn.blocks) == 4
    assert len(cnn.head_parameters()) == 2 and cnn.identity()["architecture"] == "SmallCNN"
    with torch.no_grad():
        for name, p in chosen.items():
            if "lora_B" in name:
                p.fill_(0.1)
    after = logits(cnn, rows)
    cnn.save(tmp_path)
    assert not torch.equal(after, before)
    torch.testing.assert_close(logits(Classifier.load(tmp_path), rows), after, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(plain, rows), before)


# -- Hugging Face ---------------------------------------------------------------
def vit(folder, **preprocessing):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=10,
    )
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    known = {"image_mean": [0.4], "image_std": [0.2], "do_normalize": True, "do_rescale": True} | preprocessing
    (folder / "preprocessor_config.json").write_text(json.dumps(known))
    return model


def test_hugging_face_folder(tmp_path):
    """The adapter must give what the model gives for (pixel - mean) / std."""
    source, rows = tmp_path / "hf", images(3)
    model = vit(source)
    adapter = Classifier.load(source)
    pixels = torch.from_numpy(np.stack([row.pixels for row in rows]))
    with torch.no_grad():
        expected = model((pixels - 0.4) / 0.2).logits
    torch.testing.assert_close(logits(adapter, rows), expected)
    assert len(adapter.blocks) == 2 and adapter.head_parameters() == ["classifier.weight", "classifier.bias"]
    with adapter.evaluating():
        assert adapter.forward(batch_of(adapter, rows), logits=False, hidden=[2]).hidden[2].shape == (3, 1, 16)
    adapter.save(tmp_path / "saved")
    again = open_model(tmp_path / "saved", device="cpu")
    assert torch.equal(logits(again, rows), logits(adapter, rows)) and again.identity() == adapter.identity()


def test_hugging_face_scaling_of_raw_bytes(tmp_path):
    """do_rescale false: the model saw 0..255, so mean 102 and std 51 of bytes are 0.4 and 0.2 of [0, 1]."""
    vit(tmp_path, do_rescale=False, image_mean=[102.0], image_std=[51.0])
    config = Classifier.load(tmp_path).config
    assert config.mean == pytest.approx((0.4,)) and config.std == pytest.approx((0.2,))


def test_hugging_face_folder_without_scaling_is_refused(tmp_path):
    vit(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="model.no-normalisation"):
        Classifier.load(tmp_path)
