"""A bad value is refused with what the setting is, and which values it takes."""

from __future__ import annotations

import pytest

from efface.errors import SpecError
from efface.settings import parse
from efface.spec import RunSpec
from efface.suites import Suite


@pytest.mark.parametrize(
    ("model", "values", "told"),
    [
        (RunSpec, {"seed": "x"}, "seed is: seed of everything random in the run (>= 0, default 0)."),
        (RunSpec, {"model": {"tiny": {"width": 3}}}, "width is: hidden size (>= 8, default 192)."),
        (RunSpec, {"audit": {"minutes": -1}}, "minutes is: time for attacks"),
        (RunSpec, {"target": {"kind": "made"}}, "one of 'train', 'folder', 'none'"),
        (Suite, {"name": "s", "metrics": {}, "attacks": [{"name": 5}]}, "name is: attack (`efface list attacks`)."),
        (RunSpec, {"model": 5}, "model is: the base model."),
        (RunSpec, 5, "give a mapping"),
    ],
)
def test_the_fix_says_what_the_setting_takes(model, values, told: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.bad-value") as error:
        parse(model, values, "")
    assert told in error.value.fix


def test_a_long_value_is_not_printed_whole() -> None:
    with pytest.raises(SpecError) as error:
        parse(RunSpec, {"seed": "x" * 10_000}, "")
    assert len(error.value.cause) < 400
