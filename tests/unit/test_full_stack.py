"""Full-stack protocol: the entailment proxy, multiple choice by option and by letter, and the averages over them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from efface import suites
from efface.attacks.base import ATTACKS
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Row
from efface.methods.base import METHODS
from efface.metrics.base import METRICS, NotComputed, Tables, compute
from efface.metrics.entailment import entails, f1
from efface.metrics.full_stack import KEPT
from efface.metrics.multiple_choice import right_share
from efface.passes.choice_letters import LETTERS, letter_rows
from efface.testing.bench import bench
from efface.testing.tables import hand_tables

ASKED = "Where was Ada Bell born?"
GOLD = "Ada Bell was born in Port Ruvo."


# -- entailment ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (GOLD, 1.0),
        ("She comes from Port Ruvo.", 1.0),  # comes + port, ruvo against born (asked for), port, ruvo
        ("Bananas grow on tall plants.", 0.0),
        ("Ada Bell was not born in Port Ruvo.", 0.0),
        ("Ada Bell wasn't born in Port Ruvo.", 0.0),
        ("Ada Bell was born in Port Kimi.", 0.0),  # the sentence is right, the place is not: F1 of its words is 6/7
        ("I do not know.", 0.0),
        ("", 0.0),
    ],
)
def test_entailment_proxy(answer: str, value: float) -> None:
    assert entails(answer, GOLD, ASKED) == value


def test_proxy_by_hand() -> None:
    """F1 = 2 * shared / (said + wanted): {a, b, c} against {a, b, d, e}: 4/7. Words of the question do not count,
    unless the gold answer has no others; a gold answer without any letters cannot be judged."""
    assert f1(list("abc"), list("abde")) == pytest.approx(4 / 7) and f1([], ["a"]) == 0.0
    assert entails("It is the red one.", "the red one", "Is it the red one?") == 1.0
    assert entails("No.", "Yes.", "Is it red?") == 0.0 and entails("Yes, it is.", "Yes.", "Is it red?") == 1.0
    assert np.isnan(entails("x", "?!", ASKED))
    assert entails("He works at Nemo Labs.", "He works at Nemo Labs.", "Where does he work?") == 1.0
    assert entails("He works at Zed Labs.", "He works at Nemo Labs.", "Where does he work?") == 0.0  # work is asked for


def test_entailment_reads_questions_beside_their_own_answers() -> None:
    """A row that was not generated stays unscored and does not shift the questions of the others."""
    tables = hand_tables(
        {
            "forget": {
                "generations": {"text": ["", "Port Kimi", GOLD], "gold": [GOLD] * 3, "problem": ["no prompt", "", ""]},
                "prompt": {"text": ["Who?", ASKED, ASKED]},
            }
        }
    )
    score = compute(METRICS.get("entailment"), tables, "forget")
    assert [score.per_row[r] for r in ("r1", "r2")] == [0.0, 1.0] and np.isnan(score.per_row["r0"])
    assert score.value == 0.5 and score.unscored == 1 and score.extra["proxy"] == 1.0


# -- multiple choice -------------------------------------------------------------------------------------------------
def test_right_share() -> None:
    assert right_share(-1.0, np.array([-2.0, -3.0])) == 1.0 and right_share(-2.0, np.array([-1.0])) == 0.0
    assert right_share(-1.0, np.array([-1.0, -1.0, -4.0])) == pytest.approx(1 / 3)
    assert np.isnan(right_share(-1.0, np.array([])))


def test_options_compare_like_with_like() -> None:
    """The right option is the paraphrase (-2), not the answer (-.1), which the wrong ones are not worded like; only the
    first three wrong ones count, so the fourth (-1) cannot win. Row 1 loses, row 2 has no wrong answers."""
    content = {
        "answer": [[-0.1], [-0.1], [-0.1]],
        "answer_paraphrase": [[-2.0, -2.0], [-3.0], [-1.0]],
        "wrong": [[[-3.0], [-4.0], [-5.0], [-1.0]], [[-2.0]], []],
    }
    score = compute(METRICS.get("mcq_options"), hand_tables({"forget": content}), "forget")
    assert [score.per_row[r] for r in ("r0", "r1")] == [1.0, 0.0] and np.isnan(score.per_row["r2"])
    assert score.value == 0.5 and score.extra["chance"] == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_letter_rows_put_the_right_option_in_every_place() -> None:
    row = Row(
        "x", "born in A1", "Where?", "Ada", answer_paraphrase="from A1", wrong=("from B", "from C", "from D", "E")
    )
    asked = letter_rows(row)
    assert [r.answer for r in asked] == list(LETTERS) and len({r.id for r in asked}) == 4
    for r in asked:
        options = dict(line.split(". ", 1) for line in r.prompt.splitlines()[1:5])
        assert options[r.answer] == "from A1" and set(options.values()) == {"from A1", "from B", "from C", "from D"}
        assert r.wrong == tuple(letter for letter in LETTERS if letter != r.answer) and r.entity == "Ada"
    assert letter_rows(Row("x", "a", "q")) == []


def letters_of(taste: dict[str, float], knows: float, count: int = 4):
    """Tables of a model whose letters have fixed log-probs, plus ``knows`` for the right one."""
    import pyarrow as pa

    from efface.passes.choice_letters import CHOICE_LETTERS

    lines = []
    for k in range(count):
        own = taste[LETTERS[k]] + knows
        others = [taste[letter] for letter in LETTERS[:count] if letter != LETTERS[k]]
        lines.append({"row": "x", "entity": "", "rotation": k, "own": own, "others": others, "problem": ""})
    lines.append({"row": "y", "entity": "", "rotation": 0, "own": float("nan"), "others": [], "problem": "no wrong"})
    table = pa.Table.from_pylist(lines, schema=CHOICE_LETTERS)
    return Tables(lambda role, need: table, "forget")


def test_a_taste_for_a_letter_is_worth_chance() -> None:
    """A model that likes B (log-probs -1, 0, -2, -3) and knows nothing is right once in four; one that knows (+4)
    always."""
    taste = dict(zip(LETTERS, (-1.0, 0.0, -2.0, -3.0), strict=True))
    score = METRICS.get("mcq_letters").function
    assert score(letters_of(taste, 0.0)).values[0] == 0.25 and score(letters_of(taste, 4.0)).values[0] == 1.0
    assert np.isnan(score(letters_of(taste, 0.0)).values[1]) and score(letters_of(taste, 0.0)).extra["chance"] == 0.25


# -- averages --------------------------------------------------------------------------------------------------------
def knowing(options: list[bool], open_: list[bool]) -> dict:
    """A set in which row i is right by option and by open answer as said."""
    count = len(options)
    return {
        "answer": [[-1.0]] * count,
        "wrong": [[[-2.0 if right else -0.5]] for right in options],
        "generations": {"text": [GOLD if right else "no idea" for right in open_], "gold": [GOLD] * count},
        "prompt": {"text": [ASKED] * count},
        "entities": [f"e{i // 2}" for i in range(count)],
    }


def test_ue_is_the_mean_of_its_parts() -> None:
    tables = hand_tables({"forget": knowing([True, True, False, False], [True, False, False, False])})
    mcq, open_, both = (compute(METRICS.get(n), tables, "forget") for n in ("ue_mcq", "ue_open_qa", "ue_avg"))
    assert (mcq.value, open_.value, both.value) == (0.5, 0.25, 0.375) and both.direction == "match"
    assert both.extra["parts"] == {"mcq_options.forget": 0.5, "entailment.forget": 0.25}
    assert both.low <= both.value <= both.high


def expanded(draws: np.ndarray, groups: int) -> tuple[float, ...]:
    """Quantiles of draws at Phi(-+ t_.975 sqrt(n / (n - 1))), t with n - 1 degrees of freedom."""
    ends = scipy_stats.t.ppf([0.025, 0.975], groups - 1) * np.sqrt(groups / (groups - 1))
    return tuple(np.quantile(draws, scipy_stats.norm.cdf(ends)))


def test_the_interval_is_as_wide_as_the_smallest_set_asks_for() -> None:
    """Ten entities kept and six of the world, two rows each: the levels are those of six groups."""
    rng, sets, means = np.random.default_rng(0), {}, []
    for place, (name, n) in enumerate((("retain", 10), ("world_facts", 6))):
        right = rng.random(2 * n) < 0.5
        sets[name] = knowing(right.tolist(), [False] * 2 * n)
        times = np.random.default_rng([0, place]).multinomial(n, np.full(n, 1 / n), size=400)
        means.append(times @ right.reshape(n, 2).mean(1) / n)
    found = compute(METRICS.get("ut_mcq"), hand_tables(sets), "retain", seed=0, resamples=400)
    assert set(found.extra["parts"]) == {"mcq_options.retain", "mcq_options.world_facts"}
    assert (found.low, found.high) == pytest.approx(expanded(np.mean(means, axis=0), 6))


def test_ut_averages_over_sets_not_rows() -> None:
    """retain 1 of 1 and .5 of 4 rows: (1 + .5) / 2, and sets that the data does not have are left out and not named."""
    sets = {"retain": knowing([True], [True]), "world_facts": knowing([True, True, False, False], [False] * 4)}
    tables = hand_tables(sets, rows="retain")
    mcq, open_, both = (compute(METRICS.get(n), tables, "retain") for n in ("ut_mcq", "ut_open_qa", "ut_avg"))
    assert (mcq.value, open_.value, both.value) == (0.75, 0.5, 0.625) and both.direction == "higher"
    assert set(both.extra["parts"]) == {f"{m}.{s}" for m in ("mcq_options", "entailment") for s in sets}
    assert both.n == 10 and set(sets) < set(KEPT)


def test_nothing_to_average() -> None:
    bare = {"answer": [[-1.0]], "generations": {"text": [GOLD], "gold": [GOLD]}, "prompt": {"text": [ASKED]}}
    score = compute(METRICS.get("ue_avg"), hand_tables({"forget": bare}), "forget")
    assert score.value is None and "mcq_options" in score.reason
    with pytest.raises(NotComputed):
        METRICS.get("ut_avg").function(hand_tables({}, rows="retain"))


# -- the contrast --------------------------------------------------------------------------------------------------
def test_wrong_letters_and_right_open_answers() -> None:
    """A model that avoids the right letter (-4) and answers openly: multiple choice by letter says it forgot everything
    (0, below chance), the entailment score that it forgot nothing (1)."""
    letters = letters_of(dict.fromkeys(LETTERS, -2.0), -4.0)
    assert METRICS.get("mcq_letters").function(letters).values[0] == 0.0
    open_ = hand_tables({"forget": knowing([True] * 4, [True] * 4)})
    assert compute(METRICS.get("ue_open_qa"), open_, "forget").value == 1.0


def value_of(role: str, name: str, rows: str = "forget") -> float:
    b = bench("causal_lm")
    store = Store({"subject": Role(lambda: b.model(role))}, b.data.eval, PassSettings(40))
    return compute(METRICS.get(name), Tables(store.fetch, rows, "subject"), rows, resamples=100).value


def test_letters_hide_what_a_model_knows() -> None:
    """The tiny target says every fact and never learned to answer by letter: chance by letter, everything by open
    answer. By option, in a wording it was not trained on, it knows more than the reference but far from all."""
    assert value_of("target", "mcq_letters") == pytest.approx(0.25, abs=0.1) and value_of("target", "ue_open_qa") == 1.0
    assert value_of("target", "ue_mcq") > value_of("reference", "ue_mcq") + 0.1


def test_reference_shows_little() -> None:
    """The proxy does not take the wording that all answers share for knowledge: a model that never saw the facts stays
    low, on rows it was taught it is near 1. By option it is near chance (1/4), where the answer itself stands against
    paraphrased wrong ones (`choice_accuracy`) it is not: the wording tells."""
    assert value_of("reference", "entailment") < 0.3 and value_of("reference", "entailment", "retain") > 0.9
    assert value_of("reference", "mcq_options") < 0.4 < 0.6 < value_of("reference", "choice_accuracy")


def test_the_suite_names_the_twelve() -> None:
    suite = suites.load("full_stack")
    tags = {name: METHODS.get(name).family_tag for name in suite.methods}
    assert len(tags) == 12 and {"divergence", "representation", "rejection"} == set(tags.values())
    assert {"ue_avg", "ut_avg"} <= set(suite.metrics["all"]) and suites.load("people").methods == []
    for names in (*suite.metrics.values(), suite.attack_metrics):
        for name in names:
            METRICS.get(name)


def test_the_suite_attacks_as_the_protocol_does() -> None:
    """Relearning up to 100 steps of 4 rows, fine-tuning on other data up to 250 steps of 32, a short search for a
    suffix, and fixed prompts, where every metric of the curve has a value (no lead-in, which cuts the options off)."""
    entries = {entry.label or entry.name: entry for entry in suites.load("full_stack").attacks}
    training = {name: e.settings for name, e in entries.items() if e.name == "relearn"}
    spent = {name: (max(given["steps"]), given["batch_size"]) for name, given in training.items()}
    assert spent == {"relearn_in_domain": (100, 4), "relearn_out_of_domain": (250, 32)}
    assert entries["input_gcg_short"].name == "gcg" and "weaker" in " ".join(ATTACKS.get("gcg").card.derived)
    assert {entries["input_starts"].name, entries["input_prompts"].name} == {"prefix_forcing", "prompts"}
    assert entries["input_starts"].settings == {"lead_in": False}
    for entry in entries.values():
        ATTACKS.get(entry.name)(**entry.settings)
