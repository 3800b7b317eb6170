"""Every training method with every parameter selector, from the same file: full weights, a range of blocks, named
modules, a saliency mask (SURE), and LoRA alone and on named modules of one block.

On an untrained language model of two blocks: what is tested is which weights move, not what is forgotten.
"""

from __future__ import annotations

import pytest
import torch
from small_lm import FORGET, RETAIN, SETTINGS, start

from efface.engine.settings import Select, TrainSettings
from efface.errors import SpecError
from efface.methods.base import METHODS, Context, LossMethod
from efface.models.causal_lm import CausalLM

NAMES = [
    name
    for name, cls in METHODS.items()
    if "causal_lm" in cls.families
    and (issubclass(cls, LossMethod) or name == "task_vector")
    and cls.family_tag != "localised"
]
"""All methods that train; a localised one (needle) selects its weights itself and refuses others by name."""


def applied(name: str, **select) -> CausalLM:
    """The model after two steps of a method with the given selector."""
    train = TrainSettings(lr=1e-2, steps=2, batch_size=4, warmup=0.0, weight_decay=0.1, select=Select(**select))
    context = Context(start().clone(), FORGET, RETAIN, train, seed=0)
    METHODS.get(name)(**SETTINGS.get(name, {})).apply(context)
    return context.adapter


def moved(after: CausalLM) -> dict[str, torch.Tensor]:
    """Where each weight of the model before has changed; weights without a change are left out."""
    before = dict(start().module.named_parameters())
    now = {
        n.replace("base_model.model.", "").replace(".base_layer", ""): p
        for n, p in after.module.named_parameters()
        if "lora_" not in n
    }
    assert now.keys() == before.keys()
    assert all(bool(p.isfinite().all()) for p in now.values())
    return {n: p != before[n] for n, p in now.items() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("name", NAMES)
def test_full_weights(name: str) -> None:
    """Attention and MLP of every block that the loss can reach; embeddings only where they are not frozen."""
    found = moved(applied(name))
    assert any("mlp" in n for n in found) and any("attn" in n for n in found)
    assert not any("embed" in n for n in found)
    free = moved(applied(name, freeze_head=False))
    assert any("embed" in n for n in free)


@pytest.mark.parametrize("name", NAMES)
def test_stop_nll_is_watched_or_refused(name: str) -> None:
    """A limit that the model is over before unlearning ends the run after one step, or it is refused by name."""
    train = TrainSettings(lr=1e-2, steps=2, batch_size=4, warmup=0.0, stop_nll=1e-6)
    context = Context(start().clone(), FORGET, RETAIN, train, seed=0)
    try:
        METHODS.get(name)(**SETTINGS.get(name, {})).apply(context)
    except SpecError as error:
        assert error.code == "method.unused-setting" and "train.stop_nll" in error.cause
    else:
        assert context.notes["training"]["steps"] == 1 and "stop_nll" in context.notes["training"]["stopped"]


@pytest.mark.parametrize("name", NAMES)
def test_a_range_of_blocks(name: str) -> None:
    found = moved(applied(name, kind="layers", first=0, last=0))
    assert found and all("layers.0." in n for n in found)


@pytest.mark.parametrize("name", NAMES)
def test_named_modules(name: str) -> None:
    found = moved(applied(name, kind="layers", first=0, last=0, modules=("mlp.down_proj",)))
    assert list(found) == ["model.layers.0.mlp.down_proj.weight"]


@pytest.mark.parametrize("name", NAMES)
def test_saliency_mask(name: str) -> None:
    """At percentile 90 whole rows stay what they were, weight decay and momentum included: at most a tenth of the
    weights and the row at the border move."""
    found = moved(applied(name, mask="saliency", mask_percentile=90.0))
    total = sum(p.numel() for n, p in start().module.named_parameters() if "embed" not in n)
    assert 0 < sum(int(m.sum()) for m in found.values()) <= 0.1 * total + 64
    full = moved(applied(name))
    assert sum(int(m.sum()) for m in found.values()) < 0.5 * sum(int(m.sum()) for m in full.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "select",
    [{}, {"modules": ("q_proj", "down_proj"), "first": 0, "last": 0}, {"first": 0, "last": 0}],
    ids=["all", "some", "block"],
)
def test_lora(name: str, select: dict) -> None:
    """The adapter moves and the weights under it do not. A task vector is no adapter: it merges and edits weights."""
    after = applied(name, kind="lora", rank=2, **select)
    if name == "task_vector":
        touched = set(moved(after))
        assert touched and all("proj" in n for n in touched)
        assert not select or all("layers.0." in n for n in touched)
        return
    lora = {n: p for n, p in after.module.named_parameters() if "lora_B" in n}
    assert any(bool(p.any()) for p in lora.values()) and not moved(after)
    if select:
        assert all("layers.0." in n for n in lora)
        assert len(lora) == (2 if "modules" in select else 7)
