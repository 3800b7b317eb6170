"""Attention by blocks equals attention over the whole square, and reads only keys that are seen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from efface.data.rows import Row
from efface.models import blockwise
from efface.models.causal_lm import CausalLM
from efface.models.kernels import using_attention
from efface.models.packing import tree_mask
from efface.models.tiny import build_tokenizer
from efface.testing.battery import outputs
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


def test_a_model_that_caps_its_scores_keeps_its_own_attention() -> None:
    """Gemma 2 squashes attention scores (soft cap), which sdpa cannot: eager inside ``evaluating`` too, and the
    log-probs of the plain forward, on a row of fewer and one of more than ``BLOCK`` tokens."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    word = "north south east west "
    rows = [Row("short", "It is west.", "Which way?"), Row("long", word * 30 + "end.", "Say a lot.")]
    tokenizer = build_tokenizer([text for row in rows for text in (row.prompt, row.answer)], vocab=300)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 16, "query_pre_attn_scalar": 1}
    layout = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=len(tokenizer), attn_logit_softcapping=0.5, **sizes, **layout)
    config._attn_implementation = "eager"
    module = Gemma2ForCausalLM(config)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(8)  # scores large enough for the cap to tell
    model = CausalLM(module, tokenizer, compute="fp32")
    texts = [model.encode(row).payload for row in rows]
    assert texts[0].longest < blockwise.BLOCK < texts[1].longest
    with model.evaluating():
        assert model.hf.config._attn_implementation == "eager"
    for found, text in zip((outputs(model, [row])[0] for row in rows), texts, strict=True):
        ids = torch.tensor([[*text.prompt, *text.branches[0]]])
        with torch.no_grad():
            lp = module.eval()(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        assert found == pytest.approx(lp[len(text.prompt) - 1 :].tolist(), abs=1e-4)
