"""A model that hides its logits: what reads them is skipped by name, generated answers are still measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from efface import suites
from efface.audit.attacks import Runner
from efface.audit.audit import examine
from efface.audit.roles import PassSettings, Role
from efface.errors import NeedsError
from efface.models.base import Output
from efface.models.causal_lm import CausalLM
from efface.passes.generate import GenerateSettings
from efface.passes.score import NO_LOGITS, score
from efface.suites import AttackEntry, Suite
from efface.testing.bench import Bench, bench

SKIPPED = ("relearn", "steer", "soft_prompt")
ENTRIES = [AttackEntry(name=name) for name in ("paraphrase", "round_weights", *SKIPPED)]


class Silent(CausalLM):
    """A guard that gives answers and no logits."""

    def forward(self, batch, **options):
        return replace(super().forward(batch, **options), logits=None)

    def identity(self):
        return super().identity() | {"kept": type(self).__name__}


class Mute(Silent):
    """One that cannot be asked either."""

    def forward(self, batch, **options):
        return Output(None, {})

    def call(self, **inputs):
        return replace(super().call(**inputs), logits=None)

    def _check_tree(self, ids):
        self._tree = True


@pytest.fixture(scope="module")
def b() -> Bench:
    return bench("causal_lm")


def behind(model: CausalLM, guard: type[CausalLM] = Silent) -> CausalLM:
    return guard(model.module, model.tokenizer, compute="fp32")


def run(b: Bench, entry: AttackEntry, *metrics: str):
    suite = Suite(name="x", metrics={}, attack_metrics=list(metrics))
    roles = {name: Role(lambda n=name: b.model(n)) for name in ("target", "reference")}
    roles["unlearned"] = Role(lambda: behind(b.model("target")))
    return Runner(roles, b.data, suite, PassSettings(8), seed=0, resamples=20, cache=None).run(entry)


def test_scores_are_refused_by_name(b: Bench) -> None:
    rows = list(b.data.eval["forget"][:4])
    with pytest.raises(NeedsError) as caught:
        score(behind(b.model("target")), rows)
    assert caught.value.code == "model.hides-logits" and caught.value.cause and caught.value.fix
    with pytest.raises(NeedsError):
        score(behind(b.model("target"), Mute), rows, generate=GenerateSettings(max_new_tokens=4))


def test_answers_are_those_of_the_same_model_without_the_guard(b: Bench) -> None:
    rows, settings = list(b.data.eval["forget"][:12]), GenerateSettings(max_new_tokens=8)
    answers = ("answer", "answer_paraphrase")
    hidden, shown = (
        score(m, rows, answers=answers, generate=settings) for m in (behind(b.model("target")), b.model("target"))
    )
    assert hidden.generations["ids"].to_pylist() == shown.generations["ids"].to_pylist()
    assert hidden.tokens["variant"].to_pylist() == shown.tokens["variant"].to_pylist()
    assert set(hidden.tokens["problem"].to_pylist()) == {NO_LOGITS} and not any(hidden.tokens["lp"].to_pylist())


@pytest.mark.parametrize("name", ["paraphrase", "first_token", "round_weights"])
def test_an_attack_that_is_read_by_log_probs_is_skipped_by_name(b: Bench, name: str) -> None:
    """One of each threat model."""
    result = run(b, AttackEntry(name=name), "probability")
    assert not result.curves and "attack.nothing-measured" in result.reason and "hides its logits" in result.reason


@pytest.mark.parametrize("name", ["paraphrase", "round_weights"])
def test_an_attack_that_is_read_by_answers_goes_on(b: Bench, name: str) -> None:
    result = run(b, AttackEntry(name=name), "probability", "rouge")
    assert not result.reason
    for point in result.curves["unlearned"].points:
        probability, rouge, *_ = point["scores"]
        assert probability["value"] is None and probability["reason"] and rouge["value"] is not None


@pytest.mark.parametrize("name", SKIPPED)
def test_an_attack_that_needs_the_logits_is_skipped_by_name(b: Bench, name: str) -> None:
    result = run(b, AttackEntry(name=name), "rouge")
    assert not result.curves and "hides its logits" in result.reason


@pytest.mark.parametrize("guard", [Silent, Mute])
def test_the_audit_ends_with_a_conclusion(b: Bench, guard: type[CausalLM]) -> None:
    metrics = ["probability", "rouge", "truth_ratio"]
    sets = {"forget": metrics, "retain": metrics, "all": ["weights_moved"]}
    suite = suites.load("people").model_copy(
        update={"metrics": sets, "attack_metrics": ["probability", "rouge"], "attacks": ENTRIES}
    )
    roles = {name: Role(lambda n=name: b.model(n)) for name in ("target", "reference")}
    found = examine(b.spec, suite, b.data, {"unlearned": Role(lambda: behind(b.model("target"), guard)), **roles})
    scores = {(s.name, s.rows): s for s in found.scores["unlearned"]}
    assert scores["probability", "forget"].value is None and NO_LOGITS in scores["probability", "forget"].reason
    assert (scores["rouge", "forget"].value is not None) == (guard is Silent)
    reasons = {a.label: a.reason for a in found.attacks}
    skipped = set(SKIPPED if guard is Silent else reasons)
    assert skipped == {label for label, reason in reasons.items() if "hides its logits" in reason}
    assert found.conclusion.label and all(any(name in text for text in found.conclusion.limits) for name in skipped)
