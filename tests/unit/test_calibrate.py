"""UWC: the search by hand, mixing bit for bit, and that methods which look incomparable compare at equal retention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from efface.artifact import Artifact, LoRA, Weights
from efface.audit.calibrate import CalibrateSettings, Calibration, calibrate, ranked
from efface.audit.mixing import entity, mixed, search, split
from efface.data.rows import Row
from efface.engine.finetune import fit
from efface.engine.settings import Select, TrainSettings
from efface.guards import LogitBias
from efface.methods.base import METHODS, Context
from efface.passes.cache import Cache, fingerprint
from efface.pipeline import artifact_of
from efface.testing.battery import outputs
from efface.testing.bench import bench

SEEDS = (0, 1, 2)
FREE = Select(freeze_head=False)
GENTLE, OVER = "gentle", "over-trained"
TRAIN = {
    OVER: TrainSettings(lr=1e-3, steps=30, batch_size=16, retain_weight=0.0, select=FREE),
    GENTLE: TrainSettings(lr=5e-4, steps=20, batch_size=16, retain_weight=2.0, select=FREE),
}


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


@cache
def unlearned(copy: str, seed: int) -> Artifact:
    """grad_diff on the tiny bench."""
    b = bench("causal_lm")
    method, before = METHODS.get("grad_diff")(), b.model("target")
    context = Context(before.clone(), b.data.train["forget"], b.data.train["retain"], TRAIN[copy], seed)
    method.apply(context)
    return artifact_of(method, before, context.adapter)


def calibrated(copy: str, seed: int, cache: Path, **settings) -> Calibration:
    b = bench("causal_lm")
    rows = b.data.eval["forget"], b.data.eval["retain"]
    options = {"seed": seed, "resamples": 100, "cache": Cache(cache)}
    return calibrate(b.model("target"), unlearned(copy, seed), *rows, CalibrateSettings(**settings), **options)


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tables")


# -- the search ------------------------------------------------------------------------------------------------------
def counting(passes: Callable[[float], bool]) -> tuple[Callable[[float], bool], list[float]]:
    asked: list[float] = []
    return lambda a: (asked.append(a), passes(a))[1], asked


def test_search_finds_the_edge() -> None:
    """Passing up to .437: grid 1.0 .. .4 (seven looks), then .45, .425, .4375, .43125, .434375 (.003 from the edge)."""
    passes, asked = counting(lambda a: a <= 0.437)
    assert search(passes) == pytest.approx(0.434375) and len(asked) == 12
    assert asked[:7] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])


@pytest.mark.parametrize(
    ("passes", "found"),
    [
        (lambda a: True, 1.0),
        (lambda a: False, 0.0),
        (
            lambda a: a <= 0.02,
            0.01875,
        ),  # below the first grid point: .05, .025, .0125 (passes), .01875 (passes), .021875
        (lambda a: a <= 0.3 or 0.65 <= a <= 0.745, 0.74375),  # retention that comes back: the last passing cell counts
    ],
)
def test_search_at_the_ends_and_without_order(passes, found: float) -> None:
    assert search(passes) == pytest.approx(found)


# -- mixing ----------------------------------------------------------------------------------------------------------
def test_ends_are_the_models_themselves(b) -> None:
    """alpha 0 and 1 bit for bit, for weights and for a low-rank adapter."""
    rows, target = list(b.data.eval["forget"])[:4], b.model("target")
    trained = b.model("target")
    fit(trained, list(b.data.train["retain"])[:16], TRAIN[GENTLE].model_copy(update={"steps": 3}), seed=0)
    low = b.model("target")
    fit(low, list(b.data.train["retain"])[:16], TrainSettings(lr=2e-3, steps=3, select=Select(kind="lora")), seed=0)
    for artifact, after in ((Weights.between(target, trained, "x"), trained), (LoRA.of(low, target, "x"), low)):
        assert outputs(mixed(artifact, target, 0.0), rows) == outputs(target, rows)
        assert outputs(mixed(artifact, target, 1.0), rows) == outputs(after, rows) != outputs(target, rows)
    assert fingerprint(mixed(Weights.between(target, trained, "x"), target, 1.0)) == fingerprint(trained)


def test_tied_embeddings_are_mixed_once(b) -> None:
    """alpha .25 of every tensor, the embedding (which is the head too) included; mixed twice it would be .4375."""
    target, artifact = b.model("target"), unlearned(OVER, 0)
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(artifact.tensors)
    after, half = artifact.attach(target), mixed(artifact, target, 0.25)
    for t, u, m in zip(*(a.module.parameters() for a in (target, after, half)), strict=True):
        assert torch.allclose(m, t + 0.25 * (u - t), atol=1e-7)


def test_of_an_adapter_the_delta_is_scaled(b) -> None:
    target, low = b.model("target"), b.model("target")
    fit(low, list(b.data.train["retain"])[:16], TrainSettings(lr=2e-3, steps=3, select=Select(kind="lora")), seed=0)
    artifact = LoRA.of(low, target, "x")
    state = dict(mixed(artifact, target, 0.25).module.named_parameters())
    moved = [n for n in artifact.tensors if ".lora_B." in n]
    assert moved and all(torch.equal(state[n], artifact.tensors[n] * 0.25) for n in moved)


def test_split_shares_no_entity() -> None:
    rows = [Row(f"{e}{k}", "x", "q", entity=e) for e in "abcdefg" for k in range(4)] + [Row("alone", "x", "q")]
    first, second = split(rows, 3, 100)
    assert {entity(r) for r in first} | {entity(r) for r in second} == {*"abcdefg", "alone"}
    assert not {entity(r) for r in first} & {entity(r) for r in second} and len(first) + len(second) == len(rows)
    assert split(rows, 3, 100) == (first, second) != split(rows, 4, 100)
    capped = split(rows, 3, 5)
    assert [len(half) for half in capped] == [5, 5] and set(capped[0]) < set(first)
    assert len({entity(r) for r in capped[0]}) > 2, "evenly spread, not the first five"


# -- calibration -----------------------------------------------------------------------------------------------------
def test_alpha_is_the_last_that_keeps_enough(tables: Path) -> None:
    """alpha* keeps tau on the split that decides, the next one looked at does not; the report is on the other split."""
    found = calibrated(OVER, 0, tables)
    points = dict(found.points)
    assert points[found.alpha] >= 0.95 * points[0.0] > points[min(a for a in points if a > found.alpha)]
    assert 0 < found.alpha < 1 and not found.fails and found.splits["report"]["entities"] == 3
    assert found.value("retain", "target") == 1.0 and found.value("retain", "unlearned") < 0.05
    assert found.value("retain") > 0.85
    ends = [found.value("forget", m) for m in ("target", "mixed", "unlearned")]
    assert ends == sorted(ends, reverse=True) and ends[0] > 0.6
    assert found.scores["forget"]["mixed"]["low"] <= found.value() <= found.scores["forget"]["mixed"]["high"]


def test_the_similar_reading_is_reported_at_alpha_only(tables: Path) -> None:
    """Three readings of forget ES; the one that generates is taken once, and is never below the exact one. Files from
    before it have none."""
    found = calibrated(OVER, 0, tables)
    assert list(found.scores) == ["forget", "forget_reworded", "retain", "forget_similar"]
    assert list(found.scores["forget_similar"]) == ["mixed"] and found.value() <= found.value("forget_similar") <= 1
    assert found.value("forget_similar", "target") is None
    older = replace(found, scores={name: s for name, s in found.scores.items() if name != "forget_similar"})
    assert older.value("forget_similar") is None and older.value() == found.value()


def test_strictness_orders_alpha(tables: Path) -> None:
    """The more must be kept, the less of the unlearned model may be mixed in; the order of methods stays."""
    rows = [(calibrated(OVER, 0, tables, tau=t), calibrated(GENTLE, 0, tables, tau=t)) for t in (0.9, 0.95, 0.99)]
    assert rows[0][0].alpha >= rows[1][0].alpha >= rows[2][0].alpha > 0
    assert [ranked(c.value() for c in pair) for pair in rows] == [[2, 1]] * 3 and [r[0].tau for r in rows] == [
        0.9,
        0.95,
        0.99,
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_fairness(seed: int, tables: Path) -> None:
    """One method, over-trained and gentle. Without control the over-trained copy, which kept nothing, wins; at equal
    retention the gentle one does."""
    over, gentle = calibrated(OVER, seed, tables), calibrated(GENTLE, seed, tables)
    assert over.value("retain", "unlearned") < 0.05 and gentle.value("retain", "unlearned") > 0.95
    assert ranked(c.value("forget", "unlearned") for c in (over, gentle)) == [1, 2]
    assert ranked(c.value() for c in (over, gentle)) == [2, 1] and gentle.value() < over.value() - 0.1


def test_retention_falls_along_the_way(b, tables: Path) -> None:
    """Retain and forget ES over 11 points: falling but for small rises, from the target's to the unlearned model's."""
    from efface.audit.calibrate import _Models

    models = _Models(b.model("target"), unlearned(OVER, 0), {"calibrate": b.data.eval["retain"]}, 4096, None, 0, 100)
    forget = _Models(b.model("target"), unlearned(OVER, 0), {"calibrate": b.data.eval["forget"]}, 4096, None, 0, 100)
    for values in ([m.mean(k / 10) for k in range(11)] for m in (models, forget)):
        rises = [max(0.0, b - a) for a, b in zip(values, values[1:], strict=False)]
        assert values[0] == 1.0 and values[-1] < 0.05 and max(rises) < 0.1 and sum(rises) < 0.15


def test_tables_are_cached(tables: Path, monkeypatch) -> None:
    """A second calibration scores nothing; another tau scores only what the first did not."""
    import efface.passes.score as passes

    first, calls = calibrated(OVER, 1, tables), []
    real = passes.score
    monkeypatch.setattr(passes, "score", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    assert calibrated(OVER, 1, tables) == first and not calls
    calibrated(OVER, 1, tables, tau=0.9)
    assert 0 < len(calls) < 12


def test_nothing_passes(b) -> None:
    """A direction that breaks the model at once: alpha* is 0, said, and the forget ES is the target's."""
    target = b.model("target")
    noise = torch.Generator().manual_seed(0)
    tensors = {
        n: p + 1e4 * torch.randn(p.shape, generator=noise)
        for n, p in target.module.state_dict().items()
        if "proj" in n and p.is_floating_point()
    }
    found = calibrate(
        target, Weights(fingerprint(target), "x", tensors), b.data.eval["forget"], b.data.eval["retain"], resamples=100
    )
    assert found.alpha == 0.0 and found.fails and not found.reason
    assert found.value() == found.value("forget", "target") == 1.0 and found.tau == 0.95


def test_not_computed_because(b) -> None:
    target, forget, retain = b.model("target"), b.data.eval["forget"], b.data.eval["retain"]
    bias = LogitBias(fingerprint(target), "x", {"bias": torch.zeros(len(target.tokenizer))})
    assert "no weights to mix" in calibrate(target, bias, forget, retain).reason
    one = [r for r in retain if r.entity == retain[0].entity]
    assert "fewer than two entities" in calibrate(target, unlearned(OVER, 0), forget, one).reason
    knows_nothing = b.model("base")
    empty = Weights(fingerprint(knows_nothing), "x", {})
    found = calibrate(knows_nothing, empty, forget, retain, resamples=100)
    assert "retain ES of 0" in found.reason and found.alpha is None and found.value() is None
    assert ranked([0.5, None, 0.2, 0.5]) == [2, None, 1, 2]
