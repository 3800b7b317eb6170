"""Rounding by hand; what relearning trains on and what it is tested on."""

from __future__ import annotations

import pytest
import torch

from efface.attacks.base import AttackContext
from efface.attacks.relearn import Relearn, overlap
from efface.attacks.round_weights import RoundWeights
from efface.data.rows import Row
from efface.models.rounding import round_tensor, roundable
from efface.testing.battery import digest, mean_log_prob
from efface.testing.bench import bench


def test_rounding_by_hand() -> None:
    """max|w| = 8, 3 bits: step 8 / 4 = 2, codes -4 .. 3. 8 -> code 4, clipped to 3 -> 6; -8 -> -8; 3.2 -> 4; 0.9 -> 0;
    1.1 -> 2."""
    w = torch.tensor([[8.0, -8.0, 3.2, 0.9, 1.1]])
    assert round_tensor(w, 3, -1).tolist() == [[6.0, -8.0, 4.0, 0.0, 2.0]]


def test_groups_and_rows_have_their_own_step() -> None:
    """4 bits, groups of 2: steps 8/8 = 1 and 0.8/8 = 0.1; per row: one step of 1."""
    w = torch.tensor([[8.0, 2.4, 0.8, 0.24]])
    assert round_tensor(w, 4, 2)[0].tolist() == pytest.approx([7.0, 2.0, 0.7, 0.2])
    assert round_tensor(w, 4, 0)[0].tolist() == pytest.approx([7.0, 2.0, 1.0, 0.0])


def test_short_last_group_keeps_its_shape() -> None:
    w = torch.randn(3, 70)
    assert round_tensor(w, 8, 64).shape == w.shape and torch.equal(
        round_tensor(w, 8, 64)[:, 64:], round_tensor(w[:, 64:], 8, 0)
    )


def test_embeddings_and_norms_are_not_rounded() -> None:
    model = bench("causal_lm").model("target")
    names = set(roundable(model))
    assert names and not names & set(model.head_parameters()) and all("norm" not in n for n in names)


def test_rounding_starts_from_the_same_weights_each_time() -> None:
    """3 bits after 8 bits equals 3 bits alone, and few bits cost more than many."""
    b = bench("causal_lm")

    def weights(bits):
        context = AttackContext(b.model("target"), b.data)
        out = []
        for point in RoundWeights(bits=bits).points(context):
            out.append((digest(point.adapter), mean_log_prob(point.adapter, list(b.data.eval["forget"]))))
        return out

    both, alone = weights((8, 3)), weights((3,))
    assert both[1] == alone[0] and both[0][1] > both[1][1]


def test_in_domain_facts_are_disjoint() -> None:
    data = bench("causal_lm").data
    attack = Relearn(data="in_domain")
    tested, trained = attack.measured(data)["forget"], attack._rows(data)
    assert tested and trained and not {r.fact for r in tested} & {r.fact for r in trained}
    assert {r.entity for r in tested} == {r.entity for r in trained} and not overlap(trained, tested)


def test_benign_rows_name_nobody_forgotten() -> None:
    data = bench("causal_lm").data
    attack = Relearn(data="benign")
    names = {r.entity.lower() for r in data.eval["forget"]}
    rows = attack._rows(data)
    assert rows and all(name not in f"{r.prompt} {r.answer}".lower() for r in rows for name in names)
    assert len(attack.measured(data)["forget"]) == len(data.eval["forget"])


def test_overlap_finds_answers_and_questions() -> None:
    tested = [Row("t", "He was born in Oslo.", "Where was he born?")]
    rows = [
        Row("a", "Yes: he was born in OSLO!", "What do you know?"),
        Row("b", "x", "Where was he born?"),
        Row("c", "He lives in Rome.", "Where?"),
    ]
    assert overlap(rows, tested) == ["a", "b"]


def test_relearning_brings_back_what_it_trains_on() -> None:
    """Control of the attack itself: the reference learns the trained rows, and the original is untouched."""
    b = bench("causal_lm")
    attack = Relearn(data="in_domain", steps=(2, 16))
    start = b.model("reference")
    before, rows = digest(start), attack._rows(b.data)
    points = [
        (p.budget["steps"], mean_log_prob(p.adapter, rows))
        for p in attack.points(AttackContext(start.clone(), b.data, built_with=b.spec.target.train))
    ]
    assert (
        [s for s, _ in points] == [2, 16]
        and points[1][1] > mean_log_prob(start, rows) + 0.5
        and digest(start) == before
    )
