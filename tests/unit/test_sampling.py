"""Attacks on decoding: best of n samples, forced phrases, forced first tokens; the same tries for the control."""

from __future__ import annotations

import pytest
import torch

from efface.attacks.base import AttackContext
from efface.attacks.forcing import STARTS, FirstToken, FirstTokenForcing, PrefixForcing, at_the_start
from efface.attacks.sampling import Sampling
from efface.audit.attacks import Runner
from efface.audit.roles import PassSettings, Role
from efface.data.rows import Bundle, Row
from efface.errors import NeedsError
from efface.models.tampering import StateEdit, Tampering
from efface.passes.generate import GenerateSettings, generate
from efface.suites import AttackEntry, Suite
from efface.testing.battery import outputs
from efface.testing.bench import bench


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


def curves(b, name: str, **settings):
    """The attack on the reference as the model under audit, with the target as its control."""
    suite = Suite(name="x", metrics={}, attack_metrics=["rouge", "probability"], max_new_tokens=12)
    roles = {
        name: Role(lambda m=m: m) for name, m in (("unlearned", b.model("reference")), ("reference", b.model("target")))
    }
    runner = Runner(roles, b.data, suite, PassSettings(12), seed=0, resamples=20, cache=None)
    return runner.run(AttackEntry(name=name, settings=settings)).curves


def rouge(curve) -> list[float]:
    return [p["scores"][0]["value"] for p in curve.points]


# -- sampling
# -----------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sampled(b):
    return curves(b, "sampling", samples=4)


def test_best_of_n_rises_row_by_row(sampled) -> None:
    """No row falls from one sample to the next, point 0 (greedy) included, and some rise."""
    for curve in sampled.values():
        rows = [p["scores"][0]["per_row"] for p in curve.points]
        for before, now in zip(rows, rows[1:], strict=False):
            assert all(now[r] >= before[r] for r in before)
    found = rouge(sampled["unlearned"])
    assert found[-1] > found[0]


def test_the_control_draws_as_often(sampled) -> None:
    budgets = {role: [p["budget"]["samples"] for p in curve.points] for role, curve in sampled.items()}
    assert budgets["unlearned"] == budgets["reference"] == [0, 1, 4]


def test_log_probs_do_not_change_with_samples(sampled) -> None:
    """What the Card says: probability does not see this attack."""
    values = [p["scores"][1]["value"] for p in sampled["unlearned"].points]
    assert values == pytest.approx([values[0]] * 3)


def test_each_sample_has_its_own_seed_and_the_same_one_again(b) -> None:
    model, rows = b.model("reference"), b.data.eval["forget"][:6]

    def texts() -> list[list[str]]:
        points = list(Sampling(samples=2).points(AttackContext(model, b.data, seed=3)))
        assert all(p.best and p.decoding.temperature == 1.0 for p in points)
        short = [p.decoding.model_copy(update={"max_new_tokens": 8}) for p in points]
        return [generate(model, rows, settings=s)["text"].to_pylist() for s in short]

    one, again = texts(), texts()
    assert one == again and one[0] != one[1]


# -- first tokens
# -----------------------------------------------------------------------------------------------------------------
def first_tokens(model, rows) -> list[list[int]]:
    """Ids of the model's first answer token, likeliest first, from a forward of the bare question."""
    found = []
    for row in rows:
        ids = model.template.prompt_ids(model.tokenizer, row.prompt)
        with torch.no_grad():
            logits = model.module(torch.tensor([ids])).logits[0, -1].float()
        bias = 0 if model.logit_bias is None else model.logit_bias
        found.append((logits + bias).argsort(descending=True).tolist())
    return found


@pytest.mark.parametrize("biased", [False, True])
def test_the_first_token_is_the_models_nth_choice(b, biased: bool) -> None:
    """Against a plain forward; a logit bias counts, as the attacker sees the model's answers, not its head."""
    model, rows = b.model("target"), b.data.eval["forget"][:5]
    if biased:
        ids = [order[0] for order in first_tokens(model, rows)]
        model.logit_bias = torch.zeros(model.hf.config.vocab_size)
        model.logit_bias[ids] = -30.0
    expected = first_tokens(model, rows)
    for rank in (0, 1, 3):
        table = generate(model.tampered(FirstToken(rank=rank)), rows, settings=GenerateSettings(max_new_tokens=6))
        said = [ids[0] if ids else None for ids in table["ids"].to_pylist()]
        wanted = [None if order[rank] in model.stops else order[rank] for order in expected]
        assert said == wanted


def test_after_the_first_token_decoding_is_as_usual(b) -> None:
    """What follows equals greedy decoding from the question and that token, step by step."""
    model, row = b.model("target"), b.data.eval["forget"][0]
    said = generate(model.tampered(FirstToken(rank=2)), [row], settings=GenerateSettings(max_new_tokens=6))["ids"][
        0
    ].as_py()
    ids = [*model.template.prompt_ids(model.tokenizer, row.prompt), said[0]]
    for token in said[1:]:
        with torch.no_grad():
            best = int(model.module(torch.tensor([ids])).logits[0, -1].argmax())
        assert token == best
        ids.append(best)


def test_scores_of_given_answers_do_not_change(b) -> None:
    model, rows = b.model("target"), b.data.eval["forget"][:3]
    assert outputs(model.tampered(FirstToken(rank=3)), rows) == outputs(model, rows)
    assert FirstToken(rank=1).digest() != FirstToken(rank=2).digest()


def test_forcing_ends_with_the_question() -> None:
    """Row 0: the question ends at 2 and only padding (0) follows; row 1: a token was said."""
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 9, 8]])
    assert at_the_start(ids, torch.tensor([2, 1]), pad=0).tolist() == [True, False]


def test_first_choices_are_tried_in_turn(b) -> None:
    found = curves(b, "first_token", choices=4)
    assert [p["budget"]["first_tokens"] for p in found["unlearned"].points] == [0, 1, 2, 3]
    values = rouge(found["unlearned"])
    assert values == sorted(values) and values[-1] > values[0]
    assert FirstTokenForcing.threat == "grey-box"


# -- phrases
# -----------------------------------------------------------------------------------------------------------------
def points(b, model=None, **settings):
    adapter = b.model("target") if model is None else model
    return list(PrefixForcing(**settings).points(AttackContext(adapter, b.data)))


def test_phrases_begin_the_answer_and_restate_the_question(b) -> None:
    """The ids before the answer are those of the question, then of the phrase with the row's own question in it."""
    row = b.data.eval["forget"][1]
    point, *_ = points(b, starts=("You ask: {question} It is",), lead_in=False)
    model = point.adapter
    prompt = model.encode(row).payload.prompt
    text = model.tokenizer.decode(prompt)
    assert text.endswith(f"You ask: {row.prompt} It is") and point.best and point.supplied["start_words"] > 4


def test_the_lead_in_stops_before_the_object(b) -> None:
    """`X was born in` is forced, `Y.` is scored; the object itself is nowhere in what is forced."""
    *_, point = points(b)
    row = next(r for r in b.data.eval["forget"] if r.fact.endswith("born_in"))
    wanted = next(f.object for f in b.data.world.facts if f.id == row.fact)
    forced = point.adapter.tampering.forced_of(row.id)
    (cut,) = point.rows("forget", [row])
    assert forced == f"{row.entity} was born in" and cut.answer == f"{wanted}." and cut.id == row.id
    for other in b.data.eval["forget"]:
        assert f.object not in point.adapter.tampering.forced_of(other.id) if (f := _fact(b, other)) else True


def _fact(b, row):
    return next((f for f in b.data.world.facts if f.id == row.fact), None)


def test_what_lies_around_the_model_stays(b) -> None:
    edit = StateEdit(1, "skip")
    model = b.model("target").tampered(Tampering(edits=(edit,)))
    for point in (
        *points(b, model, starts=("Yes:",)),
        *FirstTokenForcing(choices=2).points(AttackContext(model, b.data)),
    ):
        assert point.adapter.tampering.edits == (edit,)


def test_a_phrase_gets_past_a_refusal_that_sits_in_the_first_token(b) -> None:
    """Planted: a bias against the first token of every forget answer, which the lead-in replaces. The forced point is
    back at the target's own level for what it scores; the plain question is not."""
    model, rows = b.model("target"), b.data.eval["forget"]
    ids = {model.template.answer_ids(model.tokenizer, r.answer)[0] for r in rows}
    *_, open_ = points(b)
    model.logit_bias = torch.zeros(model.hf.config.vocab_size)
    model.logit_bias[list(ids)] = -30.0
    *_, point = points(b, model)
    cut = point.rows("forget", rows)
    plain = [min(lp) for lp in outputs(model, rows)]
    forced = [sum(lp) / len(lp) for lp in outputs(point.adapter, cut)]
    target = [sum(lp) / len(lp) for lp in outputs(open_.adapter, cut)]
    near = [abs(f - t) < 0.1 for f, t in zip(forced, target, strict=True)]
    assert max(plain) < -10 and sum(near) > 0.7 * len(near)


def told(b, start: str, rows=None) -> str:
    """What the attack says to a start that it must refuse."""
    data = b.data if rows is None else Bundle("x", "text", train={}, eval={"forget": rows})
    with pytest.raises(NeedsError) as caught:
        list(PrefixForcing(starts=("Yes:", start)).points(AttackContext(b.model("target"), data)))
    assert caught.value.code == "attack.test-answers" and start[-12:] in caught.value.cause and caught.value.fix
    return caught.value.cause


def test_a_phrase_that_tells_an_answer_is_refused(b) -> None:
    """The whole answer of one row, or its object alone, whatever the case; nothing is attacked before."""
    row = next(r for r in b.data.eval["forget"] if r.fact.endswith("born_in"))
    wanted = _fact(b, row).object
    assert row.id in told(b, f"Sure. {row.answer} As I said:")
    told(b, f"it was in {wanted.upper()}, so:")
    told(b, "{question} In " + wanted + "!")


def test_rows_without_a_world_are_checked_by_names_and_words(b) -> None:
    """Of an answer without a world: a name or number that the question lacks, or all its telling words; a part of them,
    or a name that the question holds, tells nothing."""
    rows = [
        Row("a", "Ada Bell was born in Port Ruvo.", "Where was Ada Bell born?", entity="Ada Bell"),
        Row("b", "She likes red wool.", "What does Ada Bell like?", entity="Ada Bell"),
    ]
    told(b, "They say Port Ruvo, so:", rows)
    told(b, "It is wool, likes and red:", rows)
    data = Bundle("x", "text", train={}, eval={"forget": rows})
    fine = ("It is red:", "Ada Bell, you say? {question}", *STARTS)
    assert len(list(PrefixForcing(starts=fine).points(AttackContext(b.model("target"), data)))) == len(fine)


def test_the_built_in_phrases_and_the_lead_in_stay_allowed(b) -> None:
    """One restates the question, and the lead-in is made of the answer's own words before its object."""
    found = points(b)
    assert [p.budget["starts"] for p in found] == [1, 2, 3, 4, 5] and found[-1].rows is not None
