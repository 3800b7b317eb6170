"""random_label and SSD: by hand on a few numbers, then on digits with a CNN trained on the spot."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from efface.artifact import Artifact, Edit
from efface.data.benchmarks.digits import Digits
from efface.data.rows import ImageRow
from efface.engine.settings import Select, TrainSettings
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context
from efface.methods.general.grad_diff import GradDiff
from efface.methods.vision.random_label import RandomLabel, wrong_labels
from efface.methods.vision.ssd import SSD, dampen, importances
from efface.models.classifier import Classifier
from efface.models.cnn import ImageConfig, config_for
from efface.progress import SILENT

FORGET = 3
WHOLE = Select(freeze_head=False)


@pytest.fixture(scope="module")
def data():
    return Digits(forget=FORGET, test_share=0.3, holdout_share=0.3).load()


@pytest.fixture(scope="module")
def target(data) -> Classifier:
    """A CNN trained on all 719 training rows, 12 epochs, by a plain loop that shares nothing with the engine."""
    rows = [*data.train["forget"], *data.train["retain"]]
    adapter = Classifier.fresh(config_for(rows), seed=0)
    pixels = torch.from_numpy(np.stack([row.pixels for row in rows])) * 2 - 1
    labels = torch.tensor([row.label for row in rows])
    optimizer = torch.optim.AdamW(adapter.module.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        for part in torch.randperm(len(rows), generator=generator).split(48):
            optimizer.zero_grad()
            F.cross_entropy(adapter.module(pixels[part]), labels[part]).backward()
            optimizer.step()
    adapter.module.zero_grad(set_to_none=True)
    return adapter


def context(target, data, *, forget=None, retain=None, seed=0, **train) -> Context:
    settings = TrainSettings(**{"lr": 1e-3, "batch_size": 32, "select": WHOLE, "warmup": 0.0} | train)
    chosen = data.train["forget"] if forget is None else forget
    return Context(target.clone(), chosen, data.train["retain"] if retain is None else retain, settings, seed=seed)


def accuracy(adapter, rows) -> float:
    batch = adapter.collate([adapter.encode(row) for row in rows], range(len(rows)))
    with adapter.evaluating():
        return float((adapter.forward(batch).logits.argmax(1) == batch.label_id).float().mean())


def weights(adapter) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in adapter.module.parameters()])


# -- random label, by hand ---------------------------------------------------------------
def test_wrong_labels_are_wrong_and_depend_on_seed_and_id_only(data):
    rows = data.train["retain"]
    wrong = [row.label for row in wrong_labels(rows, 10, seed=0)]
    assert all(0 <= w < 10 and w != row.label for w, row in zip(wrong, rows, strict=True))
    shifts = np.bincount([(w - row.label) % 10 for w, row in zip(wrong, rows, strict=True)], minlength=10)[1:]
    assert shifts.min() > 40, "646 rows over 9 shifts: about 72 each, standard deviation 8"
    assert [row.label for row in wrong_labels(rows[::-1], 10, seed=0)] == wrong[::-1]
    assert [row.label for row in wrong_labels(rows, 10, seed=1)] != wrong
    with pytest.raises(NeedsError, match="random_label.one-class"):
        wrong_labels(rows, 1, seed=0)


class Fixed(nn.Module):
    """Logits log(1), log(2), log(5) for every image: probabilities 1/8, 2/8, 5/8."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 3)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(torch.tensor([1.0, 2.0, 5.0]).log())

    def forward(self, x):
        return self.head(x.mean((1, 2, 3))[:, None])


def views(adapter, rows, labels):
    def view(chosen):
        batch = adapter.collate([adapter.encode(row) for row in chosen], range(len(chosen)))
        return View(adapter, batch, "forget", 4, 4)

    main = view(rows)
    main.others = {"wrong": view([replace(row, label=label) for row, label in zip(rows, labels, strict=True)])}
    return main


def test_random_label_losses_by_hand():
    """Rows with true label 2 and wrong labels 0, 1; four rows in the effective batch.
    forget: (-log 1/8 - log 2/8) / 4 = (3 log 2 + 2 log 2) / 4 = 1.25 log 2; retain: 2 * (-log 5/8) / 4."""
    adapter = Classifier(Fixed(), ImageConfig(classes=3, height=2, width=2), ["head"])
    rows = [ImageRow(str(i), np.full((1, 2, 2), i / 2, np.float32), 2) for i in range(2)]
    view = views(adapter, rows, [0, 1])
    loss = RandomLabel().forget_loss(view)
    assert float(loss.detach()) == pytest.approx(1.25 * math.log(2), rel=1e-6)
    assert float(RandomLabel().retain_loss(view).detach()) == pytest.approx(-math.log(5 / 8) / 2, rel=1e-6)
    assert "logp" in view.__dict__, "the loop reads it for the log and for stop_nll"
    loss.backward()
    assert adapter.module.head.bias.grad[2] > 0 > adapter.module.head.bias.grad[0], "pushes away from the true label"


# -- SSD, by hand ---------------------------------------------------------------
def test_dampening_by_hand():
    """alpha 2, lambda 1. F_f = (9, 5, 5, 0), F_D = (3, 3, 2, 0): 9 > 6 and 5 > 4 are selected, 5 < 6 and 0 are not.
    Factors 3/9 and 2/5, so (6, 7, 10, 8) becomes (2, 7, 4, 8)."""
    parameters = {"a": torch.tensor([6.0, 7.0]), "b": torch.tensor([[10.0], [8.0]])}
    forget = {"a": torch.tensor([9.0, 5.0]), "b": torch.tensor([[5.0], [0.0]])}
    whole = {"a": torch.tensor([3.0, 3.0]), "b": torch.tensor([[2.0], [0.0]])}
    report = dampen(parameters, forget, whole, alpha=2.0, dampening=1.0)
    torch.testing.assert_close(parameters, {"a": torch.tensor([2.0, 7.0]), "b": torch.tensor([[4.0], [8.0]])})
    assert (report.selected, report.weights, report.mean_factor) == (2, 4, pytest.approx((1 / 3 + 2 / 5) / 2))


def test_dampening_never_enlarges():
    """lambda 5: 5 * 3/9 = 1.67 is cut to 1; lambda 0 deletes."""
    for dampening, expected in ((5.0, 6.0), (0.0, 0.0)):
        parameters = {"a": torch.tensor([6.0])}
        dampen(parameters, {"a": torch.tensor([9.0])}, {"a": torch.tensor([3.0])}, alpha=2.0, dampening=dampening)
        assert parameters["a"].item() == expected


class Slope(nn.Module):
    """Two parameters: logits (w * x, v) with x the image's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v, self.part = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0)), nn.Linear(1, 1)

    def forward(self, x):
        x = x.mean((1, 2, 3))
        return torch.stack([self.w * x, self.v.expand_as(x)], dim=1)


def test_importances_by_hand():
    """Label 0, p = sigmoid(w x - v), so d(-log p)/dw = -(1-p) x and d/dv = (1-p). Rows x = 1 and x = -1, w = 1, v = 0:
    1-p = 0.26894 and 0.73106. Per row: F_w = F_v = (0.26894^2 + 0.73106^2) / 2 = 0.30339.
    As one batch of two: mean gradients (-0.26894 + 0.73106)/2 = 0.23106 and 0.5, squared 0.053389 and 0.25."""
    adapter = Classifier(Slope(), ImageConfig(classes=2, height=1, width=1), ["part"], head="part")
    rows = [adapter.encode(ImageRow(str(i), np.full((1, 1, 1), x, np.float32), 0)) for i, x in enumerate((1.0, 0.0))]
    adapter.module.v.requires_grad_(False)
    single = importances(adapter, rows, 1, 0, SILENT, None)
    assert (single["w"].item(), single["v"].item()) == pytest.approx((0.303391, 0.303391), abs=1e-5)
    pair = importances(adapter, rows, 2, 0, SILENT, None)
    assert (pair["w"].item(), pair["v"].item()) == pytest.approx((0.053389, 0.25), abs=1e-5)
    assert single["part.weight"].item() == 0, "a parameter that plays no part has no importance"
    assert not adapter.module.v.requires_grad and adapter.module.w.grad is None, "nothing is left behind"


def test_per_row_importances_are_bounded_by_the_share_of_forget_rows(data, target):
    """F_D >= (N_f/N) F_f, so F_f / F_D <= N/N_f: the reason for `ceiling`."""
    forget, retain = (
        [target.encode(row) for row in data.train[role][:n]] for role, n in (("forget", 10), ("retain", 40))
    )
    ours, whole = (importances(target, rows, 1, 0, SILENT, None) for rows in (forget, [*forget, *retain]))
    for name in ours:
        assert bool((ours[name] <= 5 * 1.0001 * whole[name]).all())


def test_alpha_ceiling():
    """10% to forget: N/N_f = 10, half of it is 5. 1%: half of 100 is 50, so the published 10 stands."""
    assert SSD().alpha(100, 1000) == 5 and SSD().alpha(10, 1000) == 10
    assert SSD(ceiling=None).alpha(100, 1000) == 10 and SSD(batch=64).alpha(100, 1000) == 10


# -- on digits ---------------------------------------------------------------
def test_target_knows_the_digits(data, target):
    assert accuracy(target, data.eval["forget"]) > 0.95 and accuracy(target, data.eval["test"]) > 0.9


def test_ssd_forgets_the_class_and_keeps_the_rest(data, target):
    given = context(target, data)
    before = weights(target).clone()
    SSD().apply(given)
    assert (
        accuracy(given.adapter, data.eval["forget"]) < 0.1 and accuracy(given.adapter, data.eval["forget_test"]) < 0.1
    )
    for rows in ("retain", "test"):
        assert accuracy(given.adapter, data.eval[rows]) > accuracy(target, data.eval[rows]) - 0.05
    note = given.notes["ssd"]
    assert 0 < note["selected"] < 0.2 * note["weights"] and note["alpha"] == pytest.approx(0.5 * 719 / 73)
    after = weights(given.adapter)
    assert int((after != before).sum()) <= note["selected"] and bool((after.abs() <= before.abs()).all())
    assert torch.equal(weights(target), before), "the target itself is untouched"


def test_artifact_strengths(data, target, tmp_path):
    """0: the target, bit for bit; 1: what the method left, also through a file; between: weights in between."""
    given = context(target, data, retain=data.train["retain"][:100])
    SSD().apply(given)
    Edit.between(target, given.adapter, "ssd").save(tmp_path)
    edit = Artifact.load(tmp_path)
    assert edit.kind == SSD.artifact and torch.equal(weights(edit.attach(target, 0.0)), weights(target))
    assert torch.equal(weights(edit.attach(target)), weights(given.adapter))
    half = (weights(target) + weights(given.adapter)) / 2
    torch.testing.assert_close(weights(edit.attach(target, 0.5)), half)


def test_ssd_refuses_to_change_nothing(data, target):
    """alpha 1000 is beyond N/N_f = 3, so nothing can be selected."""
    few = context(target, data, forget=data.train["forget"][:10], retain=data.train["retain"][:20])
    with pytest.raises(NeedsError, match="ssd.nothing-selected"):
        SSD(alpha=1000, ceiling=None).apply(few)
    assert torch.equal(weights(few.adapter), weights(target))


def test_ssd_same_seed_same_bits_and_labels_matter(data, target):
    def run(rows, **settings):
        given = context(target, data, forget=rows, retain=data.train["retain"][:40])
        SSD(**settings).apply(given)
        return weights(given.adapter)

    rows = data.train["forget"][:20]
    assert torch.equal(run(rows), run(rows)) and torch.equal(
        run(rows, batch=8, alpha=1.5), run(rows, batch=8, alpha=1.5)
    )
    assert not torch.equal(run(rows), run(wrong_labels(rows, 10, 0))), "the labels matter"


def test_random_label_forgets_the_class_and_keeps_the_rest(data, target):
    events = []
    given = context(target, data, epochs=8)
    given.log = events.append
    RandomLabel().apply(given)
    assert (
        accuracy(given.adapter, data.eval["forget"]) < 0.1 and accuracy(given.adapter, data.eval["forget_test"]) < 0.2
    )
    for rows in ("retain", "test"):
        assert accuracy(given.adapter, data.eval[rows]) > accuracy(target, data.eval[rows]) - 0.05
    steps = [event for event in events if event["event"] == "step"]
    assert steps[-1]["forget_nll"] > steps[0]["forget_nll"] and steps[-1]["forget_loss"] < steps[0]["forget_loss"]


def test_random_label_stops_at_stop_nll(data, target):
    given = context(target, data, epochs=20, stop_nll=1.0)
    RandomLabel().apply(given)
    assert given.notes["training"]["stopped"] and given.notes["training"]["steps"] < 60


def test_random_label_same_seed_same_bits_and_micro_batches_do_not_matter(data, target):
    def run(seed=0, **train):
        given = context(target, data, seed=seed, steps=2, batch_size=8, **train)
        RandomLabel().apply(given)
        return weights(given.adapter)

    assert torch.equal(run(), run()) and not torch.equal(run(), run(seed=1))
    torch.testing.assert_close(run(token_budget=1), run(token_budget=64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", [RandomLabel, SSD])
def test_refusals(method, data, target):
    with pytest.raises(NeedsError, match="method.needs-retain"):
        method().apply(context(target, data, retain=[]))
    other = context(target, data)
    other.adapter = type("Text", (), {"family": "causal_lm"})()
    with pytest.raises(NeedsError, match="method.wrong-family"):
        method().apply(other)


def test_modality_blind_methods_run_on_images(data, target):
    """GradDiff, written for any family: the class to forget loses far more than the others do."""
    given = context(target, data, steps=12, lr=2e-4)
    GradDiff().apply(given)
    lost = {
        rows: accuracy(target, data.eval[rows]) - accuracy(given.adapter, data.eval[rows])
        for rows in ("forget", "retain")
    }
    assert lost["forget"] > lost["retain"] + 0.2
