"""The store of an audit: one pass for all metrics, and half a pass in the cache is never mixed with another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.metrics.base import Need, NotComputed, Tables
from efface.metrics.parametric import left_buckets, update_norm, weights_moved
from efface.models.folders import quiet_transformers
from efface.models.open import open_model
from efface.models.tiny import tiny_folder
from efface.passes.cache import Cache
from efface.testing.bench import bench

NEED = [Need("score", "forget", variants=("answer", "wrong")), Need("generate", "forget")]


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


def tables(b, cache: Path, needs: list[Need] = NEED) -> tuple[int, dict]:
    """Number of passes and all tables of an audit of the target."""
    store = Store({"target": Role(lambda: b.model("target"))}, b.data.eval, PassSettings(12), Cache(cache))
    store.plan(needs)
    for need in needs:
        for variant in need.variants:
            store.fetch("target", replace(need, variants=(variant,)))
    return store.passes, dict(store.tables())


@pytest.fixture
def asked(monkeypatch) -> list:
    """What every scoring pass was asked for: candidate answers, and whether it gave the greedy ones too."""
    import efface.passes.score as module

    asked, plain = [], module.score

    def noted(*args, **words):
        asked.append((words["answers"], bool(words["generate"])))
        return plain(*args, **words)

    monkeypatch.setattr(module, "score", noted)
    return asked


def test_a_torn_pass_is_computed_as_a_whole(b, asked, tmp_path: Path) -> None:
    """A second run that finds the first table only of a pass (the first was killed, or is at it) has its very bits."""
    passes, whole = tables(b, tmp_path / "a")
    assert passes == 1 and len(whole) > 3
    for lost in range(len(whole)):
        cache = tmp_path / f"torn{lost}"
        tables(b, cache)
        files = sorted(cache.rglob("*.arrow"))
        assert len(files) == len(whole)
        for i, file in enumerate(files):
            if i != lost:
                file.unlink()
        passes, torn = tables(b, cache)
        assert passes == 1 and torn.keys() == whole.keys()
        assert all(torn[place].equals(whole[place]) for place in whole)
        assert asked == asked[:1] * len(asked)


def test_a_metric_added_later_computes_only_its_own(b, asked, tmp_path: Path) -> None:
    tables(b, tmp_path, NEED[1:])
    tables(b, tmp_path, NEED)
    assert tables(b, tmp_path, NEED)[0] == 0
    assert asked == [(("answer",), True), (("answer", "wrong"), False)]


def test_the_base_model_runs_only_what_is_asked_of_it(b, asked) -> None:
    """The plan for scored models does not hold for the base, whose only job is its log-probs on the answers."""
    roles = {name: Role(lambda: b.model("target")) for name in ("unlearned", "base")}
    store = Store(roles, b.data.eval, PassSettings(12))
    store.plan([*NEED, Need("score", "forget", "base")])
    for role in roles:
        store.fetch(role, Need("score", "forget"))
    assert asked == [(("answer", "wrong"), True), (("answer",), False)]


# -- weights ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_count_once_and_the_head_is_not_rounded(tmp_path: Path, tied: bool) -> None:
    """Every weight doubles: all moved, as far as they were from 0, and every code stays. Then the embeddings alone
    move: their share of the total, whether a head is tied to them or not, and nothing that rounding touches."""
    with quiet_transformers():
        tiny_folder(["a few words"], tmp_path, vocab=300, width=16, layers=1, ff=32, heads=2, tied=tied)
    target = open_model(tmp_path)
    total = sum(p.numel() for p in target.module.parameters())

    def of(other) -> Tables:
        store = Store({"target": Role(lambda: target), "unlearned": Role(lambda: other)}, {}, PassSettings())
        return Tables(lambda asked, need: store.fetch("unlearned", need), "forget")

    double, embedded = target.clone(), target.clone()
    with torch.no_grad():
        for p in double.module.parameters():
            p.mul_(2)
        embedded.module.get_input_embeddings().weight.add_(1)
    found = of(double)
    assert weights_moved(found).n == total and update_norm(found).value == pytest.approx(1.0)
    assert left_buckets(found, 4).value == 0.0
    names = {line["name"] for line in found.weights().to_pylist() if line["buckets_4"] is None}
    assert names >= set(target.head_parameters()) and all("norm" in n or "embed" in n or "head" in n for n in names)
    size = embedded.module.get_input_embeddings().weight.numel()
    assert weights_moved(of(embedded)).value == pytest.approx(size / total)
    with pytest.raises(NotComputed, match="no rounded weight differs"):
        left_buckets(of(embedded), 8)


# -- keys ------------------------------------------------------------------------------------------------------------
def test_the_index_of_other_concept_vectors_is_another_table(b, tmp_path: Path) -> None:
    """Two worlds of one seed that bring different vectors do not share the cached index; the same world does."""

    def columns(*brought: int) -> tuple[int, list[int]]:
        records = [{"concept": "x", "layer": 1, "column": column} for column in brought]
        world = SimpleNamespace(seed=0, concept_vectors=records)
        store = Store(
            {"target": Role(lambda: b.model("target"))}, b.data.eval, PassSettings(), Cache(tmp_path), world=world
        )
        return store.passes, store.fetch("target", Need("concept_index", "forget"))["column"].to_pylist()

    assert [columns(3)[1], columns(5, 6)[1], columns(3)[1]] == [[3], [5, 6], [3]]


# -- continuations -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("planned", [True, False])
def test_a_continuation_is_the_beginning_of_longer_greedy_answers(b, planned: bool, tmp_path: Path) -> None:
    """With answers of 24 tokens planned, the first 8 cost no pass, and are what generating 8 gives. The next audit
    needs no model for them."""

    def short(longest: int, cache: Path) -> tuple[int, list[dict]]:
        roles = {"unlearned": Role(lambda: b.model("target"))}
        store = Store(roles, b.data.eval, PassSettings(longest), Cache(cache))
        store.plan([Need("generate", "forget")] if planned else [])
        if planned:
            store.fetch("unlearned", Need("generate", "forget"))
        before = store.passes
        table = store.fetch("unlearned", Need("continuation", "forget", variants=("8",)))
        return store.passes - before, table.select(["row", "gold", "text", "ids", "finish"]).to_pylist()

    passes, begun = short(24, tmp_path / "long")
    assert passes == (0 if planned else 1)
    assert begun == short(4, tmp_path / "short")[1]
    assert any(line["finish"] == "length" for line in begun)
    assert short(24, tmp_path / "long") == (0, begun)
