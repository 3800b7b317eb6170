"""Continuous decoding: rows come and go, answers stay what they are one by one."""

from __future__ import annotations

import pytest
import torch

from efface.models.decoding import Decoder, Pending, growing, prefill
from efface.testing.bench import bench


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


def answers(model, rows, group: int, least: int = 0) -> dict[int, tuple[list[int], str]]:
    """Greedy answers with at most ``group`` rows at once."""
    prompts = [list(model.encode(row, answers=()).payload.prompt) for row in rows]
    decoder, done = Decoder(model, 10, group=group), {}
    with model.evaluating():
        for k in range(0, len(rows), 3):
            part = range(k, min(k + 3, len(rows)))
            decoder.waiting += prefill(model, [Pending(i, prompts[i], len(prompts[i]), None) for i in part])
            done |= {row.place: (row.ids[row.start :], end) for row, end in decoder.run(least)}
        done |= {row.place: (row.ids[row.start :], end) for row, end in decoder.run()}
    return done


@pytest.mark.parametrize(("group", "least"), [(2, 0), (4, 3), (64, 64)])
def test_company_changes_no_answer(b, group: int, least: int) -> None:
    """Rows that wait, join and leave give what they give alone."""
    model, rows = b.model("reference"), b.data.eval["forget"][:9]
    alone = answers(model, rows, group=1)
    assert answers(model, rows, group, least) == alone
    assert {end for _, end in alone.values()} <= {"stop", "length"} and len(alone) == len(rows)


def test_a_growing_layer_keeps_what_a_plain_one_keeps() -> None:
    """Appending and dropping rows: the same keys and values as by concatenation."""
    from transformers.cache_utils import DynamicLayer

    torch.manual_seed(0)
    start = torch.randn(3, 2, 5, 4)
    plain = DynamicLayer()
    plain.update(start, -start)
    mine = growing(plain)
    keys = start
    for step in range(70):  # past the room that a buffer has
        new = torch.randn(len(keys), 2, 1, 4)
        keys = torch.cat([keys, new], 2)
        mine.update(new, -new)
        if step == 40:
            keys = keys[[0, 2]]
            mine.batch_select_indices(torch.tensor([0, 2]))
    assert torch.equal(mine.keys, keys) and torch.equal(mine.values, -keys)
    assert mine.get_seq_length() == 75
