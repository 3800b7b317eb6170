"""Every registered method and attack runs through the shipped battery."""

from __future__ import annotations

import pytest

from efface.attacks.base import ATTACKS
from efface.methods.base import METHODS
from efface.testing.battery import ATTACK_CHECKS, METHOD_CHECKS, families
from efface.testing.bench import bench


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", METHODS.names())
def test_method(name: str, check) -> None:
    for family in families(name):
        check(name, bench(family))


@pytest.mark.parametrize("check", ATTACK_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", ATTACKS.names())
def test_attack(name: str, check) -> None:
    for family in ATTACKS.get(name).families:
        check(name, bench(family))
