"""Curves of attacks: where they end, what is kept of them, under which key, and what a failed attack leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from efface.attacks.base import ATTACKS, Attack, AttackContext, AttackPoint
from efface.audit import attacks as running
from efface.audit.attacks import Runner
from efface.audit.roles import PassSettings, Role
from efface.errors import DataError
from efface.passes import score as score_pass
from efface.passes.registry import PASSES
from efface.suites import AttackEntry, Suite
from efface.testing.bench import Bench, bench


@pytest.fixture(scope="module")
def b() -> Bench:
    return bench("causal_lm")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The time that the runner reads; it stands still unless an attack moves it."""
    now = {"now": 0.0}
    read = SimpleNamespace(monotonic=lambda: now["now"], perf_counter=lambda: 0.0)
    monkeypatch.setattr(running, "time", read)
    return now


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]) -> dict[str, str]:
    """{role: its points}, run by the attack "scripted": "p" a point, "q" a quiet one. Measuring one takes a second, one
    in capitals ten; "measured" tells which were."""
    plan = {"measured": "", "next": "unlearned"}
    once = Runner._attacked

    class Scripted(Attack):
        name, families, controls = "scripted", ("causal_lm",), ("reference",)

        def points(self, context: AttackContext) -> Iterator[AttackPoint]:
            role, plan["next"] = plan["next"], "reference"
            for step, kind in enumerate(plan[role], start=1):
                budget = {"steps": step, "kind": ord(kind)}
                yield AttackPoint(budget, "steps", context.adapter, best=True, quiet=kind in "qQ")

    def measure(self: Runner, point: AttackPoint, *rest):
        kind = chr(int(point.budget["kind"]))
        plan["measured"] += kind
        clock["now"] += 10.0 if kind.isupper() else 1.0
        return once(self, point, *rest)

    monkeypatch.setattr(Runner, "_attacked", measure)
    ATTACKS.names()
    monkeypatch.setitem(ATTACKS._items, "scripted", Scripted)
    return plan


def runner(b: Bench, cache: Path | None = None, metrics: tuple[str, ...] = ("probability",), **more) -> Runner:
    """The target as the unlearned model, with the reference as a control."""
    suite = Suite(name="x", metrics={}, attack_metrics=list(metrics))
    roles = {"unlearned": Role(lambda: b.model("target")), "reference": Role(lambda: b.model("reference"))}
    return Runner(roles | more, b.data, suite, PassSettings(8), seed=0, resamples=20, cache=cache)


def lengths(result) -> dict[str, int]:
    """Points of each role, point 0 left out."""
    return {role: len(curve.points) - 1 for role, curve in result.curves.items()}


def kept(cache: Path) -> int:
    return len(list(cache.rglob("*.json")))


@pytest.mark.parametrize("points", ["P", "pP"])
def test_a_curve_that_overruns_with_its_last_point_is_whole(b: Bench, scripted, tmp_path: Path, points: str) -> None:
    """Nothing followed that could have been left out: not partial, and both curves are kept."""
    scripted.update(unlearned=points, reference=points)
    result = runner(b, tmp_path).run(AttackEntry(name="scripted"), seconds=9.0)
    assert not result.partial and not result.reason and kept(tmp_path) == 2
    assert lengths(result) == {"unlearned": len(points), "reference": len(points)}


@pytest.mark.parametrize(("control", "cached"), [("p", 1), ("pp", 0)])
def test_a_control_is_cut_where_more_would_follow(b: Bench, scripted, tmp_path, control: str, cached: int) -> None:
    """The unlearned model's second point would come too late. A control that ends after one point is whole."""
    scripted.update(unlearned="Pp", reference=control)
    result = runner(b, tmp_path).run(AttackEntry(name="scripted"), seconds=5.0)
    assert result.partial and lengths(result) == {"unlearned": 1, "reference": 1} and kept(tmp_path) == cached


@pytest.mark.parametrize(("points", "measured"), [("qqpQqp", "qqpQ"), ("QQpqp", "QQp")])
def test_time_runs_out_in_quiet_tries_too(b: Bench, scripted, points: str, measured: str) -> None:
    """A quiet try after the first point takes all the time: none is measured after it. Before the first point they go
    on, so that there is one."""
    scripted.update(unlearned=points, reference="")
    result = runner(b).run(AttackEntry(name="scripted"), seconds=5.0)
    assert result.partial and scripted["measured"] == measured and lengths(result)["unlearned"] == 1


def test_an_attack_whose_data_are_wrong_ends_without_the_audit(b: Bench, scripted, monkeypatch) -> None:
    def refuse(self, context: AttackContext) -> Iterator[AttackPoint]:
        raise DataError("train.no-usable-rows", "None of the 3 forget rows can be trained on.", "shorten the rows.")

    monkeypatch.setattr(ATTACKS.get("scripted"), "points", refuse)
    result = runner(b).run(AttackEntry(name="scripted"))
    assert not result.curves and result.reason.startswith("[train.no-usable-rows] None of the 3")


def test_an_attack_of_which_nothing_can_be_measured_is_skipped_by_name(b: Bench) -> None:
    """A curve's metrics see no other model than the attacked one."""
    result = runner(b, metrics=("base_log_prob",)).run(AttackEntry(name="paraphrase"))
    assert not result.curves and result.reason.startswith("[attack.nothing-measured]") and "base" in result.reason


@pytest.mark.parametrize("roles", [(), ("base",), ("reference",), ("reference", "base")])
def test_the_base_model_is_a_control_that_is_not_missed(b: Bench, scripted, monkeypatch, roles) -> None:
    monkeypatch.setattr(ATTACKS.get("scripted"), "controls", ("reference", "base"))
    scripted.update(unlearned="p", reference="pp")
    given = runner(b)
    given.roles = {"unlearned": given.roles["unlearned"]} | {r: Role(lambda r=r: b.model(r)) for r in roles}
    result = given.run(AttackEntry(name="scripted"))
    assert lengths(result) == {"unlearned": 1} | dict.fromkeys(roles, 2) and not result.partial
    missed = "" if "reference" in roles else "there is no reference model as a control"
    assert result.reason == missed


def test_two_roles_with_the_same_model_are_run_once(b: Bench, scripted, monkeypatch) -> None:
    """The base model is the reference; another one is run."""
    monkeypatch.setattr(ATTACKS.get("scripted"), "controls", ("reference", "base"))
    scripted.update(unlearned="p", reference="qp")
    result = runner(b, base=Role(lambda: b.model("reference"))).run(AttackEntry(name="scripted"))
    base, reference = result.curves["base"], result.curves["reference"]
    assert scripted["measured"] == "pqp" and base.points is reference.points and base.role == "base"
    runner(b, base=Role(lambda: b.model("base"))).run(AttackEntry(name="scripted"))
    assert scripted["measured"] == "pqp" + "qpqpqp"


def test_attacks_that_train_run_on_the_base_model_too() -> None:
    assert all(ATTACKS.get(name).controls == ("reference", "base") for name in ("relearn", "soft_prompt"))


@pytest.mark.parametrize("name", ["sampling", "first_token"])
def test_given_answers_are_scored_once_where_only_decoding_changes(b: Bench, monkeypatch, name: str) -> None:
    """Two tries and point 0: one pass that scores given answers instead of three, and the same values."""
    settings = {"samples": 2} if name == "sampling" else {"choices": 3}
    entry, metrics = AttackEntry(name=name, settings=settings), ("truth_ratio", "rouge", "probability")
    passes, once, real = [], AttackPoint.__init__, score_pass.score

    def counted(adapter, rows, **options):
        passes.append((options["prompt"], options["answers"]))
        return real(adapter, rows, **options)

    def forgetful(self, *args, **options):
        once(self, *args, **options | {"scores_as_before": False})

    def curve() -> list[list[float]]:
        passes.clear()
        (found,) = [c for r, c in runner(b, metrics=metrics).run(entry).curves.items() if r == "unlearned"]
        return [[score["value"] for score in point["scores"]] for point in found.points]

    monkeypatch.setattr(score_pass, "score", counted)
    short, fewer = curve(), list(passes)
    monkeypatch.setattr(AttackPoint, "__init__", forgetful)
    whole = curve()
    assert 3 * len(fewer) == len(passes)
    assert [v for point in short for v in point] == pytest.approx([v for point in whole for v in point], abs=1e-6)


def test_metrics_along_a_curve_know_the_world(b: Bench) -> None:
    """The attribute probe labels its rows by the world."""
    rows = {name: b.data.eval[name] for name in ("forget", "retain")}
    given = runner(b, metrics=("attribute_probe",))
    (found, *_) = given._scores(b.model("target"), rows, None)
    assert found.value is not None and not found.reason


def test_the_key_of_a_curve_holds_the_version_of_every_pass_it_reads(b: Bench, tmp_path: Path, monkeypatch) -> None:
    attack, entry = ATTACKS.get("paraphrase")(), AttackEntry(name="paraphrase")

    def place(metric: str) -> Path | None:
        return runner(b, tmp_path, (metric,))._place(attack, entry, "unlearned")

    before = {metric: place(metric) for metric in ("attribute_probe", "probability")}
    assert before == {metric: place(metric) for metric in before}
    changed = replace(PASSES.get("attribute_states"), version=99)
    monkeypatch.setitem(PASSES._items, "attribute_states", changed)
    assert place("attribute_probe") != before["attribute_probe"] and place("probability") == before["probability"]
    monkeypatch.setattr(running, "SCHEMA_VERSION", 99)
    assert place("probability") != before["probability"]


def test_what_never_knew_is_first_of_all_no_control(b: Bench) -> None:
    role = Role(lambda: b.model("reference"))
    given = runner(b, base=role, reference_2=role)
    names = []
    for gone in ("reference_2", "reference", "base"):
        names.append(given._naive_role())
        del given.roles[gone]
    assert names == ["reference_2", "reference", "base"] and given._naive_role() == "" and given._naive() is None
