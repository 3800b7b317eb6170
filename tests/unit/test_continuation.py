"""The continuation pass: its own length whatever the suite says, a forced start, gold cut alike, unscorable rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Row
from efface.metrics.base import METRICS, Need, Tables, compute
from efface.models.tampering import Tampering
from efface.passes.continuation import continuation, cut
from efface.passes.generate import GenerateSettings, generate
from efface.passes.registry import PassInput
from efface.testing.bench import bench


@pytest.fixture(scope="module", autouse=True)
def _module_cache(shared_cache):
    """Fixtures of this module use the tests' cache too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFACE_CACHE", str(shared_cache))
        yield


@pytest.fixture(scope="module")
def lm():
    return bench().model("target")


def made(adapter, rows, *variants):
    need = Need("continuation", "forget", variants=variants)
    return continuation(PassInput(adapter, rows, need, lambda role: adapter, lambda role, need: None))


def test_the_length_is_the_protocols(lm):
    """Six tokens of it are the first six of a long greedy answer, and the gold text is cut to six as well."""
    rows = bench().data.eval["retain"][:4]
    short = made(lm, rows, "6")
    whole = generate(lm, rows, settings=GenerateSettings(max_new_tokens=40))
    assert [ids[:6] for ids in whole["ids"].to_pylist()] == short["ids"].to_pylist()
    assert short["finish"].to_pylist() == ["length"] * 4
    for row, gold in zip(rows, short["gold"].to_pylist(), strict=True):
        assert gold == cut(lm, row.answer, 6) and row.answer.startswith(gold) and len(gold) < len(row.answer)


def test_a_forced_start_is_not_said_and_changes_what_is(lm):
    """The text after "Q was born in" is the end of the trained answer."""
    row = next(r for r in bench().data.eval["retain"] if " was born in " in r.answer and "year" not in r.answer)
    start, _, end = row.answer.partition(" was born in ")
    table = made(lm, [row], "20", f"{start} was born in")
    assert table["text"].to_pylist() == [end]
    assert made(lm, [row], "20")["text"].to_pylist() == [row.answer]


def test_what_an_attacker_forces_comes_instead(lm):
    row = next(r for r in bench().data.eval["retain"] if " was born in " in r.answer and "year" not in r.answer)
    start, _, end = row.answer.partition(" was born in ")
    attacked = lm.tampered(Tampering(forced=f"{start} was born in"))
    assert made(attacked, [row], "20", "Answer:")["text"].to_pylist() == [end]


def test_rows_that_cannot_be_scored_are_kept_and_counted(lm):
    """Four rows: good, longer than the context, without an answer, without a question."""
    good = bench().data.eval["retain"][0]
    rows = [
        good,
        replace(good, id="long", answer=" ".join([good.answer] * 400)),
        Row("empty", "", good.prompt),
        Row("document", good.answer),
    ]
    store = Store({"unlearned": Role(lambda: lm)}, {"forget": rows}, PassSettings())
    tables = Tables(lambda role, need: store.fetch("unlearned" if role == "subject" else role, need), "forget")
    scored = compute(METRICS.get("probability"), tables, "forget", resamples=100)
    assert (scored.n, scored.unscored) == (2, 2)  # good and the document
    assert set(scored.per_row) == {r.id for r in rows}
    told = store.fetch("unlearned", Need("score", "forget"))["problem"].to_pylist()
    assert "longer than the context" in told[1] and told[2] == "empty answer"
    said = compute(METRICS.get("muse_knowmem"), tables, "forget", resamples=100)
    unscored = {row for row, value in said.per_row.items() if value != value}
    assert said.n == 2 and unscored == {"empty", "document"}  # nothing to compare with, nothing to ask
