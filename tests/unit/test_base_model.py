"""A "base" that is the target itself has seen the forget rows: nothing may be retrained from it and called exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from efface import build, refusing
from efface.errors import NeedsError
from efface.spec import resolve
from efface.testing.bench import bench


def spec(folder: Path, **given):
    values = {
        "model": {"name": str(folder)},
        "target": {"kind": "folder", "path": str(folder)},
        "reference": {"kind": "none"},
        "data": {"benchmark": "people"},
    }
    return resolve(("test", values | given)).spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models") / "mine"
    bench("causal_lm").model("target").save(place)
    return place


def test_the_target_is_no_base(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert build.base_is_target(spec(folder)) and build.base_is_target(
        spec(link, target=spec(folder).target.model_dump())
    )
    assert build.base_is_target(spec(folder, target={"kind": "none"}))
    assert not build.base_is_target(spec(folder, model={"name": "tiny"}))


def test_retrain_from_the_target_is_refused(folder: Path) -> None:
    given = spec(folder, method={"name": "retrain"})
    data, _, _ = refusing.refuse_early(given)
    with pytest.raises(NeedsError, match=r"method\.needs-base"):
        refusing.method_for(given, data)
    with_base = given.model_copy(update={"model": given.model.model_copy(update={"name": "tiny"})})
    assert refusing.method_for(with_base, data).name == "retrain"


@pytest.mark.parametrize("target", [None, {"kind": "none"}])
def test_a_reference_trained_from_the_target_is_refused(folder: Path, target) -> None:
    change = {"reference": {"kind": "train"}} | ({"target": target} if target else {})
    with pytest.raises(NeedsError, match=r"reference\.base-knows"):
        refusing.refuse_early(spec(folder, **change))


def test_several_processes_do_not_build_a_model_together(folder: Path, monkeypatch) -> None:
    given = spec(folder, reference={"kind": "train"}, model={"name": "tiny"}, seed=987)
    data, _, _ = refusing.refuse_early(given)
    monkeypatch.setattr(build, "world", lambda: (1, 2))
    with pytest.raises(NeedsError, match=r"models\.one-process"):
        build.made("reference", given, data, build.base(given, data))


def test_an_audit_from_python_takes_the_folder_as_its_model(folder: Path) -> None:
    """As the command line does: no target and no reference but those that are named."""
    from efface import api

    plan = api.check({"data": {"benchmark": "people"}}, folder)
    assert plan["model"] == str(folder) and plan["parameters"] < 1_000_000
    assert any("no target model" in line for line in plan["not_computed"])
    assert api.check({"model": {"name": "tiny"}, "data": {"benchmark": "people"}}, folder)["model"] == "tiny"


def test_a_rule_left_to_the_method_makes_no_other_model(folder: Path, monkeypatch) -> None:
    """Plain training has the plain sum: naming it, or not, gives one cache entry; another rule gives another."""
    places = []

    def noted(place: Path, make) -> Path:
        places.append(place.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "publish", noted)
    given = spec(folder, model={"name": "tiny"})
    start = build.Made(folder, "folder", "key")
    for rule in (None, "sum", "sam"):
        source = given.target.model_copy(update={"train": given.target.train.model_copy(update={"rule": rule})})
        with pytest.raises(KeyboardInterrupt):
            build.trained("target", given, [], source, start)
    assert places[0] == places[1] != places[2]
