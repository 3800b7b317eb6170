"""The passes against plain computations: tree layout, numbers per token, greedy answers, sampling, states, cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from efface.data.rows import Row
from efface.models.causal_lm import CausalLM
from efface.models.packing import Text, pack, tree_mask
from efface.passes.batching import batches
from efface.passes.cache import Cache, fingerprint
from efface.passes.generate import GenerateSettings, generate
from efface.passes.gradient import gradient
from efface.passes.hidden import hidden
from efface.passes.score import reduce, score
from efface.passes.weight import weight
from efface.testing.bench import bench

ANSWERS = ("answer", "answer_paraphrase", "wrong")


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


@pytest.fixture(scope="module", params=["base", "target", "reference"])
def model(b, request) -> CausalLM:
    return b.model(request.param)


def rows_of(b) -> list[Row]:
    return [*b.data.eval["forget"][:8], *b.data.eval["world_facts"][:6], *b.data.eval["holdout"][:3]]


def plain(model: CausalLM, row: Row, text: str) -> tuple[torch.Tensor, list[int]]:
    """Float32 log-probs of one (question, answer) pair in a batch of its own, logits everywhere."""
    prompt, answer = (
        model.template.prompt_ids(model.tokenizer, row.prompt),
        model.template.answer_ids(model.tokenizer, text),
    )
    with torch.no_grad():
        logits = model.module(torch.tensor([prompt + answer])).logits[0].float()
    return logits[len(prompt) - 1 : -1].log_softmax(-1), answer


def test_tree_layout_equals_plain_rows(b, model) -> None:
    """All five numbers of every candidate answer, to 1e-4, against one forward per candidate."""
    rows = rows_of(b)
    table = score(model, rows, answers=ANSWERS, token_budget=700).tokens
    by_id = {r.id: r for r in rows}
    assert model.identity()["layout"] == "tree" and table.num_rows == sum(
        1 + bool(r.answer_paraphrase) + len(r.wrong) for r in rows
    )
    for line in table.to_pylist():
        logp, ids = plain(model, by_id[line["row"]], line["text"])
        gold = logp.gather(1, torch.tensor(ids)[:, None]).squeeze(1)
        p = logp.exp()
        mu = (p * logp).sum(-1)
        np.testing.assert_allclose(line["lp"], gold, atol=1e-4)
        np.testing.assert_allclose(line["mu"], mu, atol=1e-3)
        np.testing.assert_allclose(line["sigma"], ((p * logp**2).sum(-1) - mu**2).clamp(min=0).sqrt(), atol=2e-3)
        assert line["hit"] == (logp.argmax(-1) == torch.tensor(ids)).tolist() and line["eos"]
        # a rank may differ by near-ties only
        np.testing.assert_allclose(line["rank"], (logp > gold[:, None]).sum(-1), atol=2)


def test_rows_come_back_in_order_whatever_the_budget(b) -> None:
    model, rows = b.model("target"), rows_of(b)
    wide, narrow = (score(model, rows, token_budget=budget).tokens for budget in (1 << 14, 40))
    assert wide["row"].to_pylist() == narrow["row"].to_pylist() == [r.id for r in rows]
    for a, c in zip(wide["lp"].to_pylist(), narrow["lp"].to_pylist(), strict=True):
        np.testing.assert_allclose(a, c, atol=1e-4)


def test_reduce_by_hand() -> None:
    """Logits log(1, 2, 5): p = 1/8, 2/8, 5/8. Gold 1: lp = log .25, not the argmax, rank 1.
    mu = .125 log .125 + .25 log .25 + .625 log .625 = -.9003."""
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0]]))
    stats = reduce(logits, torch.tensor([1]))
    p = np.array([0.125, 0.25, 0.625])
    mu = (p * np.log(p)).sum()
    assert stats.lp.item() == pytest.approx(np.log(0.25)) and stats.rank.item() == 1 and not stats.hit.item()
    assert stats.mu.item() == pytest.approx(mu) == pytest.approx(-0.9003, abs=1e-4)
    assert stats.sigma.item() == pytest.approx(np.sqrt((p * np.log(p) ** 2).sum() - mu**2), abs=1e-5)


def test_reduce_survives_impossible_tokens() -> None:
    stats = reduce(torch.tensor([[0.0, float("-inf"), 0.0]]), torch.tensor([0]))
    assert all(torch.isfinite(getattr(stats, n)).all() for n in ("lp", "mu", "sigma"))


def test_head_runs_at_label_positions_only(b) -> None:
    """Rows that reach the output head equal the scored tokens: no logits nobody reads."""
    model, rows, seen = b.model("target"), rows_of(b), []
    handle = model.hf.get_output_embeddings().register_forward_hook(lambda m, args, out: seen.append(out.shape[-2]))
    table = score(model, rows).tokens
    handle.remove()
    assert sum(seen) == sum(map(len, table["lp"].to_pylist()))


def test_mask_by_hand() -> None:
    """Prompt 1 token, branches of 1 and 2 input tokens: a branch sees the prompt and itself, never its sibling."""
    mask = tree_mask(torch.tensor([[-1, 0, 1, 1, -2]]))[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 1]]


def test_pack_by_hand() -> None:
    """[7, 8] + branches [1, 2] and [3, 2] (2 = end): inputs 7 8 1 3, positions 0 1 2 2; labels sit on 1, 2 and 1, 3."""
    packed = pack([Text((7, 8), ((1, 2), (3, 2)))], pad=0)
    assert packed.ids.tolist() == [[7, 8, 1, 3]] and packed.positions.tolist() == [[0, 1, 2, 2]]
    assert packed.label_at.tolist() == [1, 2, 1, 3] and packed.label_id.tolist() == [1, 2, 3, 2]
    assert packed.token_mask.tolist() == [[False, True, True, True]] and packed.answer_mask.tolist() == [
        [False, False, True, True]
    ]


def test_pad_that_equals_the_end_token_masks_nothing(b) -> None:
    """With pad = end token, batched and single scores stay the same."""
    model, rows = b.model("target"), rows_of(b)
    alone = score(model, rows, token_budget=1).tokens["lp"].to_pylist()
    model.tokenizer.pad_token = model.tokenizer.eos_token
    together = score(model, rows).tokens["lp"].to_pylist()
    model.tokenizer.pad_token = "<|pad|>"
    for a, c in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, c, atol=1e-4)


@pytest.mark.parametrize("longest", [1, 4, 30])
def test_greedy_from_the_scoring_pass_equals_plain_greedy(b, model, longest: int) -> None:
    """Token by token the same as ``generate`` of transformers, for models that know the answers and that do not."""
    rows = rows_of(b)
    ours = score(model, rows, answers=ANSWERS, generate=GenerateSettings(max_new_tokens=longest)).generations
    alone = generate(model, rows, settings=GenerateSettings(max_new_tokens=longest), token_budget=200)
    for row, ids, finish, other in zip(
        rows, ours["ids"].to_pylist(), ours["finish"].to_pylist(), alone["ids"].to_pylist(), strict=True
    ):
        prompt = model.template.prompt_ids(model.tokenizer, row.prompt)
        out = model.module.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=longest,
            eos_token_id=sorted(model.stops),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        stopped = bool(out) and out[-1] in model.stops
        assert ids == other == (out[:-1] if stopped else out) and finish == ("stop" if stopped else "length")


def test_scoring_pass_decodes_only_past_the_first_miss(b) -> None:
    """A model that knows its answers needs no decoding step at all."""
    model = b.model("target")
    rows = [r for r in b.data.eval["retain"][:12]]
    calls = []
    inner = model.module.forward
    model.module.forward = lambda *a, **k: calls.append(k["input_ids"].shape[1]) or inner(*a, **k)
    table = score(model, rows, generate=GenerateSettings(max_new_tokens=30))
    hits = [all(h) for h in table.tokens["hit"].to_pylist()]
    steps = sum(1 for width in calls if width == 1)
    known = [text == row.answer for text, row in zip(table.generations["text"].to_pylist(), rows, strict=True)]
    assert sum(hits) >= 8 and all(k for k, h in zip(known, hits, strict=True) if h)
    assert steps == 0 if all(hits) else steps > 0


def test_samples_depend_on_row_and_seed_not_on_the_batch(b) -> None:
    model, rows = b.model("reference"), rows_of(b)
    settings = GenerateSettings(max_new_tokens=8, temperature=1.0, samples=2, seed=3)
    all_rows, some = generate(model, rows, settings=settings), generate(model, rows[2:4], settings=settings)
    n = len(rows)
    assert (
        all_rows["ids"].to_pylist()[2:4] == some["ids"].to_pylist()[:2]
        and all_rows["ids"].to_pylist()[n + 2 : n + 4] == some["ids"].to_pylist()[2:]
    )
    other = generate(model, rows, settings=settings.model_copy(update={"seed": 4}))
    assert (
        all_rows["ids"].to_pylist() != other["ids"].to_pylist()
        and all_rows["ids"].to_pylist()[:n] != all_rows["ids"].to_pylist()[n:]
    )


def test_rows_that_cannot_be_scored_are_kept(b) -> None:
    """Too long and empty rows: counted, with the reason, never cut."""
    model = b.model("target")
    rows = [Row("ok", "yes", "ok?"), Row("long", "word " * 900, "why?"), Row("empty", "", "what?")]
    table = score(model, rows, generate=GenerateSettings(max_new_tokens=4))
    problems = dict(zip(table.tokens["row"].to_pylist(), table.tokens["problem"].to_pylist(), strict=True))
    assert (
        problems["ok"] == ""
        and problems["long"].startswith("longer than the context")
        and problems["empty"] == "empty answer"
    )
    assert [bool(p) for p in table.generations["problem"].to_pylist()] == [False, True, True]


def test_documents_use_no_template(b) -> None:
    """Every token of a document is a target, none of them an end token."""
    model = b.model("target")
    line = score(model, [Row("doc", "Lesu was here.")], prompt="prompt").tokens.to_pylist()[0]
    prefix, body = model.template.document_ids(model.tokenizer, "Lesu was here.")
    assert len(line["lp"]) == len(body) and not line["eos"] and prefix


def test_batches_bound_tokens_and_labels(b) -> None:
    model = b.model("target")
    encoded = [model.encode(r, answers=ANSWERS) for r in rows_of(b)]
    parts = batches(encoded, token_budget=600, labels=120)
    assert sorted(i for p in parts for i in p) == list(range(len(encoded)))
    assert all(
        len(p) == 1 or (max(encoded[i].length for i in p) * len(p) <= 600 and sum(encoded[i].labels for i in p) <= 120)
        for p in parts
    )


def test_hidden_states_against_the_models_own(b) -> None:
    """Layer 2 at the last prompt token, and the mean over all positions but the first."""
    model, row = b.model("target"), rows_of(b)[0]
    ids = [
        *model.template.prompt_ids(model.tokenizer, row.prompt),
        *model.template.answer_ids(model.tokenizer, row.answer)[:-1],
    ]
    last = len(model.template.prompt_ids(model.tokenizer, row.prompt)) - 1
    with torch.no_grad():
        states = model.module.model.layers[0](  # layer 1 alone, then by output_hidden_states
            model.module.model.embed_tokens(torch.tensor([ids])),
            position_embeddings=model.module.model.rotary_emb(torch.zeros(1, 1, 64), torch.arange(len(ids))[None]),
        )
        full = model.module(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
    states = states[0] if isinstance(states, tuple) else states
    got = hidden(model, [row], layers=[1, 2]).to_pylist()
    np.testing.assert_allclose(got[0]["vector"], full[last], atol=1e-4)
    mean = hidden(model, [row], layers=[1], pooling="mean_all").to_pylist()[0]
    np.testing.assert_allclose(mean["vector"], full[1:].mean(0), atol=1e-4)


def test_gradient_norms_by_autograd(b) -> None:
    """Mean over tensors of the norm of d mean NLL / d tensor; gradients and flags are left alone."""
    model, row = b.model("target"), rows_of(b)[0]
    logp, _ = plain(model, row, row.answer)
    encoded = model.encode(row)
    for p in model.module.parameters():
        p.requires_grad_(True)
    prompt, answer = encoded.payload.prompt, encoded.payload.branches[0]
    logits = model.module(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    grads = torch.autograd.grad(
        torch.nn.functional.cross_entropy(logits, torch.tensor(answer)), list(model.module.parameters())
    )
    expected = float(torch.stack([g.norm() for g in grads]).mean())
    for p in model.module.parameters():
        p.requires_grad_(False)
    assert gradient(model, [row]).to_pylist()[0]["norm"] == pytest.approx(expected, rel=1e-4)
    assert all(p.grad is None and not p.requires_grad for p in model.module.parameters())


def test_weight_pass_by_hand() -> None:
    """One of two rows moves by (3, 4): one tensor, two weights changed, distance 5. No bucket where nothing is
    rounded."""
    a, c = (
        {"w": torch.zeros(2, 2), "n": torch.ones(3)},
        {"w": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "n": torch.ones(3)},
    )
    lines = {line["name"]: line for line in weight(a, c, {"w"}).to_pylist()}
    assert (lines["w"]["changed"], lines["w"]["norm_diff"], lines["w"]["buckets_4"]) == (2, 5.0, 2)
    assert (lines["n"]["changed"], lines["n"]["cosine"]) == (0, 1.0)
    assert lines["n"]["buckets_8"] is None and lines["n"]["buckets_4"] is None


def test_only_weights_that_moved_leave_their_bucket() -> None:
    """The largest of a group goes from 8 to 16, so its step doubles and the codes of the 63 others are halved. They
    stayed; the one that moved is at the highest level before and after."""
    before = torch.full((1, 70), 4.0)
    before[0, 0] = 8.0
    after = before.clone()
    after[0, 0] = 16.0
    line = weight({"w": before}, {"w": after}, {"w"}).to_pylist()[0]
    assert (line["changed"], line["buckets_4"], line["buckets_8"]) == (1, 0, 0)
    after[0, 69] = -4.0  # in the short group at the end: from the highest level to the lowest
    line = weight({"w": before}, {"w": after}, {"w"}).to_pylist()[0]
    assert (line["changed"], line["buckets_4"], line["buckets_8"]) == (2, 1, 1)


def test_small_updates_stay_in_their_bucket() -> None:
    """A shift d changes the code of a share d / step of the weights. Steps here are the largest of 64 normal draws
    (about 2.4) over 8 and 128: .3 and .019, so .01 moves every weight, about 3% of the 4-bit and half of the 8-bit
    codes."""
    w = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    line = weight({"w": w}, {"w": w + 0.01}, {"w"}).to_pylist()[0]
    assert line["changed"] == w.numel()
    assert line["buckets_4"] / w.numel() == pytest.approx(0.033, abs=0.015) and line[
        "buckets_8"
    ] / w.numel() == pytest.approx(0.53, abs=0.1)


def test_evaluating_in_bf16_restores_the_same_float32_bits(b) -> None:
    model = b.model("target")
    before = fingerprint(model)
    model.dtype = torch.bfloat16
    with model.evaluating():
        assert next(model.module.parameters()).dtype == torch.bfloat16
    assert fingerprint(model) == before and next(model.module.parameters()).dtype == torch.float32


def test_cache_round_trip_and_damage(b, tmp_path: Path) -> None:
    """A damaged file counts as absent and is thrown away."""
    cache, table = Cache(tmp_path), score(b.model("target"), rows_of(b)[:2]).tokens
    cache.put("key", table)
    assert cache.get("key").equals(table) and cache.get("other") is None
    (file,) = tmp_path.rglob("*.arrow")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert cache.get("key") is None and not list(tmp_path.rglob("*.arrow"))


def test_fingerprint_sees_every_weight(b) -> None:
    model = b.model("target")
    before = fingerprint(model)
    with torch.no_grad():
        next(iter(model.module.parameters())).view(-1)[0] += 1e-3
    assert fingerprint(model) != before == fingerprint(b.model("target"))
