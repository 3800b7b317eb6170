"""Leave-one-word-out attribution: against direct computation, by hand, and on a model whose reading is known."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Row
from efface.data.telling import words
from efface.metrics.attribution import (
    attribution_correlation,
    jaccard,
    key_word_mass,
    key_word_mass_own,
    key_word_mass_swapped,
    key_word_overlap,
    key_word_overlap_own,
    mass,
    selective_penalty,
    spearman,
)
from efface.metrics.base import METRICS, Need, Tables, compute
from efface.passes.answer_words import token_spans
from efface.passes.attribution import ATTRIBUTIONS, contributions, key_words, outstanding, own_answers, without
from efface.passes.score import score
from efface.passes.tables import TOKENS
from efface.testing.bench import bench


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


def left_out(text: str, how: str = "drop") -> list[str]:
    return [without(text, w, how) for w in words(text)]


def test_words_are_taken_out_with_the_blank_that_is_too_many() -> None:
    assert left_out("Where was Ada, born?") == [
        "was Ada, born?",
        "Where Ada, born?",
        "Where was, born?",
        "Where was Ada,?",
    ]
    assert left_out("Who is 'Ada Lund'?")[2] == "Who is 'Lund'?" and left_out("Why")[0] == " "
    assert left_out("Where was Ada born?", "swap")[2] == "Where was something born?"


def test_key_words_by_hand() -> None:
    """Positive mass 1.0: .5 + .25 = .75 < .8, with .15 it is .9. Negative contributions never count."""
    gain = np.array([0.1, -0.9, 0.5, 0.25, 0.15])
    assert key_words(gain, 0.8) == [2, 3, 4] and key_words(gain, 0.75) == [2, 3] and key_words(gain, 0.5) == [2]
    assert key_words(gain, 1.0) == [0, 2, 3, 4] and key_words(np.array([-1.0, 0.0])) == []
    assert outstanding(np.array([0.0, 0.0, 0.0, 4.0])) == [3] and outstanding(np.zeros(3)) == []


def test_contributions_equal_a_direct_computation(b) -> None:
    """One forward per shortened question, logits everywhere."""
    import torch

    model, row = b.model("target"), b.data.eval["forget"][0]

    def lp(question: str) -> float:
        prompt = model.template.prompt_ids(model.tokenizer, question)
        answer = model.template.answer_ids(model.tokenizer, row.answer)
        with torch.no_grad():
            logp = model.module(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        return float(logp[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).mean())

    (found,) = contributions(model, [row], [row.answer])
    expected = [lp(row.prompt) - lp(text) for text in left_out(row.prompt)]
    assert found.words == tuple(w.text for w in words(row.prompt)) and found.lp == pytest.approx(
        lp(row.prompt), abs=1e-4
    )
    np.testing.assert_allclose(found.gain, expected, atol=1e-4)


def test_an_empty_answer_and_a_document_say_why(b) -> None:
    rows = [Row("a", "x", "Where was Ada born?"), Row("d", "A passage.")]
    silent, document = contributions(b.model("target"), rows, ["", "x"])
    assert silent.problem == "empty answer" and document.problem == "no prompt"


# -- metrics by hand -------------------------------------------------------------------------------------------------
def tables(before: list[list[float]], after: list[list[float]]) -> Tables:
    def fetch(role: str, need: Need):
        gains = before if role == "target" else after
        lines = [
            {"row": f"r{i}", "entity": "", "words": ["w"] * len(g), "gain": g, "lp": 0.0, "text": "y", "problem": ""}
            for i, g in enumerate(gains)
        ]
        return pa.Table.from_pylist(lines, schema=ATTRIBUTIONS)

    return Tables(fetch, "forget")


def test_the_new_answer_is_read_from_its_own_contributions() -> None:
    """Target: K_O = {0} for its answer. The subject's contributions to the target's answer lie on word 0, those to its
    own answer on word 1 (.75) and word 0 (.25): what it says now hangs on another word."""
    found = {("target", "target"): [1.0, 0.0], ("subject", "target"): [1.0, 0.0], ("subject", "own"): [0.25, 0.75]}
    asked = []

    def fetch(role: str, need: Need):
        asked.append((role, need.variants[0]))
        line = {"row": "r0", "entity": "", "words": ["w", "w"], "gain": found[asked[-1]], "lp": 0.0, "text": "y"}
        return pa.Table.from_pylist([line | {"problem": ""}], schema=ATTRIBUTIONS)

    def read(metric) -> float:
        return float(metric(Tables(fetch, "forget")).values[0])

    assert (read(key_word_mass), read(key_word_overlap)) == (1.0, 1.0)
    asked.clear()
    assert read(key_word_mass_own) == pytest.approx(0.25) and read(key_word_overlap_own) == 0.5  # {0} and {0, 1}
    assert set(asked) == {("target", "target"), ("subject", "own")}, "nothing else is computed"


def test_overlap_and_mass_by_hand() -> None:
    """Row 0: K_O = {0, 1} (.6 + .3), K_U = {1, 2} (.5 + .4): one of three shared; U has .1 + .5 of its mass on K_O.
    Row 1: nothing helps U, so nothing is shared and no mass lies anywhere. Row 2: no key word before: unscored."""
    before = [[0.6, 0.3, 0.1], [1.0, 0.0, 0.0], [-1.0, -1.0, 0.0]]
    after = [[0.1, 0.5, 0.4], [-0.1, -0.2, -0.3], [1.0, 0.0, 0.0]]
    overlap, on_old = key_word_overlap(tables(before, after)), key_word_mass(tables(before, after))
    np.testing.assert_allclose(overlap.values, [1 / 3, 0.0, np.nan])
    np.testing.assert_allclose(on_old.values, [0.6, 0.0, np.nan])
    assert overlap.extra["tau_0.6"] == pytest.approx((0 + 0) / 2)  # K_O = {0}, K_U = {1, 2}
    assert on_old.extra["tau_0.6"] == pytest.approx((0.1 + 0) / 2)
    np.testing.assert_allclose(key_word_mass_swapped(tables(before, after)).values, [0.6, 0.0, np.nan])


def test_correlation_by_hand() -> None:
    """Ranks 3 1 2 against 3 2 1: 1 - 6 (0 + 1 + 1) / (3 * 8) = .5; two words, or a constant side: unscored."""
    before, after = [[0.9, 0.1, 0.5], [1.0, 2.0], [1.0, 1.0, 1.0]], [[8.0, 3.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0]]
    np.testing.assert_allclose(attribution_correlation(tables(before, after)).values, [0.5, np.nan, np.nan])
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([9.0, 5.0, 1.0])) == pytest.approx(-1.0)
    assert math.isnan(jaccard([], [1])) and mass(np.array([-1.0, 3.0, 1.0]), [0, 2]) == pytest.approx(0.25)


def test_selective_penalty_by_hand() -> None:
    """g = .1 .1 2.1 and the end token 5: mean 2.1 over what tells, .1 over the rest: 2.0, ratio 21. Row 1 has nothing
    that tells."""
    lp = {"target": [[-0.1, -0.1, -0.1, 0.0], [-1.0, 0.0]], "subject": [[-0.2, -0.2, -2.2, -5.0], [-2.0, 0.0]]}

    def fetch(role: str, need: Need):
        if need.kind == "answer_words":
            return pa.table(
                {
                    "tells": [[False, False, True, False], [False, False]],
                    "ends": [[False, False, False, True], [False, True]],
                }
            )
        lines = [
            {f.name: None for f in TOKENS} | {"row": f"r{i}", "entity": "", "lp": v, "eos": True, "problem": ""}
            for i, v in enumerate(lp[role])
        ]
        return pa.Table.from_pylist(lines, schema=TOKENS)

    found = selective_penalty(Tables(fetch, "forget"))
    np.testing.assert_allclose(found.values, [2.0, np.nan], atol=1e-6)
    assert found.extra["knowledge"] == pytest.approx(2.1) and found.extra["function"] == pytest.approx(0.55)


# -- through the store -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def store(b) -> Store:
    roles = {"target": Role(lambda: b.model("target")), "unlearned": Role(lambda: b.model("reference"))}
    return Store(roles, {"forget": b.data.eval["forget"][:6]}, PassSettings(24))


def tables_of(store: Store, subject: str) -> Tables:
    return Tables(lambda role, need: store.fetch(subject if role == "subject" else role, need), "forget", subject)


def test_the_target_hangs_on_its_own_words(store) -> None:
    same = tables_of(store, "target")
    assert np.allclose(key_word_overlap(same).values, 1.0) and (key_word_mass(same).values >= 0.8 - 1e-6).all()
    assert np.allclose(attribution_correlation(same).values, 1.0) and np.allclose(selective_penalty(same).values, 0.0)
    assert np.allclose(key_word_overlap_own(same).values, 1.0), "the target's own answer is the target's answer"


@pytest.mark.parametrize(
    "name",
    [
        "key_word_overlap",
        "key_word_overlap_own",
        "attribution_correlation",
        "key_word_mass",
        "key_word_mass_own",
        "key_word_mass_swapped",
        "selective_penalty",
    ],
)
def test_metrics_read_the_passes_they_declare(store, name: str) -> None:
    found = compute(METRICS.get(name), tables_of(store, "unlearned"), "forget", resamples=20)
    assert found.value is not None and not found.reason and found.n > 0
    alone = Store({"unlearned": store.roles["unlearned"]}, store.sets, PassSettings(24))
    missing = compute(METRICS.get(name), tables_of(alone, "unlearned"), "forget", resamples=20)
    assert missing.value is None and "no target model" in missing.reason


def test_all_three_answers_can_be_explained(store) -> None:
    tables = {
        whose: store.fetch("unlearned", Need("attribution", "forget", variants=(whose, "drop"), others=("target",)))
        for whose in ("answer", "own", "target")
    }
    texts = {whose: table["text"].to_pylist() for whose, table in tables.items()}
    assert texts["answer"] == [r.answer for r in store.sets["forget"]] == texts["target"] != texts["own"]
    assert all(len(set(map(len, column))) >= 1 for column in (tables["own"]["gain"].to_pylist(),))


def test_pieces_that_tell_spell_the_object(b, store) -> None:
    model = b.model("target")
    lines = store.fetch("target", Need("answer_words", "forget")).to_pylist()
    lp = score(model, store.sets["forget"]).tokens["lp"].to_pylist()
    objects = {f.id: f.object for f in b.data.world.facts}
    for row, line, values in zip(store.sets["forget"], lines, lp, strict=True):
        told = "".join(p for p, tells in zip(line["piece"], line["tells"], strict=True) if tells)
        assert len(line["piece"]) == len(values) and line["ends"] == [False] * (len(values) - 1) + [True]
        assert objects[row.fact] in told


def test_token_spans_by_hand(b) -> None:
    tokenizer = b.model("target").tokenizer
    ids = tokenizer(" was born", add_special_tokens=False)["input_ids"]
    spans = token_spans(tokenizer, ids, "was born")
    assert spans[0][0] == -1 and spans[-1][1] == len("was born")


def test_the_target_reads_name_and_relation(b) -> None:
    """Sheet 4 (g): at least 80% of the positive mass on the name and the words that say what is asked."""
    model, rows = b.model("target"), list(b.data.eval["forget"])
    asked = {"born_in": "Where born", "works_at": "Where work", "studied_at": "Where study", "profession": "profession",
             "birth_year": "When born", "spouse": "Who married to", "alias": "other name go by",
             "former_name": "formerly called"}  # fmt: skip
    found = []
    for row, one in zip(rows, contributions(model, rows, own_answers(model, rows, 24)), strict=True):
        wanted = {*row.entity.split(), *asked[row.fact.split(":")[1]].split()}
        found.append(mass(one.gain, [i for i, w in enumerate(one.words) if w in wanted]))
    assert float(np.nanmean(found)) >= 0.8
