"""Suites: labels of attacks become folders of the record, so they are names and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from efface import suites
from efface.errors import SpecError


def load(folder: Path, *attacks: dict[str, str]) -> suites.Suite:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "metrics": {"forget": ["rouge"]}, "attacks": list(attacks)}))
    return suites.load(str(path))


@pytest.mark.parametrize(
    "label", ["../x", "a/b", "..", ".hidden", "a\\b", "C:x", "a b", "a\nb", "ü", "x" * 81, "a\0b", "~"]
)
def test_a_label_that_is_no_plain_name_is_refused(tmp_path: Path, label: str) -> None:
    for entry in ({"name": "relearn", "label": label}, {"name": label, "label": "fine"}, {"name": label}):
        with pytest.raises(SpecError) as caught:
            load(tmp_path, entry)
        assert caught.value.code == "suite.bad-label" and "letters" in caught.value.fix


@pytest.mark.parametrize("label", ["relearn", "round-4.bits_2", "-x", "x" * 80, "a..b"])
def test_a_plain_label_is_taken(tmp_path: Path, label: str) -> None:
    assert load(tmp_path, {"name": "relearn", "label": label}).attacks[0].label == label


def test_two_attacks_with_one_folder_are_refused(tmp_path: Path) -> None:
    """A label may not repeat another label or the name of an attack without one, upper case or not."""
    for pair in (
        [{"name": "relearn"}, {"name": "relearn"}],
        [{"name": "relearn", "label": "a"}, {"name": "round_weights", "label": "A"}],
        [{"name": "relearn"}, {"name": "round_weights", "label": "relearn"}],
    ):
        with pytest.raises(SpecError, match=r"suite\.bad-label.*two attacks"):
            load(tmp_path, *pair)
    kept = load(tmp_path, {"name": "relearn", "label": "a"}, {"name": "relearn", "label": "b"})
    assert [entry.label for entry in kept.attacks] == ["a", "b"]


@pytest.mark.parametrize("name", suites.names())
def test_built_in_suites_load(name: str) -> None:
    assert suites.load(name).name == name


def test_a_suite_brings_the_rows_it_is_made_for() -> None:
    """Where a suite is named and no data; what the user names, and a request, win."""
    from efface.spec import resolve

    def benchmark(**given) -> str:
        return resolve(("command line", given)).spec.data.benchmark

    assert benchmark(audit={"suite": "tofu_attacks"}) == "tofu" and benchmark(audit={"suite": "full_stack"}) == "people"
    assert benchmark(audit={"suite": "tofu"}, data={"benchmark": "people"}) == "people"
    assert benchmark(audit={"suite": "tofu"}, request="request.json") == "people"
    origins = resolve(("command line", {"audit": {"suite": "tofu_full"}})).origins
    assert origins["data.benchmark"] == "suite tofu_full"
    from efface.data.benchmarks.base import BENCHMARKS

    made_for = {name: suites.load(name).benchmark for name in suites.names()}
    assert set(made_for.values()) - {""} <= set(BENCHMARKS.names())
