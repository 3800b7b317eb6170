"""Tuning: what is searched, on which rows, and that a search goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from efface.data.rows import Bundle, Row
from efface.errors import NeedsError, SpecError
from efface.loading import load_data
from efface.spec import load, resolve
from efface.testing.bench import TEXT
from efface.tuning.account import Trial, as_markdown
from efface.tuning.space import Range, applied, check_space, default_space, parse_space
from efface.tuning.split import tuning_data

LEFT = {"data": TEXT["data"] | {"settings": TEXT["data"]["settings"] | {"eval_rows": 12}}}
"""The tiny bench with 12 instead of 36 scored retain rows: 24 facts are left to tune on."""


def spec_of(**changes):
    own = {"method": {"name": "npo"}, "audit": {"suite": "people", "resamples": 100}} | LEFT | changes
    return resolve(("python", TEXT), ("user --set", own))


# -- the space ---------------------------------------------------------------------------------------------------------
def test_ranges_are_read() -> None:
    texts = [
        "train.lr=log:1e-5:2e-4",
        "method.beta=lin:0.02:0.5",
        "train.steps=int:20:80",
        "method.retain=choice:nll,kl",
    ]
    found = parse_space(texts)
    assert found[0] == Range("train.lr", "log", 1e-5, 2e-4) and found[1].kind == "lin"
    assert found[2].edges() == [20, 80] and found[3].options == ("nll", "kl")
    assert [str(one) for one in found] == [texts[0].replace("2e-4", "0.0002").replace("1e-5", "1e-05"), *texts[1:]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("train.lr", "settings of train and method"),
        ("seed=int:0:3", "settings of train and method"),
        ("train.lr=lg:1:2", "Did you mean 'log'"),
        ("train.lr=log:0:1", "not a range"),
        ("train.lr=log:2:1", "not a range"),
        ("train.steps=int:1.5:3", "not a range"),
        ("train.lr=log:a:b", "not two numbers"),
        ("train.lr=log:1", "not two numbers"),
        ("method.retain=choice:nll", "fewer than two"),
    ],
)
def test_bad_ranges_are_refused(text: str, why: str) -> None:
    with pytest.raises(SpecError, match=f"tune.bad-space.*{why}"):
        parse_space([text])


def test_ranges_must_fit_their_settings() -> None:
    spec = spec_of().spec
    check_space(spec, parse_space(["method.beta=log:0.01:1"]))
    rho = "train.rule_settings.rho=log:0.001:0.1"
    check_space(spec.model_copy(update={"train": spec.train.model_copy(update={"rule": "sam"})}), parse_space([rho]))
    check_space(spec, parse_space(["train.rule=choice:sum,sam", rho]))
    for wrong in (["train.rule=choice:sam,foo"], [rho], ["train.rule=choice:sum,sam", rho.replace("rho", "rhoo")]):
        with pytest.raises(SpecError):
            check_space(spec, parse_space(wrong))
    for text in (
        "method.betta=log:0.1:1",
        "train.learning_rate=log:1:2",
        "train.warmup=lin:0:2",
        "method.beta=lin:-1:1",
    ):
        with pytest.raises(SpecError):
            check_space(spec, parse_space([text]))
    with pytest.raises(SpecError, match="twice"):
        parse_space(["train.lr=log:1:2", "train.lr=log:1:3"])


def test_default_space_surrounds_the_spec() -> None:
    """lr a fifth to five times, steps half to twice, the retain weight where there is a retain term; of the method's
    real settings those that are named, else all."""
    one = spec_of(train={"lr": 5e-4, "steps": 40, "retain_weight": 2.0})
    found = {r.path: r for r in default_space(one)}
    assert set(found) == {"train.lr", "train.steps", "train.retain_weight", "method.beta"}
    assert found["train.lr"].edges() == pytest.approx([1e-4, 2.5e-3]) and found["train.steps"].edges() == [20, 80]
    assert found["method.beta"].edges() == pytest.approx([0.02, 0.5])
    named = default_space(spec_of(method={"name": "npo_irm", "settings": {"gamma": 1.0}}))
    assert {r.path for r in named if r.path.startswith("method.")} == {"method.gamma"}
    assert not any(r.path == "train.retain_weight" for r in default_space(spec_of(method={"name": "grad_ascent"})))
    with pytest.raises(SpecError, match="tune.no-default"):
        default_space(spec_of(method={"name": "task_vector"}))


def test_every_loss_method_has_a_space_it_allows() -> None:
    from efface.methods.base import METHODS, LossMethod

    for name in METHODS.names():
        if issubclass(METHODS.get(name), LossMethod) and "causal_lm" in METHODS.get(name).families:
            one = spec_of(method={"name": name})
            check_space(one.spec, space := default_space(one))
            assert space[0].path == "train.lr"


# -- the rows ----------------------------------------------------------------------------------------------------------
def authors(count: int, scored: int, forget: int = 1, facts: int = 3) -> Bundle:
    """Rows like TOFU's: ``forget`` authors to forget, all of them scored, and the first ``scored`` of those to keep."""
    rows = {
        e: [Row(f"{e}:{k}", f"answer {e} {k}", f"question {e} {k}", f"a{e}") for k in range(facts)]
        for e in range(count)
    }
    gone = [r for e in range(forget) for r in rows[e]]
    kept = [r for e in range(forget, count) for r in rows[e]]
    shown = [r for e in range(forget, forget + scored) for r in rows[e]]
    return Bundle("authors", "text", {"forget": gone, "retain": kept}, {"forget": gone, "retain": shown})


def test_whole_entities_are_held_apart() -> None:
    """12 authors: 2 to forget, 4 scored, 6 left: 2 of them are forgotten while tuning, 4 control retention. The method
    sees the other retain rows, never the real forget set."""
    data = authors(12, 4, forget=2)
    found = tuning_data(data, 0)
    scored = {r.entity for rows in data.eval.values() for r in rows}
    gone, kept = ({r.entity for r in rows} for rows in (found.scored_forget, found.scored_retain))
    assert (
        found.unit == "entity" and len(gone) == 2 and len(kept) == 4 and not (gone | kept) & scored and not gone & kept
    )
    assert {r.entity for r in found.retain} == {r.entity for r in data.train["retain"]} - gone
    assert {r.id for r in found.forget} == {r.id for r in data.train["retain"] if r.entity in gone}
    assert not {r.id for r in data.train["forget"]} & {r.id for r in (*found.forget, *found.retain)}
    assert tuning_data(data, 0) == found != tuning_data(data, 1)


def test_facts_are_held_apart_where_entities_cannot_be() -> None:
    """Every person of the tiny world is scored, 12 of their 36 facts are; all three wordings of a fact go together."""
    data, _ = load_data(spec_of().spec)
    found = tuning_data(data, 0)
    audited = [r for rows in data.eval.values() for r in rows]
    mine = [*found.scored_forget, *found.scored_retain]
    assert found.unit == "fact" and not {r.fact for r in mine} & {r.fact for r in audited}
    assert not {r.answer for r in mine} & {r.answer for r in audited} and not {r.prompt for r in mine} & {
        r.prompt for r in audited
    }
    assert len(found.forget) == 3 * len(found.scored_forget) and not {r.fact for r in found.forget} & {
        r.fact for r in found.retain
    }
    assert len(found.scored_forget) <= len(mine) / 3 and all(r.entity for r in mine)


def test_equal_texts_count_whatever_their_ids_say() -> None:
    """A scored row under another id and another author: its twin among the trained rows is not tuned on."""
    data = authors(12, 2)
    twin = next(r for r in data.train["retain"] if r.entity == "a9")
    data.eval["other"] = [Row("x:1", twin.answer.upper(), f"  {twin.prompt}?", "somebody")]
    for seed in range(8):
        found = tuning_data(data, seed)
        assert twin not in (*found.scored_forget, *found.scored_retain)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(NeedsError, match="tune.no-rows"):
        tuning_data(authors(8, 7), 0)


# -- the search --------------------------------------------------------------------------------------------------------
SPACE = ("train.lr=log:1e-4:2e-3", "train.retain_weight=log:0.5:8")
SHORT = {"train": {"steps": 8}}


@pytest.fixture(scope="module")
def found(tmp_path_factory, shared_cache):
    """Three trials of npo on the tiny bench."""
    pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")
    from efface.tuning import tune

    place = tmp_path_factory.mktemp("tune") / "study"
    patch = pytest.MonkeyPatch()
    patch.setenv("EFFACE_CACHE", str(shared_cache))
    try:
        return place, tune(spec_of(**SHORT), place, space=SPACE, trials=3)
    finally:
        patch.undo()


def test_search_writes_its_account(found) -> None:
    place, tuned = found
    stored = json.loads((place / "trials.json").read_text())
    assert len(tuned.trials) == len(stored["trials"]) == 3 and stored["calibrate"]["tau"] == 0.95
    assert stored["held_apart_by"] == "fact" and stored["space"] == [str(r) for r in parse_space(SPACE)]
    assert len({tuple(t.params.items()) for t in tuned.trials}) == 3
    values = [t.value for t in tuned.trials]
    assert all(v is not None and 0 <= v <= 1 for v in values) and tuned.best.value == min(values)
    assert all(1e-4 <= t.params["train.lr"] <= 2e-3 and 0 <= t.alpha <= 1 for t in tuned.trials)
    assert "(best)" in (place / "trials.md").read_text() and "0.95" in (place / "trials.md").read_text()


def test_best_is_a_spec_file(found) -> None:
    """``efface unlearn best.yaml`` runs the best trial's settings, on the real request."""
    place, tuned = found
    again = resolve(("file", load(place / "best.yaml"))).spec
    assert again == tuned.spec and again.train.lr == tuned.best.params["train.lr"] and again.train.steps == 8
    assert "out" not in yaml.safe_load((place / "best.yaml").read_text())


def test_search_goes_on_as_if_it_had_not_stopped(found, tmp_path: Path) -> None:
    """Stopped after two trials, with a third left half done by a kill: it then draws what it drew in one go, and what
    is there is not done again."""
    optuna = pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")
    from efface.tuning import tune

    _, whole = found
    first = tune(spec_of(**SHORT), tmp_path, space=SPACE, trials=2)
    (name,) = optuna.get_all_study_names(f"sqlite:///{tmp_path / 'study.db'}")
    optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path / 'study.db'}").ask()
    rest = tune(spec_of(**SHORT), tmp_path, space=SPACE, trials=3)
    assert [t.params for t in rest.trials] == [t.params for t in whole.trials]
    assert [t.value for t in rest.trials] == [t.value for t in whole.trials] and rest.trials[:2] == first.trials
    assert tune(spec_of(**SHORT), tmp_path, space=SPACE, trials=3) == rest


def test_time_ends_a_search_and_failures_are_told(tmp_path: Path) -> None:
    """One trial at least, none after the time; a setting that breaks the run is a trial with its reason."""
    pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")
    from efface.tuning import tune

    space = ("train.select.first=int:7:9",)
    broken = spec_of(train={"steps": 2, "select": {"kind": "layers"}})
    tuned = tune(broken, tmp_path, space=space, trials=50, minutes=1e-9)
    assert len(tuned.trials) == 1 and tuned.best is None and "train.bad-layers" in tuned.trials[0].error
    assert not (tmp_path / "best.yaml").exists() and "train.bad-layers" in (tmp_path / "trials.md").read_text()


def test_missing_optuna_is_refused_by_name(monkeypatch, tmp_path: Path) -> None:
    import sys

    from efface import api

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(NeedsError, match=r"tune.needs-optuna.*efface\[tune\]"):
        api.tune(spec_of(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_images_are_refused(tmp_path: Path) -> None:
    from efface.tuning import plan

    with pytest.raises(NeedsError, match="tune.needs-text"):
        plan(
            resolve(
                ("python", {"model": {"name": "cnn"}, "data": {"benchmark": "digits"}, "method": {"name": "grad_diff"}})
            )
        )


def test_plan_says_what_would_be_done() -> None:
    from efface.tuning import plan

    told = plan(spec_of())
    assert told["rows"]["scored_forget"] > 0 and told["held_apart_by"] == "fact" and "train.lr=log" in told["lines"][0]


def test_ties_go_to_the_larger_alpha_and_trials_keep_their_fields() -> None:
    trial = Trial(0, {"train.lr": 1e-4}, 0.2, (0.1, 0.3), 0.5, 0.9, (0.0, 0.4), 3.0)
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial
    about = {
        "method": "npo",
        "model": "tiny",
        "seed": 0,
        "calibrate": {"tau": 0.95},
        "rows": {"scored_forget": 3},
        "held_apart_by": "fact",
    }
    failed = Trial(1, {"train.lr": 1.0}, error="train.non-finite: x")
    text = as_markdown([failed, trial], trial, about)
    assert text.index("1 (best)") < text.index("trial 2: not computed, because train.non-finite")


def test_applied_reaches_method_settings() -> None:
    spec = applied(spec_of().spec, {"method.beta": 0.3, "train.lr": 1e-3, "train.rule_settings.rho": 0.1})
    assert spec.method.settings["beta"] == 0.3 and spec.train.lr == 1e-3 and spec.train.rule_settings == {"rho": 0.1}


def test_command_line(cli_main, tmp_path: Path) -> None:
    words = [
        "tune",
        "--method",
        "npo",
        "--model",
        "tiny",
        "--dry-run",
        "--json",
        "--set",
        "data.eval_rows=12",
        "--set",
        "data.people=8",
    ]
    code, out = cli_main(*words, "--out", str(tmp_path / "t"))
    assert code == 0 and json.loads(out)["rows"]["forget"] > 0 and not (tmp_path / "t").exists()


@pytest.fixture
def cli_main(capsys):
    def call(*words: str) -> tuple[int, str]:
        from efface.cli.main import main

        capsys.readouterr()
        return main(list(words)), capsys.readouterr().out

    return call
