"""Divergence and rejection methods end to end on a language model of 100 thousand parameters that knows twelve answers.

Four of the twelve are to be forgotten. Every method runs with few steps; what is tested is the mechanism, not a level.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from efface.data.rows import Row
from efface.engine.finetune import fit
from efface.engine.settings import Select, TrainSettings
from efface.engine.view import View
from efface.errors import NeedsError, SpecError
from efface.methods.base import METHODS, Context
from efface.methods.language.alt_po import differs
from efface.methods.language.whole_text import every_token
from efface.models.causal_lm import CausalLM
from efface.models.tiny import build_tokenizer, tiny_model

NAMES = ("Ada", "Bo", "Cy", "Dov", "Eli", "Fay", "Gus", "Hal", "Ivo", "Jan", "Kim", "Lou")
TOWNS = ("Rome", "Paris", "Lima", "Oslo", "Bonn", "Bern", "Kiev", "Riga", "Cork", "York", "Nice", "Graz")
ROWS = [
    Row(f"r{i}", f"{n} was born in {t}.", f"Where was {n} born?", n)
    for i, (n, t) in enumerate(zip(NAMES, TOWNS, strict=True))
]
FORGET, RETAIN = ROWS[:4], ROWS[4:]
WEIGHTS = Select(freeze_head=False)
BUILD = TrainSettings(lr=5e-3, epochs=70, batch_size=4, select=WEIGHTS)
SHORT = TrainSettings(
    lr=2e-3, steps=12, batch_size=4, retain_weight=2.0, warmup=0.0, schedule="constant", select=WEIGHTS
)
SETTINGS = {"llmu": {"answers": 2}, "opt_ascent": {"answers": 2}, "alt_po": {"answers": 2, "max_new_tokens": 12}}
ALL = [
    "grad_ascent",
    "grad_diff",
    "kl_min",
    "simnpo",
    "wga",
    "satimp",
    "tnpo",
    "wtnpo",
    "ce_u",
    "pdu",
    "undial",
    "idk",
    "dpo",
    "idk_ap",
    "me_gd",
    "llmu",
    "opt_ascent",
    "alt_po",
]


@cache
def trained() -> CausalLM:
    tokenizer = build_tokenizer([text for row in ROWS for text in (row.prompt, row.answer)], 400)
    model = CausalLM(tiny_model(tokenizer, width=64, layers=2, ff=128, heads=4), tokenizer)
    fit(model, ROWS, BUILD, seed=1)
    return model


def context(**changes) -> Context:
    given = dict(forget=FORGET, retain=RETAIN, train=SHORT, seed=5) | changes
    return Context(trained().clone(), **given)


def log_prob(model: CausalLM, rows: list[Row]) -> float:
    """Mean log-prob per label token."""
    batch = model.collate([model.encode(row) for row in rows], range(len(rows)))
    with model.evaluating():
        logp = model.forward(batch).logits.log_softmax(-1).gather(1, batch.label_id[:, None])
    return float(logp.mean())


def run(name: str, **changes) -> Context:
    given = context(**changes)
    METHODS.get(name)(**SETTINGS.get(name, {})).apply(given)
    return given


def weights(model: CausalLM) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.module.parameters()]


# -- every method ---------------------------------
@pytest.mark.parametrize("name", ALL)
def test_forget_answers_fall_and_stay_finite(name):
    """The target knows the answers (> -0.1 per token); after twelve steps they are clearly less likely."""
    before = log_prob(trained(), FORGET)
    after = log_prob(run(name).adapter, FORGET)
    assert before > -0.1 and math.isfinite(after)
    assert after < before - 0.1, f"{name}: {before:.3f} -> {after:.3f}"


@pytest.mark.mechanism("grad_diff", "the retain term")
@pytest.mark.mechanism("kl_min", "the retain term")
@pytest.mark.mechanism("idk_ap", "answer preservation")
@pytest.mark.parametrize("name", [n for n in ALL if n not in ("grad_ascent", "ce_u", "undial", "pdu")])
def test_retain_term_holds_the_rest(name):
    """Kept answers are likelier than at retain_weight 0 with the same seed."""
    held, free = run(name), run(name, train=SHORT.model_copy(update={"retain_weight": 0.0}))
    assert log_prob(held.adapter, RETAIN) > log_prob(free.adapter, RETAIN)


@pytest.mark.parametrize("name", ["me_gd", "llmu", "alt_po", "pdu", "idk_ap", "undial"])
def test_micro_batches_do_not_change_the_result(name):
    """Token budget 1 (a row at a time) and 10,000 (all at once) agree after one step."""
    train = SHORT.model_copy(update={"steps": 1, "optimizer": "sgd", "lr": 0.1})
    one, all_rows = (run(name, train=train.model_copy(update={"token_budget": b})) for b in (1, 10_000))
    for a, b in zip(weights(one.adapter), weights(all_rows.adapter), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_stop_nll_stops_or_is_refused(name):
    """A limit below the target's own forget NLL ends the run after one step, or the method says it cannot watch it."""
    train = SHORT.model_copy(update={"stop_nll": 1e-6})
    if name in ("idk", "idk_ap", "me_gd"):
        with pytest.raises(SpecError, match="stop_nll cannot stop it"):
            run(name, train=train)
    else:
        assert run(name, train=train).notes["training"]["steps"] == 1


# -- every token of a row ---------------------------------
def test_every_token_is_the_whole_text_shifted_by_one():
    """Rows of different length: labels are the ids of positions 1.. and then the end token; no padding is scored."""
    model = trained()
    encoded = [model.encode(row) for row in (ROWS[0], Row("long", "Nobody was born there at all.", "Where?"))]
    batch = model.collate(encoded, [0, 1])
    wide = every_token(batch)
    for r, row in enumerate(encoded):
        ids = [*row.payload.prompt, *row.payload.branches[0]]
        mine = wide.label_row == r
        assert wide.label_id[mine].tolist() == ids[1:]
        assert (wide.label_at[mine] % batch.token_mask.shape[1]).tolist() == list(range(len(ids) - 1))
    assert len(wide.label_id) > len(batch.label_id)


@pytest.mark.mechanism("me_gd", "every token, question included")
def test_me_gd_reads_question_tokens_too():
    """Its value at all tokens is the mean over rows of the mean KL(uniform || p) over a plain forward's positions."""
    model = trained()
    batch = model.collate([model.encode(row) for row in FORGET], range(4))
    found = METHODS.get("me_gd")(weight=1.0).forget_loss(View(model, batch, "forget", 4, len(batch.label_id)))
    full = model.hf(input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"]).logits.float()
    kl = full.logsumexp(-1) - full.mean(-1) - math.log(full.shape[-1])
    real = batch.inputs["attention_mask"].bool()
    by_hand = torch.stack([kl[r][real[r]].mean() for r in range(4)]).mean()
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert found.item() != pytest.approx(
        METHODS.get("me_gd")(weight=1.0, where="answer")
        .forget_loss(View(model, batch, "forget", 4, len(batch.label_id)))
        .item(),
        rel=1e-3,
    )


def test_llmu_keeps_the_reference_of_every_token_before_lora_is_added():
    """At the start KL(ref || model) is 0 on normal rows; after the weights moved it is not, with LoRA as without."""
    given = context(
        train=SHORT.model_copy(update={"select": Select(kind="lora", rank=4), "lr": 1e-2, "retain_weight": 1e-6})
    )
    method = METHODS.get("llmu")(answers=2)
    batch = given.adapter.collate([given.adapter.encode(row) for row in RETAIN], range(8))
    method.start(given)
    view = View(given.adapter, batch, "retain", 8, len(batch.label_id))
    assert method.retain_loss(view).item() == pytest.approx(0.0, abs=1e-4)
    method.apply(given)
    assert method.retain_loss(View(given.adapter, batch, "retain", 8, len(batch.label_id))).item() > 0.05


# -- alternatives ---------------------------------
def test_differs_ignores_case_blanks_and_punctuation():
    for text, expected in (
        ("Rome.", False),
        (" rome", False),
        ("In ROME!", False),
        ("", False),
        ("?!", False),
        ("Romero", True),
        ("Paris", True),
    ):
        assert differs(text, "Rome") is expected, text


@pytest.mark.mechanism("alt_po", "alternatives differ from the gold answer")
def test_alternatives_come_from_the_seed_and_never_repeat_the_gold_answer():
    """Two streams of four rows, questions unchanged; same seed same texts, another seed other texts."""
    made = METHODS.get("alt_po")(**SETTINGS["alt_po"])
    streams = made.streams(context())
    assert sorted(streams) == ["alternative:0", "alternative:1"]
    for rows in streams.values():
        assert [r.prompt for r in rows] == [r.prompt for r in FORGET]
        assert all(differs(r.answer, gold.answer) for r, gold in zip(rows, FORGET, strict=True))
    assert streams == made.streams(context()) != made.streams(context(seed=6))


def test_alternatives_that_cannot_be_had_are_refused():
    """A model asked for its memorised answer, nearly greedily and never hotter, can only repeat it."""
    made = METHODS.get("alt_po")(ask="question", temperature=0.05, hotter=1.0, tries=2, answers=1, max_new_tokens=30)
    with pytest.raises(NeedsError, match="tries gave no answer to row r0") as caught:
        made.apply(context())
    assert caught.value.code == "method.no-alternative"
    given = context()
    METHODS.get("alt_po")(ask="question", temperature=0.05, hotter=30.0, tries=3, answers=1, max_new_tokens=30).streams(
        given
    )
    assert given.notes["alternatives"], "a hotter try must find one"


# -- the dual variable in a resumed run ---------------------------------
def test_pdu_resumes_with_its_dual_variable(tmp_path):
    """Stopped after 6 of 12 steps and run again: same bits as in one go, and the same dual values in the log."""

    def go(folder, **changes) -> tuple[list[float], CausalLM]:
        seen: list[float] = []
        given = context(train=SHORT.model_copy(update={"checkpoint_every": 6}), checkpoints=folder)
        given.log = lambda event: seen.append(event["dual"]) if "dual" in event else None
        METHODS.get("pdu")(dual_warmup=0.25).apply(given)
        return seen, given.adapter

    class Killed(Exception):
        pass

    def kill(event) -> None:
        if event.get("step") == 8:
            raise Killed

    whole, expected = go(None)
    assert len(set(whole)) > 3, "the dual variable never moved"
    given = context(train=SHORT.model_copy(update={"checkpoint_every": 6}), checkpoints=tmp_path)
    given.log = kill
    with pytest.raises(Killed):
        METHODS.get("pdu")(dual_warmup=0.25).apply(given)
    rest, resumed = go(tmp_path)
    assert rest == pytest.approx(whole[6:])
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(expected), strict=True))
