"""Memorisation, knowledge and generation metrics on hand-made tables; arithmetic beside each number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from efface.metrics.base import METRICS, compute
from efface.metrics.generation import normal
from efface.metrics.memorisation import strength
from efface.testing.tables import hand_tables

LOG = math.log


def score(name, tables, rows="forget"):
    return compute(METRICS.get(name), tables, rows, seed=0, resamples=100)


def values(name, tables, rows="forget"):
    return list(score(name, tables, rows).per_row.values())


def answers(**columns):
    return hand_tables({"forget": {"answer": columns}})


# -- probability
# ---------------------------------------------------------------------------------------------------------
def test_probability_is_the_geometric_mean_with_the_end_token():
    """Tokens .5 and .125, the latter the end token: sqrt(.0625) = .25. Without it the value would be .5."""
    tables = answers(lp=[[LOG(0.5), LOG(0.125)]], eos=True)
    assert values("probability", tables) == pytest.approx([0.25])


def test_probability_does_not_underflow():
    """2,000 tokens of log-prob -10: the product is e^-20000, the geometric mean e^-10."""
    assert values("probability", answers(lp=[[-10.0] * 2000])) == pytest.approx([math.exp(-10)])


def test_empty_answers_are_unscored_not_zero():
    """Rows [.5], [], [.1]: mean .3 of 2 rows, 1 unscored; the row stays in the table of rows as NaN."""
    found = score("probability", answers(lp=[[LOG(0.5)], [], [LOG(0.1)]]))
    assert found.value == pytest.approx(0.3) and (found.n, found.unscored) == (2, 1)
    assert math.isnan(found.per_row["r1"]) and found.reason == ""


def test_nothing_scored_is_not_computed():
    found = score("extraction_strength", answers(hit=[[], []]))
    assert found.value is None and found.unscored == 2 and "could be scored" in found.reason


def test_an_impossible_token_is_a_probability_of_zero():
    assert values("probability", answers(lp=[[0.0, -math.inf]])) == [0.0]


def test_wordings_read_their_own_columns():
    tables = hand_tables(
        {
            "forget": {
                "answer": [[LOG(0.5)]],
                "answer_paraphrase": [[LOG(0.25)]],
                "answer@paraphrase": {"lp": [[LOG(0.125)]], "hit": [[True]]},
            }
        }
    )
    assert values("probability", tables) == pytest.approx([0.5])
    assert values("probability_paraphrased_answer", tables) == pytest.approx([0.25])
    assert values("probability_paraphrased_question", tables) == pytest.approx([0.125])
    assert values("extraction_strength_paraphrased_question", tables) == [1.0]


def test_missing_wording_says_why():
    found = score("probability_paraphrased_answer", hand_tables({"forget": {"answer": [[-1.0]]}}))
    assert found.value is None and "answer_paraphrase" in found.reason


def test_interval_says_what_it_resamples():
    rows = {"answer": [[-0.1 * i] for i in range(12)]}
    few = score("probability", hand_tables({"forget": rows | {"entities": ["a", "b"] * 6}}))
    many = score("probability", hand_tables({"forget": rows | {"entities": [f"e{i % 6}" for i in range(12)]}}))
    assert (few.extra["interval_over"], many.extra["interval_over"]) == ("rows", "entities")
    assert few.low < few.value < few.high


# -- exact memorisation and extraction strength
# ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("hits", "em", "es"),
    [
        ([1, 1, 0, 1, 1], 0.8, 0.4),
        ([1, 1, 1, 1, 0], 0.8, 0.0),
        ([1, 1, 1], 1.0, 1.0),
        ([0, 1, 1, 1], 0.75, 0.75),
        ([0, 0, 0], 0.0, 0.0),
    ],
)
def test_em_and_es_by_hand(hits, em, es):
    """1,1,0,1,1: four of five right; the last miss is at position 3, two of five tokens follow it."""
    tables = answers(hit=[[bool(h) for h in hits]])
    assert values("exact_memorisation", tables) == pytest.approx([em])
    assert values("extraction_strength", tables) == pytest.approx([es])


def test_the_end_token_is_not_counted():
    """Answer tokens right, end token wrong: EM and ES 1. Counted, they would be .75 and 0."""
    tables = answers(hit=[[True, True, True, False]], eos=True)
    assert values("exact_memorisation", tables) == [1.0] and values("extraction_strength", tables) == [1.0]


def test_a_row_of_only_the_end_token_is_unscored():
    assert score("extraction_strength", answers(hit=[[True], [True, True]], eos=True)).unscored == 1


def test_em_is_never_below_es():
    rng = np.random.default_rng(0)
    hits = [(rng.random(rng.integers(1, 12)) < 0.7).tolist() for _ in range(300)]
    em, es = (np.array(values(name, answers(hit=hits))) for name in ("exact_memorisation", "extraction_strength"))
    assert (em >= es - 1e-12).all() and (em > es).any()


def test_es_equals_decoding_after_each_prefix():
    """A greedy model that answers by a lookup: with a prefix of k gold tokens it goes on with its own argmax. The
    shortest prefix after which it reproduces the rest gives the same ES as the teacher-forced hits."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        gold = rng.integers(0, 3, size=7).tolist()
        argmax: dict[tuple, int] = {}

        def following(prefix, known=argmax):
            return known.setdefault(tuple(prefix), int(rng.integers(0, 3)))

        hits = np.array([following(gold[:t]) == gold[t] for t in range(7)])
        shortest = 7
        for k in range(7):
            text = gold[:k]
            while len(text) < 7:
                text = [*text, following(text)]
            if text == gold:
                shortest = k
                break
        assert strength(hits) == pytest.approx(1 - shortest / 7)


def test_gold_rank():
    """Ranks 0, 1, 3 and the end token at 9: (1 + 1/2 + 1/4) / 3 = .5833."""
    tables = answers(lp=[[-1.0] * 4], rank=[[0, 1, 3, 9]], eos=True)
    assert values("gold_rank", tables) == pytest.approx([1.75 / 3])


# -- truth ratio, options
# ------------------------------------------------------------------------------------------------
def truths(correct, wrong, **more):
    return hand_tables({"forget": {"answer": correct, "wrong": wrong, **more}})


def test_truth_ratio_forms_by_hand():
    """P_c = .4; wrong .2 and .05, geometric mean .1: r = .25. Extent .4/.5 = .8; min(r, 1/r) = .25; 1 - r = .75.
    An arithmetic mean (.125) would give an extent of .762."""
    tables = truths([[LOG(0.4)]], [[[LOG(0.2)], [LOG(0.05)]]])
    assert values("truth_ratio", tables) == pytest.approx([0.8])
    assert values("truth_ratio_tofu", tables) == pytest.approx([0.25])
    assert values("truth_ratio_true_better", tables) == pytest.approx([0.75])


def test_truth_ratio_when_the_falsehood_is_preferred():
    """P_c = .1, P_w = .4: r = 4. Extent .1/.5 = .2, min(r, 1/r) = .25, max(0, 1 - r) = 0."""
    tables = truths([[LOG(0.1)]], [[[LOG(0.4)]]])
    assert values("truth_ratio", tables) == pytest.approx([0.2])
    assert values("truth_ratio_tofu", tables) == pytest.approx([0.25])
    assert values("truth_ratio_true_better", tables) == [0.0]


def test_truth_ratio_is_length_normalised_and_stays_in_log_space():
    """500 tokens at -900/500 against 100 tokens at -1.9 each: P_c = e^-1.8, P_w = e^-1.9, extent 1/(1 + e^-.1).
    Products would be e^-900 and e^-190."""
    tables = truths([[-1.8] * 500], [[[-1.9] * 100]])
    assert values("truth_ratio", tables) == pytest.approx([1 / (1 + math.exp(-0.1))], rel=1e-6)


def test_the_paraphrase_is_the_correct_option_where_there_is_one():
    """Row 0 has a paraphrase (.1), row 1 has none and uses its answer (.4); the wrong answer is .1 for both: .5 and
    .8."""
    tables = truths(
        [[LOG(0.4)], [LOG(0.4)]],
        [[[LOG(0.1)]]] * 2,
        answer_paraphrase={"lp": [[LOG(0.1)], []], "problem": ["", "no answer_paraphrase"]},
    )
    found = score("truth_ratio", tables)
    assert list(found.per_row.values()) == pytest.approx([0.5, 0.8]) and found.extra["paraphrased"] == 0.5


def test_a_paraphrase_that_could_not_be_scored_is_not_replaced():
    """Too long for the context is not the same as absent: the row is unscored."""
    tables = truths(
        [[LOG(0.4)]], [[[LOG(0.1)]]], answer_paraphrase={"lp": [[]], "problem": ["longer than the context"]}
    )
    assert score("truth_ratio", tables).unscored == 1


def test_rows_without_wrong_answers_are_unscored():
    tables = truths([[-1.0], [-1.0]], [[], [[-2.0]]])
    for name in ("truth_ratio", "options_probability", "choice_accuracy"):
        assert (score(name, tables).n, score(name, tables).unscored) == (1, 1)


def test_options_probability_by_hand():
    """.3 / (.3 + .1 + .1) = .6; chance 1/3."""
    found = score("options_probability", truths([[LOG(0.3)]], [[[LOG(0.1)], [LOG(0.1)]]]))
    assert found.value == pytest.approx(0.6) and found.extra["chance"] == pytest.approx(1 / 3)


def test_options_probability_far_below_the_float_range():
    """Mean log-probs -1000 and -1000 - log 3: probabilities underflow to 0/0, their ratio is 3/4."""
    tables = truths([[-1000.0]], [[[-1000.0 - LOG(3)]]])
    assert values("options_probability", tables) == pytest.approx([0.75], rel=1e-4)


def test_choice_accuracy_and_ties():
    """Clear win 1; tie with one of two wrong answers 1/2; loss 0; the mean of tokens decides, not their sum."""
    tables = truths(
        [[-1.0], [-1.0], [-3.0], [-0.5] * 10], [[[-2.0], [-3.0]], [[-1.0], [-2.0]], [[-1.0], [-4.0]], [[-1.0], [-1.0]]]
    )
    assert values("choice_accuracy", tables) == [1.0, 0.5, 0.0, 1.0]


# -- generations
# ---------------------------------------------------------------------------------------------------------
def texts(*pairs, **columns):
    return hand_tables(
        {"forget": {"generations": {"gold": [g for g, _ in pairs], "text": [t for _, t in pairs], **columns}}}
    )


def test_rouge_is_recall_with_stems():
    """Gold 4 words; text has "was", "born" (stem of "born"), "paris" in order, and more: LCS 3 of 4 = .75; F1 would be
    2/3."""
    tables = texts(("was born in Paris", "he was born near Paris"))
    assert values("rouge", tables) == pytest.approx([0.75])
    assert values("rouge", texts(("running shoes", "run shoe")))[0] == 1.0
    assert values("rouge_f1", texts(("running shoes", "run shoe")))[0] == 0.0


def test_rouge_f1_by_hand():
    """Precision 3/5, recall 3/4: F1 = 2 * .6 * .75 / 1.35 = 2/3."""
    assert values("rouge_f1", texts(("was born in Paris", "he was born near Paris"))) == pytest.approx([2 / 3])


def test_silence_is_counted_beside_the_score():
    found = score("rouge", texts(("Paris", ""), ("Paris", "Paris"), ("Paris", " \n")))
    assert found.value == pytest.approx(1 / 3) and found.extra["empty"] == pytest.approx(2 / 3) and found.unscored == 0


def test_a_gold_answer_the_tokenizer_drops_is_unscored():
    found = score("rouge", texts(("東京", "東京"), ("Tokyo", "Tokyo")))
    assert found.value == 1.0 and found.unscored == 1


def test_rows_that_were_not_generated_are_unscored():
    found = score("rouge", texts(("a b", ""), ("a b", "a b"), problem=["longer than the context", ""]))
    assert (found.value, found.n, found.unscored) == (1.0, 1, 1)


def test_exact_match_normalises():
    tables = texts(("The Louvre", "louvre."), ("Paris", "in Paris"), ("...", "x"))
    assert values("exact_match", tables)[:2] == [1.0, 0.0] and score("exact_match", tables).unscored == 1
    assert normal("An  apple, a day!") == "apple day"


def test_rouge_f1_counts_every_word_said():
    """Nothing is dropped after the answer: 2 * (1/4) / (5/4) = .4 where MUSE's score, which stops there, is 1."""
    assert values("rouge_f1", texts(("Paris", "Paris\nQuestion: who came"))) == pytest.approx([0.4])
    assert values("rouge_f1", texts(("a b c d", "a b"), ("a b", "a b"))) == pytest.approx([2 / 3, 1.0])


def test_every_card_says_what_fools_it_and_nothing_needs_torch():
    for name, metric in METRICS.items():
        assert metric.card.source and metric.card.summary, name
        assert metric.card.fooled_by, name
