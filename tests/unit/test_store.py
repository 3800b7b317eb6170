"""The store of an audit: one pass for all metrics, and half a pass in the cache is never mixed with another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from efface.audit.store import PassSettings, Role, Store
from efface.metrics.base import Need
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
