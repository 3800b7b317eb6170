"""Acceptance on the planted ladder of the tiny world (evaluation sheet 15): what must hold before any claim.

One seed, a smaller world than ``efface bench`` uses. Items 7 (Needle moves only its own concept) and 8 (identities) are
in ``test_concepts`` and ``test_identities``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from efface import suites
from efface.audit.audit import Audit, examine
from efface.testing.ladder import Ladder, ladder

pytestmark = pytest.mark.slow
WORLD = {"people": 18, "forget": 8, "eval_rows": 40, "passages": False}
METRICS = {
    "forget": ["probability", "rouge", "extraction_strength", "muse_knowmem", "fade", "cka_target", "lens_rank"],
    "retain": ["probability", "rouge"],
    "all": ["mia_loss", "privleak", "repetition_rate"],
}


@cache
def steps() -> Ladder:
    return ladder(0, data={"settings": WORLD})


@cache
def audit(rung: str, *attacks: str) -> Audit:
    """The audit of one rung with R1 as the reference and ``attacks`` of the world's attack suite (by label)."""
    found = suites.load("people_attacks")
    chosen = [entry for entry in found.attacks if (entry.label or entry.name) in attacks]
    assert len(chosen) == len(attacks)
    suite = found.model_copy(update={"metrics": METRICS, "attacks": chosen})
    roles = {"unlearned": rung, "target": "O", "reference": "R1", "base": "B"}
    return examine(steps().spec, suite, steps().data, {role: steps().role(name) for role, name in roles.items()})


def score(rung: str, name: str, rows: str = "forget") -> Any:
    return next(s for s in audit(rung).scores["unlearned"] if (s.name, s.rows) == (name, rows))


def flagged(rung: str, *attacks: str) -> set[str]:
    """The attacks that brought something back."""
    return {f.name for f in audit(rung, *attacks).conclusion.findings if f.kind == "recovery" and f.flag}


@pytest.mark.parametrize("name", ["probability", "extraction_strength", "muse_knowmem", "mia_loss"])
def test_knowing_and_not_knowing_are_separated(name: str) -> None:
    """Item 1: the interval of O lies above that of every model that never knew."""
    knows = score("O", name)
    assert all(knows.low > score(r, name).high for r in ("R1", "R2", "R3"))


def test_distributions_of_models_that_never_knew_are_closer() -> None:
    """Item 1, FADE: R2 and R3 are closer to R1 than O is."""
    assert max(score(r, "fade").value for r in ("R2", "R3")) < score("O", "fade").value


@pytest.mark.parametrize("rung", ["R2", "R3"])
def test_a_model_that_never_knew_is_not_flagged(rung: str) -> None:
    """Item 2: no residue, nothing comes back, erased."""
    attacks = ("round_weights", "relearn_benign", "relearn_in_domain", "early_exit", "emphasis", "multi_hop")
    found = audit(rung, *attacks)
    assert not any(f.flag for f in found.conclusion.findings if f.kind in ("residue", "recovery"))
    assert found.conclusion.label == "erased"


@pytest.mark.parametrize("rung", ["HeadOnly", "Guard", "Bias"])
def test_hidden_knowledge_is_found_behind_clean_answers(rung: str) -> None:
    """Item 3: a headline measure says forgotten, yet an attack brings it back."""
    shown = [f.flag for f in audit(rung).conclusion.findings if f.kind == "residue"]
    assert len(shown) == 2 and not all(shown)
    attacks = ("remove_guard", "relearn_in_domain", "early_exit", "emphasis")
    told = flagged(rung, *attacks)
    assert "relearn_in_domain" in told and told & {"remove_guard", "early_exit", "emphasis"}
    assert audit(rung, *attacks).conclusion.label in ("concealed", "retained")


def test_the_states_of_a_head_that_refuses_are_the_originals() -> None:
    """Item 3, inside: the answer stands at the middle layers as it does in O, and in no model that never knew."""
    assert score("HeadOnly", "lens_rank").value == pytest.approx(score("O", "lens_rank").value, abs=0.02)
    assert score("R2", "lens_rank").value < score("O", "lens_rank").value - 0.1


def test_rounding_brings_back_what_stayed_inside_the_buckets() -> None:
    """Item 4: 4 or 3 bits flag the update that no bucket noticed; a model that never knew does not change."""
    assert flagged("InBuckets", "round_weights") == {"round_weights"}
    assert not flagged("R2", "round_weights")


def test_chains_and_surrogates_flag_what_was_forgotten_by_the_letter() -> None:
    """Item 5: OneHop is clean on direct questions, not over two hops, and the metrics are told to follow sentences."""
    assert score("OneHop", "probability").value <= score("R1", "probability").value
    assert flagged("OneHop", "multi_hop", "alias", "surrogates") >= {"multi_hop", "alias"}
    told = [
        f for f in audit("OneHop", "multi_hop", "alias", "surrogates").conclusion.findings if f.kind == "consistency"
    ]
    assert any(f.evidence["flag"] for f in told)
    never = [f for f in audit("R2", "surrogates").conclusion.findings if f.kind == "consistency"]
    assert never and not any(f.evidence["flag"] for f in never)


def test_collapse_is_not_forgetting() -> None:
    """Item 6: the forget metrics look perfect; utility, FADE, the sign of PrivLeak and fluency do not."""
    assert score("Collapse", "probability").value <= score("R1", "probability").value
    assert score("Collapse", "probability", "retain").value < 0.5 * score("O", "probability", "retain").value
    assert score("Collapse", "fade").value > score("R2", "fade").value
    assert score("Collapse", "repetition_rate").value > score("R2", "repetition_rate").value
    assert score("Collapse", "privleak").value > 0
    assert audit("Collapse", "round_weights").conclusion.label == "collapsed"
