"""The published axes on the built-in world: what each cuts, that every suite runs, MUSE's checks on trained models."""

from __future__ import annotations

import json

import pytest

from efface import pipeline, suites
from efface.audit.measure import measure, pairs, plan
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.build import base, made
from efface.checking import not_computed
from efface.data.benchmarks.people_axis import AXES, PeopleAxis
from efface.data.checks import content_key
from efface.errors import DataError
from efface.loading import load_data
from efface.metrics.base import METRICS
from efface.spec import resolve

SMALL = {"width": 64, "layers": 2, "ff": 128, "heads": 2}


@pytest.fixture(scope="module", autouse=True)
def _module_cache(shared_cache):
    """Fixtures of this module use the tests' cache too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFACE_CACHE", str(shared_cache))
        yield


def load(axis, **settings):
    return PeopleAxis(axis=axis, **settings).load()


def resolved(axis, epochs, **changes):
    train = {"train": {"lr": 6e-3, "epochs": epochs, "batch_size": 24}}
    values = {
        "model": {"name": "tiny", "tiny": SMALL},
        "data": {"benchmark": "people_axis", "settings": {"axis": axis, "people": 8, "forget": 2}},
        "target": train,
        "reference": train,
        "method": {"name": "grad_diff"},
        "train": {"steps": 2, "batch_size": 8, "lr": 1e-3},
        "audit": {"suite": axis, "attacks": [], "resamples": 100},
    }
    return resolve(("test", values), ("test", changes))


# -- what is cut ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axis", AXES)
def test_every_axis_keeps_forgotten_and_kept_apart(axis):
    bundle = load(axis)
    assert not {content_key(r) for r in bundle.train["forget"]} & {content_key(r) for r in bundle.train["retain"]}
    assert all(rows for rows in bundle.eval.values())
    assert all(not (r.wrong or r.paraphrase) for half in bundle.train.values() for r in half)
    assert load(axis).digest() == bundle.digest() != load(axis, seed=1).digest()


@pytest.mark.parametrize("axis", AXES)
def test_every_suite_finds_its_sets(axis):
    """What the suite asks for and the axis has not is a utility set of RWKU, which needs files."""
    bundle, suite = load(axis), suites.load(axis)
    assert all(metric.card.summary for metric, _ in pairs(suite))
    lacking = set(not_computed({"unlearned", "target", "reference"}, bundle, suite))
    lacking = {text for text in lacking if "utility_" not in text and "no holdout rows" not in text}
    assert not [
        text for text in lacking if "the data has no" in text and "neighbour" not in text and "world_facts" not in text
    ]


def test_muse_folds_grow_or_follow_each_other():
    """Four people to forget: scal_2 is the first two, sust_2 the second alone; nothing forgotten earlier is kept."""
    people = load("muse").world.people[:4]
    names = {fold: {r.entity for r in load("muse", fold=fold).train["forget"]} for fold in ("scal_2", "sust_2")}
    assert names == {"scal_2": set(people[:2]), "sust_2": {people[1]}}
    kept = {r.entity for r in load("muse", fold="sust_2").train["retain"]}
    assert people[0] not in kept and {people[2], people[3]} <= kept
    whole = load("muse").eval["verbatim_forget"][0]
    text = load("muse").world.passages[people[0]]
    assert f"{whole.prompt} {whole.answer}" == " ".join(text.split()) and len(whole.prompt.split()) == 20


def test_rwku_has_nine_styles_and_neighbours_one_edge_away():
    bundle = load("rwku")
    rows = [*bundle.eval["adversarial_forget"], *bundle.eval["suffix_forget"]]
    assert len({r.id.split(":")[2] for r in rows}) == 9
    near = {
        n
        for p in bundle.world.people[:4]
        for n in bundle.world.related_people(p, ("born_in", "works_at", "studied_at"))
    }
    assert {r.entity for r in bundle.eval["neighbour"]} <= near - set(bundle.world.people[:4])
    assert not {r.entity for r in bundle.eval["retain"]} & {r.entity for r in bundle.eval["neighbour"]}


def test_wmdp_has_four_rotations_and_chance_of_a_quarter():
    rows = load("wmdp").eval["forget"]
    by_question = {}
    for row in rows:
        by_question.setdefault(row.entity, []).append(row.answer)
    assert all(sorted(letters) == ["A", "B", "C", "D"] for letters in by_question.values())


def test_knowundo_forgets_attributes_of_people_who_stay():
    bundle = load("knowundo")
    relations = {
        side: {r.fact.split(":")[1] for r in bundle.train[side] if r.entity in bundle.world.people[:4]}
        for side in ("forget", "retain")
    }
    assert relations["forget"] == {"birth_year", "dish"} and not relations["forget"] & relations["retain"]
    assert {r.entity for r in bundle.eval["neighbour"]} == set(bundle.world.people[:4])


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_pistol_degree(degree):
    """The forgotten contract's company has ``degree`` of them; independent ones share no party with any of those."""
    bundle = load("pistol", people=40, degree=degree)
    (gone,) = {r.entity for r in bundle.eval["forget"]}
    near = {r.entity for r in bundle.eval.get("neighbour", ())}
    far = {r.entity for r in bundle.eval["independent"]}
    hub = gone.split("_")[0]
    assert len(near) == degree - 1 and all(edge.split("_")[0] == hub for edge in near)
    joined = {party for edge in (*near, gone) for party in edge.split("_")}
    assert far and not joined & {party for edge in far for party in edge.split("_")}


def test_pch_steps_and_lume_tasks():
    step = load("pch", since=1, upto=2)
    people = step.world.people
    assert {r.entity for r in step.train["forget"]} == {people[1]}
    assert {r.entity for r in step.eval["forget"]} == {people[0], people[1]}
    assert people[2] in {r.entity for r in step.eval["retain"]}
    lume = load("lume")
    tasks = {name: {r.id.split(":")[1] for r in lume.eval[name]} for name in ("forget", "completion_retain")}
    assert tasks == dict.fromkeys(tasks, {"Task1", "Task2", "Task3"})


@pytest.mark.parametrize(
    ("code", "settings"),
    [
        ("people-axis.nothing-left", {"forget": 16}),
        ("people-axis.bad-step", {"axis": "pch", "since": 3, "upto": 2}),
        ("people-axis.too-few-companies", {"axis": "pistol", "degree": 30}),
    ],
)
def test_refusals(code, settings):
    with pytest.raises(DataError) as error:
        PeopleAxis(**settings).load()
    assert error.value.code == code and error.value.fix


# -- end to end ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axis", AXES)
def test_every_suite_runs_from_beginning_to_end(axis, tmp_path):
    """One epoch of a very small model: nothing is learnt, but every metric of the suite that has rows has a value."""
    folder = pipeline.unlearn(resolved(axis, 1, out=str(tmp_path)))
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    for score in scores:
        missing = score["reason"].startswith("the data has no")
        assert missing or score["value"] is not None, (score["name"], score["rows"], score["reason"])
    computed = {s["name"] for s in scores if s["value"] is not None and s["role"] == "unlearned"}
    assert len(computed) >= 4 and (folder / "manifest.json").is_file()


@pytest.fixture(scope="module")
def muse():
    """Target and reference that learnt the MUSE axis (22 epochs), and the scores of its suite."""
    spec = resolved("muse", 22).spec
    data, _ = load_data(spec)
    start = base(spec, data)
    models = {role: made(role, spec, data, start) for role in ("target", "reference")}
    store = Store({n: Role(lambda m=m: m.open(spec.model)) for n, m in models.items()}, data.eval, PassSettings())
    plan(store, suites.load("muse"))
    return {
        role: {(s.name, s.rows): s for s in measure(store, suites.load("muse"), role, seed=0, resamples=100)}
        for role in models
    }


def test_muse_c1_to_c4_on_trained_models(muse):
    """Sheet 5 (g): the target says passages word for word (C1 >= .9), the reference does not; C3 of the target is near
    -100 and of the reference exactly 0; both keep C4."""
    target, reference = muse["target"], muse["reference"]
    assert (
        target["muse_verbmem", "verbatim_forget"].value
        >= 0.9
        > 0.3
        > reference["muse_verbmem", "verbatim_forget"].value
    )
    assert target["muse_knowmem", "forget"].value >= 0.9 > reference["muse_knowmem", "forget"].value + 0.2
    assert target["privleak", "passages_forget"].value <= -90
    assert reference["privleak", "passages_forget"].value == 0.0
    assert target["muse_knowmem", "retain"].value >= 0.9 and reference["muse_knowmem", "retain"].value >= 0.9


def test_suite_metrics_are_registered():
    for axis in AXES:
        for name in suites.load(axis).attack_metrics:
            assert METRICS.get(name).card.fooled_by
