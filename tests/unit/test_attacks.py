"""Rounding by hand; what relearning trains on and what it is tested on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from efface.attacks.base import AttackContext
from efface.attacks.relearn import Relearn, overlap
from efface.attacks.relearn_rows import most_similar
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


def test_the_most_similar_questions_by_hand() -> None:
    """Of "where was ada born": 4 words, 3 pairs and 2 triples, 9 in all. "where was kim born" shares 3 words and a pair
    of 14; "where was kim" 2 words and a pair of 12; "ada" one word of 9."""
    forgotten = [Row("f", "In Oslo.", "Where was Ada born?")]
    asked = {"a": "Ada?", "b": "Where was Kim?", "c": "Who sings?", "d": "Where was Kim born?", "e": "Where was Kim?"}
    rows = [Row(name, "In Rome.", question) for name, question in asked.items()]
    assert [r.id for r in most_similar(rows, forgotten)] == ["d", "b", "e", "a", "c"]


def test_similar_benign_rows_are_worded_as_what_was_forgotten_and_tell_nothing() -> None:
    """The world asks the same questions about everybody; half of the retained ones have theirs turned round."""
    data = bench("causal_lm").data
    odd = [replace(r, id=f"odd/{r.id}", prompt=" ".join(r.prompt.split()[::-1])) for r in data.train["retain"]]
    tested = data.eval["forget"]
    leak = replace(tested[0], id="leak", entity="")
    mixed = replace(data, train=data.train | {"retain": [leak, *odd, *data.train["retain"]]})
    chosen = {order: Relearn(data="benign", rows=8, order=order)._rows(mixed) for order in ("spread", "similar")}
    assert [sum(r.id.startswith("odd/") for r in rows) for rows in chosen.values()] == [4, 0]
    assert len(chosen["similar"]) == 8 and not overlap(chosen["similar"], tested)
    names = {r.entity.lower() for r in tested}
    assert all(name not in f"{r.prompt} {r.answer}".lower() for r in chosen["similar"] for name in names)


@pytest.mark.parametrize("settings", [{"data": "in_domain", "rows": 4}, {"data": "benign"}])
def test_an_order_that_would_choose_nothing_is_refused(settings: dict) -> None:
    data = bench("causal_lm").data
    assert "relearn.order" in Relearn(order="similar", **settings).check(data)
    assert not Relearn(**settings).check(data) and not Relearn(data="benign", rows=4, order="similar").check(data)


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
