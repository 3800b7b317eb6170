"""Ruling out the openings of refusals: which tokens, where, and what comes back in a model taught to refuse."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from tests.unit.test_signatures import is_refusal, target

from efface.attacks.base import AttackContext
from efface.attacks.forcing import FirstToken
from efface.attacks.suppress_refusals import SuppressRefusals, openings, without
from efface.audit.attacks import Runner
from efface.audit.roles import PassSettings, Role
from efface.data.rows import Bundle, Row
from efface.methods.base import METHODS, Context
from efface.methods.language.refusals import REFUSALS
from efface.models.contrasted import generic
from efface.models.tampering import StateEdit, Tampering
from efface.passes.generate import GenerateSettings, generate
from efface.spec import resolve
from efface.suites import AttackEntry, Suite
from efface.testing.battery import outputs
from efface.testing.bench import Bench, bench


@pytest.fixture(scope="module")
def b() -> Bench:
    return bench("causal_lm")


@pytest.fixture(scope="module")
def refusing(b: Bench):
    """A target that knows refusals, taught for a few steps to refuse the forget questions."""
    return taught_to_refuse(b, lr=3e-4, steps=15)


def taught_to_refuse(b: Bench, **train: float):
    values = {"model": {"name": "tiny"}, "data": {"benchmark": "people"}, "method": {"name": "idk"}}
    recipe = resolve(("recipe", values)).spec.train.model_copy(update={"batch_size": 16, "retain_weight": 2.0, **train})
    context = Context(target(True), b.data.train["forget"], b.data.train["retain"], recipe)
    METHODS.get("idk")().apply(context)
    return context.adapter


def said(model, rows, key: str = "text") -> list:
    return generate(model, rows, settings=GenerateSettings(max_new_tokens=40))[key].to_pylist()


def right(model, rows) -> float:
    """Share of rows whose gold answer is said word for word."""
    return sum(text == row.answer for text, row in zip(said(model, rows), rows, strict=True)) / len(rows)


def points(b: Bench, model, **settings):
    return list(SuppressRefusals(**settings).points(AttackContext(model, b.data)))


def curves(b: Bench, model, **settings):
    suite = Suite(name="x", metrics={}, attack_metrics=["rouge", "probability"], max_new_tokens=40)
    roles = {"unlearned": Role(lambda: model), "reference": Role(lambda: b.model("reference"))}
    runner = Runner(roles, b.data, suite, PassSettings(40), seed=0, resamples=20, cache=None)
    return runner.run(AttackEntry(name="suppress_refusals", settings=settings)).curves


def scores(curve, place: int) -> list[float]:
    return [point["scores"][place]["value"] for point in curve.points]


# -- which tokens ------------------------------------------------------------------------------------------------------
def test_openings_are_the_distinct_first_tokens_in_order(b: Bench) -> None:
    """By hand: the ids that the three answers begin with, where two begin alike."""
    model = b.model("target")
    i, n = (model.template.answer_ids(model.tokenizer, text)[0] for text in ("I know.", "No."))
    assert openings(model, ["I do not know.", "No idea.", "I cannot."]) == [i, n] and i != n
    assert openings(model, []) == []


def test_an_unlearning_token_stands_for_itself(b: Bench) -> None:
    """Also behind a template that begins answers with a blank, where `[UNL]` would be cut after it."""
    tokenizer = deepcopy(b.model("target").tokenizer)
    tokenizer.add_tokens(["[UNL]"], special_tokens=True)
    template = SimpleNamespace(answer_ids=lambda tokenizer, text: tokenizer(" " + text)["input_ids"])
    model = SimpleNamespace(tokenizer=tokenizer, template=template)
    assert openings(model, ["[UNL]"]) == [tokenizer.convert_tokens_to_ids("[UNL]")]


def test_points_say_how_many_tokens_were_ruled_out(b: Bench) -> None:
    """Also a refusal of the user's own, which comes first."""
    model = b.model("target")
    found = points(b, model)
    counts = [len(openings(model, REFUSALS[:k])) for k in (1, 10, 100)]
    assert [p.supplied["tokens_ruled_out"] for p in found] == counts == [1, 5, 18]
    assert all(p.best and p.scores_as_before and p.decoding == GenerateSettings() for p in found)
    first, *_ = points(b, model, also=("Vexed question.",))
    assert first.adapter.tampering.ruled_out == tuple(openings(model, ["Vexed question."]))
    assert (SuppressRefusals.threat, SuppressRefusals.reads) == ("grey-box", "rouge")


def test_documents_are_not_attacked() -> None:
    data = Bundle("x", "text", train={}, eval={"forget": [Row("a", "A text.")]})
    assert "documents" in SuppressRefusals().check(data)


# -- where -------------------------------------------------------------------------------------------------------------
def test_an_empty_list_changes_nothing(b: Bench, refusing) -> None:
    rows = b.data.eval["forget"]
    (point,) = points(b, refusing, refusals=(0,))
    assert said(point.adapter, rows, "ids") == said(refusing, rows, "ids")
    assert point.supplied["tokens_ruled_out"] == 0
    assert FirstToken(ruled_out=(3,)).digest() != FirstToken().digest() == FirstToken(ruled_out=()).digest()


def test_only_the_first_token_is_ruled_out(b: Bench) -> None:
    """Ruling out a later token of the answer changes nothing; ruling out its first gives the second choice."""
    model, row = b.model("target"), b.data.eval["forget"][0]
    ids = said(model, [row], "ids")[0]
    later = next(token for token in ids if token != ids[0])
    assert said(without(model, [later]), [row], "ids")[0] == ids
    second = said(model.tampered(FirstToken(rank=1)), [row], "ids")[0]
    assert said(without(model, ids[:1]), [row], "ids")[0] == second != ids


def test_ranks_count_among_what_is_left(b: Bench) -> None:
    """Ruling out the first choice and taking the second of the rest gives the third of all."""
    model, row = b.model("target"), b.data.eval["forget"][0]
    first = said(model, [row], "ids")[0][:1]
    third = said(model.tampered(FirstToken(rank=2)), [row], "ids")
    assert said(model.tampered(FirstToken(rank=1, ruled_out=tuple(first))), [row], "ids") == third


def test_given_answers_and_what_lies_around_stay(b: Bench) -> None:
    edit, rows = StateEdit(1, "skip"), b.data.eval["forget"][:3]
    model = b.model("target").tampered(Tampering(edits=(edit,)))
    (point,) = points(b, model, refusals=(100,))
    assert point.adapter.tampering.edits == (edit,) and outputs(point.adapter, rows) == outputs(model, rows)


def test_a_second_model_does_not_let_it_back_in() -> None:
    """Logits set against those of another model (whp_logits) stay ruled out, and are numbers."""
    assert generic(torch.tensor([float("-inf"), 1.0]), torch.tensor([9.0, 2.0]), 3.0).tolist() == [float("-inf"), -2.0]


# -- what comes back ---------------------------------------------------------------------------------------------------
def test_answers_behind_refusals_come_back(b: Bench, refusing) -> None:
    """Greedy answers hide what the target says word for word; without the openings it is said again, all of it with
    the hundred. Nothing that is said then is a refusal."""
    rows = b.data.eval["forget"]
    one, *_, all_ = points(b, refusing)
    assert right(target(True), rows) == 1.0 and right(refusing, rows) < 0.2
    assert right(refusing, rows) < right(one.adapter, rows) < right(all_.adapter, rows)
    assert right(all_.adapter, rows) > 0.9 and not any(map(is_refusal, said(all_.adapter, rows)))


def test_nothing_comes_back_in_the_reference(b: Bench, refusing) -> None:
    """Read as an audit does, best of all tries: the unlearned model rises far above the reference, which stays where it
    was. Probability does not see it."""
    found = curves(b, refusing)
    mine, control = (scores(found[role], 0) for role in ("unlearned", "reference"))
    assert [p["budget"]["refusals"] for p in found["unlearned"].points] == [0, 1, 10, 100]
    assert control == pytest.approx([control[0]] * 4, abs=0.02)
    assert mine == sorted(mine) and mine[0] < control[0] + 0.1 and mine[-1] > control[-1] + 0.3
    assert scores(found["unlearned"], 1) == pytest.approx([scores(found["unlearned"], 1)[0]] * 4)


def test_a_model_taught_to_refuse_for_long_keeps_quiet(b: Bench) -> None:
    """What the Card says: its second choice is no answer either."""
    *_, last = points(b, taught_to_refuse(b, lr=1e-3, steps=60))
    assert right(last.adapter, b.data.eval["forget"]) < 0.2
