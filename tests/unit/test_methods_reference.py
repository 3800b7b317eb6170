"""Retraining, fine-tuning on the retain rows, and the modality-blind methods, end to end on a small image classifier.

The world: 8x8 images, four classes, each a bright quadrant plus noise. Class 3 is to be forgotten. Small enough that
the target, the retrained model and every method take a fraction of a second.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from efface.data.rows import ImageRow
from efface.engine.finetune import fit
from efface.engine.settings import Select, TrainSettings
from efface.errors import NeedsError, SpecError
from efface.methods.base import METHODS, Context
from efface.models.classifier import Classifier
from efface.models.cnn import CNNConfig
from efface.spec import resolve

CONFIG = CNNConfig(classes=4, widths=(8, 8))
BUILD = TrainSettings(lr=1e-2, epochs=6, batch_size=16, token_budget=64, select=Select(freeze_head=False))


@cache
def rows(label: int) -> tuple[ImageRow, ...]:
    """Twelve images of one class."""
    random = np.random.default_rng(label)
    made = []
    for i in range(12):
        pixels = 0.3 * random.random((1, 8, 8), dtype=np.float32)
        up, left = 4 * (label // 2), 4 * (label % 2)
        pixels[:, up : up + 4, left : left + 4] += 0.6
        made.append(ImageRow(f"c{label}-{i}", pixels, label, f"class {label}"))
    return tuple(made)


RETAIN = [row for label in range(3) for row in rows(label)]
FORGET = list(rows(3))


def base() -> Classifier:
    return Classifier.fresh(CONFIG, seed=1)


@cache
def _trained(retain_only: bool) -> Classifier:
    model = base()
    fit(model, RETAIN if retain_only else [*FORGET, *RETAIN], BUILD, seed=5)
    return model


def context(**changes) -> Context:
    """A context on a fresh copy of the target."""
    given = dict(forget=FORGET, retain=RETAIN, train=BUILD, seed=5, base=base)
    return Context(_trained(False).clone(), **given | changes)


def accuracy(model: Classifier, data: list[ImageRow]) -> float:
    batch = model.collate([model.encode(row) for row in data], range(len(data)))
    with model.evaluating():
        return float((model.forward(batch).logits.argmax(-1) == batch.label_id).float().mean())


def weights(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


def same(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(p, q) for p, q in zip(weights(a).values(), weights(b).values(), strict=True))


# -- the two references ----------------------------------------------------------------------------------------------
def test_retrain_is_base_trained_on_retain_rows_only():
    """Same bits as fitting a fresh base on the retain rows; the target it was handed stays as it was."""
    given = context()
    target = given.adapter
    before = weights(target)
    METHODS.get("retrain")().apply(given)
    assert same(given.adapter, _trained(True))
    assert given.adapter is not target and all(torch.equal(before[k], v) for k, v in weights(target).items())
    assert given.notes["training"]["steps"] == 14, "6 epochs of 36 rows in batches of 16 are ceil(13.5) steps"
    assert accuracy(target, FORGET) == 1.0 and accuracy(given.adapter, FORGET) == 0.0


@pytest.mark.mechanism("retrain", "neither target nor forget rows are read")
def test_retrain_reads_neither_target_nor_forget_rows():
    """Another target and other forget rows give the same bits."""
    first, second = context(), context(forget=list(rows(0)))
    second.adapter = _trained(True).clone()
    for each in (first, second):
        METHODS.get("retrain")().apply(each)
    assert same(first.adapter, second.adapter)


@pytest.mark.mechanism("finetune_retain", "the target's weights and the retain rows, nothing else")
def test_finetune_retain_goes_on_from_the_target():
    """Same bits as fitting the target on the retain rows; not the retrained model."""
    given, expected = context(), _trained(False).clone()
    fit(expected, RETAIN, BUILD, seed=5)
    METHODS.get("finetune_retain")().apply(given)
    assert same(given.adapter, expected) and not same(given.adapter, _trained(True))
    assert accuracy(given.adapter, RETAIN) == 1.0


@pytest.mark.parametrize("model", ["tiny", "cnn", "smollm2-135m"])
@pytest.mark.parametrize("data", ["people", "tofu"])
def test_retrain_recipe_is_the_recipe_of_the_target(model, data):
    """Otherwise a retrained model would differ from the target in more than its rows."""
    spec = resolve(
        ("test", {"model": {"name": model}, "data": {"benchmark": data}, "method": {"name": "retrain"}})
    ).spec
    assert spec.train == spec.target.train


@pytest.mark.parametrize("name", ["retrain", "finetune_retain"])
@pytest.mark.parametrize("field", ["forget_weight", "retain_weight", "stop_nll"])
def test_references_refuse_settings_they_would_ignore(name, field):
    with pytest.raises(SpecError, match=f"train.{field}") as caught:
        METHODS.get(name)().apply(context(train=BUILD.model_copy(update={field: 0.5})))
    assert caught.value.code == "method.unused-setting"


def test_references_refuse_what_they_lack():
    """No base, no retain rows, or LoRA, which cannot turn the target into another model."""
    lora = BUILD.model_copy(update={"select": Select(kind="lora")})
    cases = [
        ("retrain", {"base": None}, "method.needs-base"),
        ("retrain", {"retain": []}, "method.needs-retain"),
        ("retrain", {"train": lora}, "method.no-lora"),
        ("finetune_retain", {"retain": []}, "method.needs-retain"),
        ("retrain", {"forget": []}, "method.no-forget"),
    ]
    for name, change, code in cases:
        with pytest.raises(NeedsError) as caught:
            METHODS.get(name)().apply(context(**change))
        assert caught.value.code == code and name in caught.value.cause


# -- the modality-blind methods ----------------------------------------------------------------------------------------
SHORT = BUILD.model_copy(update={"steps": 12, "lr": 5e-3, "warmup": 0.0, "retain_weight": 2.0})


@pytest.mark.parametrize("name", ["grad_ascent", "grad_diff", "kl_min"])
def test_general_methods_forget_a_class(name):
    """Accuracy on the forgotten class falls to 0; methods with a retain term keep the other three."""
    given = context(train=SHORT)
    METHODS.get(name)().apply(given)
    assert accuracy(given.adapter, FORGET) == 0.0
    if name != "grad_ascent":
        assert accuracy(given.adapter, RETAIN) >= 0.9


def test_retain_term_is_what_keeps_the_rest():
    """Without it (grad_ascent) the other classes fall; that is the difference the term makes."""
    alone, held = context(train=SHORT), context(train=SHORT)
    METHODS.get("grad_ascent")().apply(alone)
    METHODS.get("grad_diff")().apply(held)
    assert accuracy(alone.adapter, RETAIN) < accuracy(held.adapter, RETAIN)


@pytest.mark.parametrize("name", ["grad_ascent", "grad_diff", "kl_min"])
def test_zero_steps_leave_the_target_bit_identical(name):
    given = context(train=SHORT.model_copy(update={"steps": 0}))
    METHODS.get(name)().apply(given)
    assert same(given.adapter, _trained(False))


def test_kl_min_starts_at_no_pull():
    """At the target KL(ref || model) is 0 and flat, so the first step is the ascent step alone."""
    given = context(train=SHORT.model_copy(update={"steps": 1}))
    METHODS.get("kl_min")().apply(given)
    alone = context(train=SHORT.model_copy(update={"steps": 1}))
    METHODS.get("grad_ascent")().apply(alone)
    worst = max(float((weights(given.adapter)[k] - v).abs().max()) for k, v in weights(alone.adapter).items())
    assert worst < 1e-4, worst


def test_language_methods_refuse_a_classifier():
    for name in ("simnpo", "idk", "undial"):
        with pytest.raises(NeedsError, match="not on a classifier"):
            METHODS.get(name)().apply(context())
