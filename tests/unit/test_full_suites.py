"""Suites with everything on: at most twice the passes of the plain one, and nothing is computed twice."""

from __future__ import annotations

import pytest
import torch

from efface import suites
from efface.audit.measure import measure, plan
from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.checking import not_computed
from efface.metrics.base import METRICS
from efface.passes.cache import Cache
from efface.suites import Suite
from efface.testing.bench import bench

ROLES = ("reference", "target", "unlearned")
EXTRA = ("base_log_prob",)  # fluency, which is none of the metrics that the bound is stated for: one pass a role


def model(role: str):
    """The unlearned model is the target with one weight moved, so that its tables are its own."""
    found = bench("causal_lm").model("reference" if role == "reference" else "target")
    if role == "unlearned":
        with torch.no_grad():
            next(iter(found.blocks[0].parameters())).view(-1)[0] += 0.01
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("tables"))


def audit(suite: Suite, cache: Cache | None = None, *, base: bool = False) -> tuple[int, list]:
    """(passes, scores of the unlearned model) of one suite on the tiny world, every role measured; ``base``: with the
    base model as a control."""
    b = bench("causal_lm")
    roles = {name: Role(lambda n=name: model(n)) for name in ROLES}
    roles |= {"base": Role(lambda: b.model("base"))} if base else {}
    settings = PassSettings(suite.max_new_tokens)
    store = Store(roles, b.data.eval, settings, cache, world=b.data.world)
    plan(store, suite)
    found = [measure(store, suite, role, seed=0, resamples=100) for role in ROLES]
    return store.passes, found[-1]


def with_one_more(suite: Suite, rows: str, name: str) -> Suite:
    return suite.model_copy(update={"metrics": suite.metrics | {rows: [*suite.metrics[rows], name]}})


def test_everything_on_costs_at_most_twice_the_passes(cache: Cache) -> None:
    """Three roles: five scored sets and the weights each, 18 passes; everything on, 36 at most. What is not computed
    says why, and only what this world lacks is not."""
    plain, _ = audit(suites.load("people"))
    full, scores = audit(suites.load("people_full"), cache)
    assert full <= 2 * plain
    missing = {s.name: s.reason for s in scores if s.value is None}
    assert set(missing) == {"base_log_prob"} and "no base model" in missing["base_log_prob"]
    suite = suites.load("people_full").model_copy(update={"attacks": []})
    early = not_computed({*ROLES}, bench("causal_lm").data, suite)
    assert {line.partition(":")[0] for line in early} == set(missing)


def test_it_holds_with_the_base_model_as_a_control() -> None:
    """Plain: its answers on forget and holdout rows besides, 20 passes; everything on, 40 at most."""
    full = suites.load("people_full")
    listed = {rows: [n for n in names if n not in EXTRA] for rows, names in full.metrics.items()}
    plain, _ = audit(suites.load("people"), base=True)
    assert audit(full.model_copy(update={"metrics": listed}), base=True)[0] <= 2 * plain
    assert audit(full, base=True)[0] <= 2 * plain + len(EXTRA) * len(ROLES)


def test_a_repeated_audit_computes_nothing_and_one_more_metric_only_itself(cache: Cache) -> None:
    """From the cache: no pass; a metric whose table is there: no pass; one that needs new hidden states: one a role;
    one that reads the neighbours in other words: one a role."""
    full = suites.load("people_full")
    audit(full, cache)
    assert audit(full, cache)[0] == 0
    assert audit(with_one_more(full, "forget", "top_hit"), cache)[0] == 0
    assert audit(with_one_more(full, "neighbour", "knn_accuracy"), cache)[0] == len(ROLES)
    assert audit(with_one_more(full, "neighbour", "probability_paraphrased_question"), cache)[0] == len(ROLES)


@pytest.mark.parametrize("name", ["people", "tofu"])
def test_the_full_suite_holds_the_plain_one(name: str) -> None:
    plain, full = suites.load(name), suites.load(f"{name}_full")
    for rows, names in plain.metrics.items():
        assert set(names) <= set(full.metrics[rows]), rows
    asked = {metric for names in full.metrics.values() for metric in names}
    assert all(METRICS.get(metric) for metric in asked)
    assert {"cka_reference", "concept_cosine", "key_word_mass", "muse_knowmem", "privleak", "fade", "h_lr"} <= asked
