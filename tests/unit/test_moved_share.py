"""The share of weights that moved: every tensor once, whoever shares it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from efface.artifact import Weights
from efface.engine.settings import TrainSettings
from efface.models.folders import quiet_transformers
from efface.models.open import open_model
from efface.models.tiny import tiny_folder
from efface.pipeline import _moved

CONTEXT = SimpleNamespace(notes={}, train=TrainSettings())


def moved(before, after, trained: int | None = None) -> dict:
    notes = {"training": {"trained_parameters": trained}} if trained else {}
    context = SimpleNamespace(notes=notes, train=TrainSettings())
    return _moved(Weights.between(before, after, "m"), before, "m", context)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_counts_once(tmp_path: Path, tied: bool) -> None:
    """All weights move: 100%, tied or not. Only the embeddings (rows x width numbers) move: their share of the total; a
    head that is tied to them moves too and is not counted again."""
    with quiet_transformers():
        tiny_folder(["a few words"], tmp_path, vocab=300, width=16, layers=1, ff=32, heads=2, tied=tied)
    before = open_model(tmp_path)
    module = before.module
    assert module.config.tie_word_embeddings is tied
    assert (module.get_output_embeddings().weight is module.get_input_embeddings().weight) is tied
    total = sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())

    everything = before.clone()
    with torch.no_grad():
        for p in everything.module.parameters():
            p.add_(1)
    found = moved(before, everything)
    assert found == {"moved_share": 1.0, "warnings": []}

    embeddings = before.clone()
    with torch.no_grad():
        embeddings.module.get_input_embeddings().weight.add_(1)
    size = module.get_input_embeddings().weight.numel()
    assert moved(before, embeddings)["moved_share"] == pytest.approx(size / total)
    assert moved(before, embeddings, trained=2 * size)["moved_share"] == pytest.approx(0.5)

    one = before.clone()
    with torch.no_grad():
        one.module.get_input_embeddings().weight[0, 0].add_(1)
    found = moved(before, one)
    assert found["moved_share"] == pytest.approx(1 / total) and "updates vanish" in found["warnings"][0]


def test_buffers_are_no_weights() -> None:
    """Running statistics of a batch norm are kept in the artifact and do not count."""
    module = torch.nn.BatchNorm1d(4)  # 8 weights, 9 buffer values
    state = {name: value.clone() + 1 for name, value in module.state_dict().items() if name != "bias"}
    found = _moved(Weights("", "m", state), SimpleNamespace(module=module), "m", CONTEXT)
    assert found["moved_share"] == 0.5
