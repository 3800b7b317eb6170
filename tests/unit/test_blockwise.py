"""Attention by blocks equals attention over the whole square, and reads only keys that are seen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from efface.models import blockwise
from efface.models.kernels import using_attention
from efface.models.packing import tree_mask
from efface.testing.bench import bench

MODULE = SimpleNamespace(is_causal=True, num_key_value_groups=2)


def tree(rows: int, prompt: int, branch: int, branches: int, pad: int) -> torch.Tensor:
    """Bool[rows, 1, T, T] of equal trees, each a little shorter than the one before."""
    line = [-1] * prompt + [b for b in range(branches) for _ in range(branch)]
    return tree_mask(torch.tensor([line[: len(line) - r * pad] + [-2] * (r * pad) for r in range(rows)]))


@pytest.mark.parametrize(("prompt", "branch", "branches", "pad"), [(20, 30, 5, 3), (70, 10, 2, 1), (3, 200, 1, 7)])
def test_equals_the_whole_square(prompt: int, branch: int, branches: int, pad: int) -> None:
    torch.manual_seed(0)
    mask = tree(3, prompt, branch, branches, pad)
    size = mask.shape[-1]
    q, k, v = (torch.randn(3, heads, size, 8) for heads in (4, 2, 2))
    found, _ = blockwise.attention(MODULE, q, k, v, mask, scaling=0.3)
    whole = F.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=mask, scale=0.3
    )
    assert torch.allclose(found, whole.transpose(1, 2), atol=1e-6)


def test_keys_that_no_query_of_a_block_sees_are_not_read() -> None:
    """Prompt 20, five branches of 30: the last block of queries (128 to 169) sees the prompt and 110 to 169."""
    blocks = blockwise.plan(tree(2, 20, 30, 5, 0))
    assert [(start, end) for start, end, _, _ in blocks] == [(0, 64), (64, 128), (128, 170)]
    assert blocks[-1][2].tolist() == [*range(20), *range(110, 170)]


def test_a_real_forward_takes_it_and_gives_the_same() -> None:
    """Log-probs of the tiny model in the tree layout, by blocks and by the whole square."""
    b = bench("causal_lm")
    model = b.model("target")
    encoded = [model.encode(r, answers=("answer", "answer_paraphrase", "wrong")) for r in b.data.eval["forget"]]
    batch = model.collate(encoded, range(len(encoded)))
    assert batch.inputs["input_ids"].shape[1] > blockwise.BLOCK
    with model.evaluating(), torch.no_grad():
        assert model.hf.config._attn_implementation == blockwise.NAME
        blockwise._Last.mask = None
        mine = model.forward(batch).logits
        assert blockwise._Last.mask is not None
        with using_attention(model.hf, "sdpa"):
            whole = model.forward(batch).logits
    assert torch.allclose(mine, whole, atol=1e-4)
