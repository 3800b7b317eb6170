"""The surrogates attack: rows keep their id, only what the target knows is asked, and metrics are compared on both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from efface.attacks import surrogates
from efface.attacks.base import ATTACKS, AttackContext
from efface.audit.attacks import Runner
from efface.audit.consistency import of_curve
from efface.audit.roles import PassSettings, Role
from efface.errors import NeedsError
from efface.suites import AttackEntry, load
from efface.testing.bench import Bench, bench


@pytest.fixture(scope="module")
def lm() -> Bench:
    return bench("causal_lm")


def context(lm: Bench, naive: str | None = "reference", original: str = "target") -> AttackContext:
    given = (lambda: lm.model(naive)) if naive else None
    return AttackContext(lm.model("target"), lm.data, 0, lambda: lm.model(original), naive=given)


def test_each_kind_asks_for_the_same_fact_in_another_way(lm: Bench) -> None:
    rows = list(lm.data.eval["forget"])
    points = list(ATTACKS.get("surrogates")().points(context(lm)))
    assert points and [p.budget["kinds"] for p in points] == list(range(1, len(points) + 1))
    by_id = {r.id: r for r in rows}
    for point in points:
        asked = point.rows("forget", rows)
        assert 0 < len(asked) <= len(rows) and all(r.id in by_id and r.prompt != by_id[r.id].prompt for r in asked)
        assert point.supplied["candidates"] >= len(asked) >= 1 and 0 < point.supplied["passed_derived"] <= 1


def test_what_the_target_does_not_know_better_is_no_surrogate(lm: Bench) -> None:
    """The reference in the target's place knows nothing more than itself: no kind is left."""
    with pytest.raises(NeedsError, match=r"attack\.not-testable"):
        list(ATTACKS.get("surrogates")().points(context(lm, original="reference")))


def test_without_a_model_that_never_knew_it_is_refused(lm: Bench) -> None:
    with pytest.raises(NeedsError, match=r"attack\.needs-naive"):
        list(ATTACKS.get("surrogates")().points(context(lm, naive=None)))


def test_data_without_surrogates(lm: Bench) -> None:
    bare = [replace(r, paraphrase="") for r in lm.data.eval["forget"]]
    data = replace(lm.data, eval={"forget": bare}, world=None)
    assert ATTACKS.get("surrogates")().check(data) == "no row has a surrogate"
    assert ATTACKS.get("surrogates")(kinds=("drawn",)).check(data) == ""
    timed = {"drawn": {"seconds": 5.0}}
    assert "drawn.rounds" in ATTACKS.get("surrogates")(kinds=("drawn",), **timed).check(data)
    assert ATTACKS.get("surrogates")(**timed).check(lm.data) == ""


def test_drawn_surrogates_keep_their_row(lm: Bench) -> None:
    """Few candidates: either some row has one, under its own id, or the attack says that none could be made."""
    drawn = {"candidates": 6, "rounds": 1, "max_new_tokens": 16, "distance": 1e-6, "frame": "{text}"}
    attack = ATTACKS.get("surrogates")(kinds=("drawn",), drawn=drawn)
    (point,) = attack.points(context(lm))
    asked = point.rows("forget", lm.data.eval["forget"])
    assert (
        asked and {r.id for r in asked} <= {r.id for r in lm.data.eval["forget"]} and all(not r.prompt for r in asked)
    )


def test_metrics_are_compared_on_rows_and_surrogates(lm: Bench) -> None:
    """The reference as the unlearned model: its probability is low on both, so nothing speaks against the metric; a
    model that is right on the paraphrases alone (target there, reference here) is what the finding is for."""
    roles = {"unlearned": Role(lambda: lm.model("reference")), "target": Role(lambda: lm.model("target"))}
    roles["reference"] = Role(lambda: lm.model("reference"))
    suite = load("people").model_copy(update={"attack_metrics": ["probability"]})
    runner = Runner(roles, lm.data, suite, PassSettings(24), seed=0, resamples=100, cache=None)
    result = runner.run(AttackEntry(name="surrogates", settings={"kinds": ["paraphrase"]}))
    assert not result.reason and set(result.curves) == {"unlearned", "reference", "target"}
    (found,) = of_curve(result, ["probability"], seed=0, resamples=100)
    assert found.kind == "consistency" and not found.flag and found.evidence["forgotten"] > 0.8
    assert not found.evidence["flag"] and found.share > 0.5
    points = [result.curves["unlearned"].points[0], result.curves["target"].points[1]]
    result.curves["unlearned"] = replace(result.curves["unlearned"], points=points)
    (fooled,) = of_curve(result, ["probability"], seed=0, resamples=100)
    assert fooled.evidence["flag"] and abs(fooled.share) < 1e-9 and "sentences more than facts" in fooled.says


def test_surrogates_are_chosen_once_for_all_models(lm: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three roles and two kinds, one filter, made with the second reference; another seed or model makes a new one."""
    made = []

    class Counted(surrogates.Filter):
        def __init__(self, knows, naive, *rest):
            made.append(naive)
            super().__init__(knows, naive, *rest)

    monkeypatch.setattr(surrogates, "Filter", Counted)
    second = lm.model("reference")
    roles = {name: Role(lambda n=name: lm.model(n)) for name in ("target", "reference")}
    roles |= {"reference_2": Role(lambda: second), "unlearned": Role(lambda: lm.model("target"))}
    suite = load("people").model_copy(update={"attack_metrics": ["probability"]})
    runner = Runner(roles, lm.data, suite, PassSettings(24), seed=0, resamples=20, cache=None)
    result = runner.run(AttackEntry(name="surrogates", settings={"kinds": ["paraphrase", "reversed"]}))
    assert set(result.curves) == {"unlearned", "reference", "target"} and len(made) == 1
    assert made[0] is second
    attack, first = ATTACKS.get("surrogates")(kinds=("paraphrase",)), context(lm)
    for given, filters in ((first, 2), (context(lm), 2), (replace(first, seed=1), 3), (context(lm, naive="base"), 4)):
        next(attack.points(given))
        assert len(made) == filters


def test_surrogates_are_held_against_every_plain_metric_of_the_forget_rows() -> None:
    """Not only the two that other attacks are read by; never one that compares models or reads other passes."""
    from efface.audit.attacks import curve_metrics

    suite = load("people_full")
    names = curve_metrics(suite, surrogates.Surrogates())
    assert names[:2] == ["probability", "rouge"] and {"extraction_strength", "exact_match", "mcq_options"} <= set(names)
    assert not {"fade", "cka_target", "key_word_mass", "probability_paraphrased_question", "mia_loss"} & set(names)
    assert curve_metrics(suite, ATTACKS.get("paraphrase")()) == suite.attack_metrics
