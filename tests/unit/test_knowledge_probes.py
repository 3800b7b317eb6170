"""Pinpointing, logit lens and attribute probe: formulas by hand, passes against an independent computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from scipy import stats

from efface.data.rows import Row
from efface.data.worlds.objects import lead_in, objects
from efface.metrics.attribute_probe import attribute_probe
from efface.metrics.base import Need, NotComputed, Tables
from efface.metrics.lens import lens_rank, middle
from efface.metrics.pinpoint import answer_frequency, pinpoint_auc, pinpoint_top
from efface.metrics.resampling import draw
from efface.metrics.stats import auc, auc_interval
from efface.models.tampering import StateEdit, Tampering
from efface.passes.attribute_states import ATTRIBUTES, attribute_states, numbered
from efface.passes.lens import LENS, TAPS, lens
from efface.passes.prompt_states import prompt_states
from efface.passes.registry import PassInput
from efface.passes.sampled_words import SAMPLED_WORDS, candidates, keywords, sampled_words
from efface.passes.score import score
from efface.testing.battery import outputs
from efface.testing.bench import Bench, bench


@pytest.fixture(scope="module")
def lm() -> Bench:
    return bench("causal_lm")


def given(lm: Bench, need: Need, rows="forget", role="target", world=True) -> PassInput:
    return PassInput(
        lm.model(role),
        lm.data.eval[rows],
        need,
        lambda r: lm.model(r),
        lambda r, n: None,
        world=lm.data.world if world else None,
    )


def one_table(table: pa.Table) -> Tables:
    return Tables(lambda role, need: table, "forget")


# -- pinpointing -------------------------------------------------------------------------------------------------------
ROW = Row(
    "a",
    "Ann was born in Red Falls.",
    "Where was Ann born?",
    "Ann",
    answer_paraphrase="The home of Ann is Red Falls.",
    wrong=("The home of Ann is Blue Falls.",),
)


def test_keywords_tell_the_answer_apart() -> None:
    """Falls stands in a wrong answer, Ann and born in the question: red is left, with and without a known object."""
    assert keywords(ROW, "Red Falls") == {"red"} == keywords(ROW)
    assert keywords(Row("b", "Ann is Ann.", "Who is Ann?", "Ann")) == set()


def test_candidates_count_samples_not_words() -> None:
    assert candidates(["Red red blue", "the Red"], {"blue"}) == {"red": 2}


def counts(lines) -> Tables:
    blank = {"drawn": 10, "problem": "", "entity": ""}
    return one_table(pa.Table.from_pylist([blank | line for line in lines], schema=SAMPLED_WORDS))


def test_pinpoint_scores_by_hand() -> None:
    """Gold at 6 and 0, others at 3, 3 and 1 of 10. Pairs won: 6 beats all three, 0 none: AUC 3/6. Top: row a 1,
    row b 0; a tie of two shares the hit."""
    tables = counts(
        [
            {"row": "a", "told": 6, "count": [6, 3], "gold": [True, False]},
            {"row": "b", "told": 0, "count": [0, 3, 1], "gold": [True, False, False]},
            {"row": "c", "told": 0, "count": [], "gold": [], "problem": "no word"},
        ]
    )
    assert answer_frequency(tables).values.tolist()[:2] == [0.6, 0.0] and np.isnan(answer_frequency(tables).values[2])
    assert pinpoint_top(tables).values.tolist()[:2] == [1.0, 0.0]
    found = pinpoint_auc(tables)
    assert found.value == 0.5 and found.n == 2 and found.unscored == 1
    tie = counts([{"row": "a", "told": 4, "count": [4, 4], "gold": [True, False]}])
    assert pinpoint_top(tie).values.tolist() == [0.5]


def heated(entities: int, questions: int = 2) -> list[dict]:
    """Questions whose words, right or not, all come up as often as their entity is hot; the right one a little more."""
    rng = np.random.default_rng(0)
    lines = []
    for e in range(entities):
        heat = int(rng.integers(1, 1000))
        for q in range(questions):
            count = [heat + int(n) for n in rng.integers(0, 20, 4)]
            count[0] += 8
            lines.append({"row": f"{e}/{q}", "entity": f"e{e}", "drawn": 2000, "told": 1, "count": count})
    return [line | {"gold": [True, False, False, False]} for line in lines]


def looped(lines: list[dict], entities: list[str], seed: int) -> np.ndarray:
    """AUC of every resample of ``entities``, pair by pair: each copy against itself and against every other entity, but
    not against another copy of itself."""
    words = {
        e: [(c, g) for x in lines if e in (x["entity"], x["row"]) for c, g in zip(x["count"], x["gold"], strict=True)]
        for e in entities
    }
    right = {e: np.array([c for c, gold in words[e] if gold]) for e in entities}
    other = {e: np.array([c for c, gold in words[e] if not gold]) for e in entities}
    found = []
    for times in draw(len(entities), seed, 200):
        copies = list(enumerate(np.repeat(entities, times)))
        asked = [(right[a], other[b]) for i, a in copies for k, b in copies if i == k or a != b]
        found.append(sum(auc(a, b) * a.size * b.size for a, b in asked) / sum(a.size * b.size for a, b in asked))
    return np.array(found)


def expanded(draws: np.ndarray, groups: int) -> list[float]:
    """Quantiles of draws at Phi(-+ t_.975 sqrt(n / (n - 1))), t with n - 1 degrees of freedom."""
    ends = stats.t.ppf([0.025, 0.975], groups - 1) * np.sqrt(groups / (groups - 1))
    return np.quantile(draws, stats.norm.cdf(ends)).tolist()


def test_the_interval_of_pinpointing_draws_entities_once_for_both_sides() -> None:
    """It equals a loop that resamples entities with all their words, lies around the value, and is narrower than with
    two draws, which let hot entities enter on one side alone."""
    lines = heated(12)
    found = pinpoint_auc(counts(lines).drawn(3, 200))
    assert [found.low, found.high] == pytest.approx(expanded(looped(lines, [f"e{e}" for e in range(12)], 3), 12))
    assert found.extra["interval_over"] == "entities" and found.low < found.value < found.high
    shares = np.array([c / 2000 for line in lines for c in line["count"]])
    gold = np.array([g for line in lines for g in line["gold"]])
    names = np.repeat([line["entity"] for line in lines], 4)
    apart = auc_interval(shares[gold], shares[~gold], names[gold], names[~gold], seed=3, resamples=200)
    assert found.high - found.low < 0.5 * (apart[1] - apart[0])


def test_few_entities_are_resampled_by_question() -> None:
    """Two entities of six questions each: the words of a question still go together."""
    lines = heated(2, 6)
    found = pinpoint_auc(counts(lines).drawn(3, 200))
    assert [found.low, found.high] == pytest.approx(expanded(looped(lines, [line["row"] for line in lines], 3), 12))
    assert found.extra["interval_over"] == "rows"
    one = pinpoint_auc(counts(lines[:1]))
    assert one.value is not None and (one.low, one.high) == (None, None)


def test_sampled_words_tell_who_knows_and_hold_no_text(lm: Bench) -> None:
    """Far more samples of the target than of the reference tell; the same seed gives the same table."""
    need = Need("sampled_words", variants=("8",))
    tables = {role: sampled_words(given(lm, need, role=role)) for role in ("target", "reference")}
    told = {role: np.mean(table["told"].to_pylist()) for role, table in tables.items()}
    assert told["target"] > 2 * told["reference"] + 1
    assert tables["target"].equals(sampled_words(given(lm, need)))
    assert {f.name for f in SAMPLED_WORDS if pa.types.is_string(f.type)} == {"row", "entity", "problem"}


# -- lens --------------------------------------------------------------------------------------------------------------
def test_last_layer_of_the_lens_is_the_models_own_answer(lm: Bench) -> None:
    table, own = lens(given(lm, Need("lens"))), score(lm.model("target"), lm.data.eval["forget"]).tokens
    last = table.filter(pc.equal(table["layer"], 2))
    assert last["rank"].to_pylist() == own["rank"].to_pylist()
    for a, b in zip(last["lp"].to_pylist(), own["lp"].to_pylist(), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_earlier_layers_are_what_an_early_exit_says(lm: Bench) -> None:
    """One stacked forward against a forward that really skips the last block."""
    table = lens(given(lm, Need("lens")))
    first = table.filter(pc.equal(table["layer"], 1))["lp"].to_pylist()
    skipped = lm.model("target").tampered(Tampering(edits=[StateEdit(2, "skip")]))
    for a, b in zip(first, outputs(skipped, lm.data.eval["forget"]), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_the_taps_of_a_block_are_what_it_adds_up(lm: Bench) -> None:
    """Each tap against its own computation: states caught by hand, through the model's norm and head."""
    model, rows = lm.model("target"), lm.data.eval["forget"][:2]
    inner, caught = model.hf.model, {}

    def note(name, inputs=False):
        def hook(module, args, kwargs, out):
            states = (args[0] if args else kwargs["hidden_states"]) if inputs else out
            caught[name] = states[0] if isinstance(states, tuple) else states

        return hook

    block = inner.layers[0]
    for module, name in ((block.self_attn, "attention"), (block.mlp, "mlp"), (block, "block")):
        module.register_forward_hook(note(name), with_kwargs=True)
    block.register_forward_hook(note("entered", True), with_kwargs=True)
    found = {}
    for tap in (*TAPS, "last_prompt"):
        table = lens(replace(given(lm, Need("lens", variants=(), pooling=tap)), rows=rows))
        found[tap] = table.filter(pc.equal(table["layer"], 1))["lp"].to_pylist()
    assert found["last_prompt"] == lens(replace(given(lm, Need("lens")), rows=rows))["lp"].to_pylist()[::2]
    for i, row in enumerate(rows):
        batch = model.collate([model.encode(row)], [0])
        with torch.no_grad(), model.evaluating():
            model.forward(batch)
            states = {tap: caught[tap] for tap in ("attention", "mlp")}
            states["residual"] = caught["entered"] + caught["attention"]
            assert torch.allclose(states["residual"] + caught["mlp"], caught["block"], atol=1e-4)
            for tap, value in states.items():
                logits = model.hf.lm_head(inner.norm(value))[0, batch.label_at % value.shape[1]]
                lp = torch.log_softmax(logits.float(), -1).gather(1, batch.label_id[:, None])[:, 0]
                assert found[tap][i] == pytest.approx(lp.tolist(), abs=1e-3)


def test_lens_rank_by_hand() -> None:
    """Three layers, middle is layer 2 alone. Ranks 0 and 3 there, the end token left out: (1 + 1/4) / 2 = .625."""
    assert middle(3) == [2] and middle(2) == [1] and middle(6) == [3, 4, 5] and middle(1) == []
    lines = [
        {"row": "a", "entity": "A", "layer": n, "lp": [-1.0, -2.0, -9.0], "rank": ranks, "ends": True, "problem": ""}
        for n, ranks in ((1, [9, 9, 0]), (2, [0, 3, 99]), (3, [1, 1, 1]))
    ]
    found = lens_rank(one_table(pa.Table.from_pylist(lines, schema=LENS)))
    assert found.values.tolist() == [0.625] and found.extra["first"] == 1.0
    assert found.extra["curve"] == pytest.approx([0.1, 0.625, 0.5]) and found.extra["log_prob"] == [-1.5] * 3
    with pytest.raises(NotComputed, match="1 layers"):
        lens_rank(one_table(pa.Table.from_pylist(lines[:1], schema=LENS)))


# -- attribute probe ---------------------------------------------------------------------------------------------------
def states(people, place="answer", layer=1):
    """One state per (name, label): the label's corner of a square, a little moved."""
    corner = {0: (5.0, 0.0), 1: (0.0, 5.0), 2: (-5.0, -5.0)}
    return [
        {"row": f"{name}:{place}", "entity": name, "variant": "born_in", "label": label, "layer": layer,
         "pooling": place, "vector": [corner[seen][0] + 0.1 * i, corner[seen][1]]}
        for i, (name, label, seen) in enumerate(people)
    ]  # fmt: skip


def test_attribute_probe_by_hand() -> None:
    """Two classes are learned. X lies with its own (hit), Y with the other (miss), Z's class nobody has."""
    kept = [("a", 0, 0), ("b", 0, 0), ("c", 1, 1), ("d", 1, 1)]
    gone = [("x", 0, 0), ("y", 0, 1), ("z", 2, 2)]
    held = {
        name: pa.Table.from_pylist(states(people) + states(people, "question"), schema=ATTRIBUTES)
        for name, people in (("retain", kept), ("forget", gone))
    }
    found = attribute_probe(Tables(lambda role, need: held[need.rows], "forget"))
    assert dict(zip(found.entities, found.values.tolist(), strict=True)) == {"x": 1.0, "y": 0.0}
    assert found.extra["chance"] == 0.5 and found.extra["curve"] == [0.5] and found.extra["question"] == 0.5


def test_attribute_state_is_the_one_before_what_is_asked_for(lm: Bench) -> None:
    """Built again by hand: the last state after the answer's first words; nothing of the object went in."""
    table = attribute_states(given(lm, Need("attribute_states", "forget", variants=())))
    world, model, row = lm.data.world, lm.model("target"), lm.data.eval["forget"][0]
    lead = lead_in(row.answer, objects(world)[row.fact])
    assert lead and objects(world)[row.fact] not in lead
    state = prompt_states(model.tampered(Tampering(forced={row.id: lead})), [row], [1])[0].layers[1][-1]
    line = next(r for r in table.to_pylist() if (r["row"], r["layer"], r["pooling"]) == (row.id, 1, "answer"))
    assert line["vector"] == pytest.approx(state.tolist(), abs=1e-5)
    assert line["label"] == numbered(world)[line["variant"], objects(world)[row.fact]]


def test_attribute_states_are_those_of_the_model_with_what_lies_around_it(lm: Bench) -> None:
    """A push at block 1 is in the state of both places."""
    world, row = lm.data.world, lm.data.eval["forget"][0]
    push = Tampering(edits=(StateEdit(1, "add", torch.ones(64)),))
    pushed = replace(
        given(lm, Need("attribute_states", "forget", variants=())), adapter=lm.model("target").tampered(push)
    )
    lines = [r for r in attribute_states(pushed).to_pylist() if (r["row"], r["layer"]) == (row.id, 1)]
    leads = {"question": "", "answer": lead_in(row.answer, objects(world)[row.fact])}
    for line in lines:
        model = lm.model("target").tampered(replace(push, forced={row.id: leads[line["pooling"]]}))
        state = prompt_states(model, [row], [1])[0].layers[1][-1]
        assert line["vector"] == pytest.approx(state.tolist(), abs=1e-5)
    assert len(lines) == 2


def test_attribute_states_need_a_world(lm: Bench) -> None:
    with pytest.raises(NotComputed, match="no world"):
        attribute_states(given(lm, Need("attribute_states"), world=False))
