"""Rounding and quantising: buckets, calibrated rounding against brute force, the libraries' own layers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from efface.attacks import quantise
from efface.attacks.base import AttackContext
from efface.attacks.calibrated import ALPHAS, Inputs, awq, gptq
from efface.attacks.layer_inputs import read_inputs
from efface.attacks.round_weights import RoundWeights
from efface.engine.settings import Select, TrainSettings
from efface.errors import NeedsError
from efface.methods.base import Context
from efface.methods.general.grad_diff import GradDiff
from efface.models.causal_lm import CausalLM
from efface.models.rounding import round_tensor, roundable
from efface.models.sharing import shared_start
from efface.testing.battery import digest, mean_log_prob
from efface.testing.bench import bench
from efface.testing.buckets import NF4, InsideBuckets, bounds, levels


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


def context(b, model=None) -> AttackContext:
    return AttackContext(b.model("target") if model is None else model, b.data, seed=5)


# -- rounding
# -----------------------------------------------------------------------------------------------------------------
def test_bounds_by_hand() -> None:
    """Largest weight 8, 3 bits: levels -8 -6 .. 6. 3.2 is stored as 4: it may go from 3 to 5. 7.5 is stored as 6, the
    last level: 5 to 8. 8 sets the scale and stays. -7.5 lies nearest to -8: -8 to -7."""
    w = torch.zeros(1, 64)
    w[0, :4] = torch.tensor([8.0, 3.2, 7.5, -7.5])
    low, high = bounds(w, levels(3))
    assert low[0, :4].tolist() == pytest.approx([8, 3, 5, -8], abs=0.01)
    assert high[0, :4].tolist() == pytest.approx([8, 5, 8, -7], abs=0.01)
    assert (low[0, 1] > 3) and (high[0, 1] < 5)


@pytest.mark.parametrize("bits", [4, 3])
def test_moves_inside_buckets_vanish_and_others_do_not(bits: int) -> None:
    """Any place inside its bounds is rounded to the same value; a little beyond one bound is not."""
    w = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
    low, high = bounds(w, levels(bits))
    inside = low + torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) * (high - low)
    assert not torch.equal(inside, w) and torch.equal(round_tensor(inside, bits, 64), round_tensor(w, bits, 64))
    free = (high - w > 0) & (high < 0.8 * w.abs().amax())
    beyond = torch.where(free, high + 0.02 * w.abs().amax(), w)
    assert (round_tensor(beyond, bits, 64) != round_tensor(w, bits, 64)).sum() > 0.9 * free.sum()


def unlearned(b, method) -> tuple[float, float, float]:
    """Mean forget log-prob of the target, of the model that ``method`` made of it, and of that model at 4 bits."""
    model, rows = b.model("target"), list(b.data.train["forget"])
    select = Select(modules=("_proj",))
    train = TrainSettings(lr=1e-3, steps=25, batch_size=16, schedule="constant", warmup=0.0, select=select)
    before = mean_log_prob(model, rows)
    method.apply(Context(model, rows, b.data.train["retain"], train, 0))
    after = mean_log_prob(model, rows)
    point = next(RoundWeights(bits=(4,)).points(context(b, model)))
    return before, after, mean_log_prob(point.adapter, rows)


def test_rounding_brings_back_what_stays_inside_the_buckets(b) -> None:
    """The mechanism of arXiv 2410.16454: Q(w_U) = Q(w_O), so the rounded model is the rounded target to the bit. The
    same loss without the buckets (the mechanism removed) is not brought back."""
    before, after, rounded = unlearned(b, InsideBuckets())
    assert after < before - 1 and rounded > before - 0.5
    target = next(RoundWeights(bits=(4,)).points(context(b)))
    assert rounded == mean_log_prob(target.adapter, list(b.data.train["forget"]))
    _, after, rounded = unlearned(b, GradDiff())
    assert after < before - 1 and rounded < before - 1


def correlated(seed: int, width: int, outputs: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight, inputs Float[200, width] that share a common part)."""
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(200, width, generator=stream) + 2 * torch.randn(200, 1, generator=stream)
    return torch.randn(outputs, width, generator=stream), x


def seen(x: torch.Tensor) -> Inputs:
    inputs = Inputs.none(x.shape[1], x.device)
    inputs.add(x)
    return inputs


def test_gptq_second_column_by_hand() -> None:
    """Two columns, no damping: after w1 -> q1, the best w2 for the outputs is w2 + (w1 - q1) H12 / H22 (least squares),
    and that is what is rounded."""
    w, x = correlated(0, 2)
    h = x.double().T @ x.double()
    got = gptq(w.double(), seen(x), 4, 0, damp=1e-9)
    step = w.double().abs().amax(1) / 8
    q1 = step * (w[:, 0].double() / step).round().clamp(-8, 7)
    w2 = w[:, 1].double() + (w[:, 0].double() - q1) * h[0, 1] / h[1, 1]
    assert torch.allclose(got[:, 0], q1) and torch.allclose(
        got[:, 1], step * (w2 / step).round().clamp(-8, 7), atol=1e-5
    )


def test_gptq_with_independent_inputs_is_rounding_to_nearest() -> None:
    w = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    inputs = Inputs(torch.eye(128), torch.ones(128), 1)
    for group in (64, 0, -1):
        assert torch.allclose(gptq(w, inputs, 4, group), round_tensor(w, 4, group), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_gptq_lies_between_brute_force_and_rounding_to_nearest(seed: int) -> None:
    """Three columns at 2 bits: all 64 codes of each output row are tried; GPTQ is no better than the best of them, and
    on the inputs it was given no worse than rounding to nearest (greedy: shown on these seeds, not a theorem)."""
    w, x = correlated(seed, 3)
    inputs = seen(x)
    step = w.abs().amax(1, keepdim=True) / 2
    codes = torch.tensor(list(itertools.product((-2.0, -1.0, 0.0, 1.0), repeat=3)))
    best = sum(min(inputs.error((c * step[i] - w[i])[None]) for c in codes) for i in range(len(w)))
    found, nearest = inputs.error(gptq(w, inputs, 2, 0) - w), inputs.error(round_tensor(w, 2, 0) - w)
    assert best <= found * (1 + 1e-5) and found <= nearest * (1 + 1e-5)


def test_gptq_gains_where_inputs_are_correlated() -> None:
    w, x = correlated(1, 128, 16)
    inputs = seen(x)
    assert inputs.error(gptq(w, inputs, 3, 64) - w) < 0.5 * inputs.error(round_tensor(w, 3, 64) - w)


def test_awq_takes_the_best_alpha() -> None:
    """Against a loop over the five alphas on real outputs; alpha 0 is rounding to nearest, so it is never worse."""
    w, x = correlated(2, 64, 8)
    x = x * torch.logspace(-1, 1, 64)
    errors = []
    for alpha in ALPHAS:
        s = x.abs().mean(0) ** alpha
        s = s / (s.max() * s.min()) ** 0.5
        errors.append(float(((round_tensor(w * s, 3, 64) / s - w) @ x.T).square().sum()))
    found = float(((awq(w, seen(x), 3, 64) - w) @ x.T).square().sum())
    assert found == pytest.approx(min(errors), rel=1e-3) and min(errors) < 0.9 * errors[0]
    flat = Inputs(torch.eye(64), torch.ones(64), 1)
    assert torch.equal(awq(w, flat, 3, 64), round_tensor(w, 3, 64))


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_calibrated_rounding_reads_retain_rows_and_keeps_the_codes(b, kind: str) -> None:
    """Every linear layer of the blocks changes, nothing else does; 2 bits of GPTQ leave at most 4 values a group."""
    point = next(RoundWeights(bits=(2,), calibrate=kind, calibration_rows=8).points(context(b)))
    before, after = (dict(m.module.named_parameters()) for m in (b.model("target"), point.adapter))
    inside = set(roundable(point.adapter))
    assert point.supplied == {"calibration_rows": 8}
    assert {n for n in before if not torch.equal(before[n], after[n])} == inside
    if kind == "gptq":
        assert all(len(g.unique()) <= 4 for n in inside for g in after[n].detach().reshape(-1, 64))
    empty = replace(b.data, train={"forget": b.data.train["forget"]})
    assert "retain" in RoundWeights(calibrate=kind).check(empty)


def test_calibration_is_for_language_models() -> None:
    image = bench("image")
    with pytest.raises(NeedsError, match="language"):
        next(RoundWeights(calibrate="gptq").points(AttackContext(image.model("target"), image.data)))


def test_inputs_are_read_at_real_places_only(b) -> None:
    """Rows with answers whose prompts share a start, against one plain forward per row: no padding, no
    position 0, and the shared start counts for every row."""
    start = "Read this with care and answer in one short sentence, as you were told before. "
    model = b.model("target")
    rows = [replace(r, prompt=start + r.prompt) for r in b.data.train["retain"] if r.prompt][:8]
    layer, caught = model.blocks[1].mlp.down_proj, Inputs.none(model.blocks[1].mlp.down_proj.in_features, model.device)
    batch = model.collate([model.encode(r) for r in rows], range(len(rows)))
    assert shared_start(model, batch, batch.inputs) and not batch.inputs["attention_mask"].all()
    handle = layer.register_forward_pre_hook(lambda module, args: caught.add(args[0][0, 1:].detach()))
    for row in rows:
        text = model.encode(row).payload
        with torch.no_grad():
            model.module(torch.tensor([[*text.prompt, *text.branches[0][:-1]]]))
    handle.remove()
    found = Inputs.none(layer.in_features, model.device)
    read_inputs(model, rows, {"x": layer}, lambda name, x: found.add(x), depth=2)
    assert found.count == caught.count and torch.allclose(found.products, caught.products, rtol=1e-3, atol=1e-3)


def old_fashioned(b) -> CausalLM:
    """GPT-2: matrices are Conv1D and not Linear, positions have an embedding of their own."""
    tokenizer = b.model("target").tokenizer
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    return CausalLM(GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)), tokenizer)


def test_embeddings_of_positions_are_not_rounded(b) -> None:
    model = old_fashioned(b)
    names = set(roundable(model))
    assert "transformer.wpe.weight" in dict(model.module.named_parameters())
    assert names == {f"transformer.h.{i}.{part}.weight" for i in (0, 1)
                     for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}  # fmt: skip


def test_a_model_without_linear_layers_is_not_quantised(b, monkeypatch) -> None:
    """Refused, where it would have come back unchanged."""
    monkeypatch.setattr(quantise, "find_spec", lambda name: object())
    with pytest.raises(NeedsError, match=r"attack\.no-linear-layers"):
        next(quantise.Quantise().points(context(b, old_fashioned(b))))


# -- quantising with libraries
# -----------------------------------------------------------------------------------------------------------------
def test_missing_libraries_are_refused_by_name(b, monkeypatch) -> None:
    """Both where both are missing, one where only that is; never a stand-in."""
    monkeypatch.setattr(quantise, "find_spec", lambda name: None)
    assert "bitsandbytes and torchao not installed" in quantise.Quantise().check(b.data)
    with pytest.raises(NeedsError, match="bitsandbytes") as refused:
        next(quantise.Quantise(kinds=("nf4",)).points(context(b)))
    assert refused.value.code == "attack.needs-extra" and "efface[quant]" in refused.value.fix
    monkeypatch.setattr(quantise, "find_spec", lambda name: None if name == "torchao" else object())
    assert quantise.Quantise().check(b.data).startswith("torchao not") and not quantise.missing(("nf4",))


def test_head_and_embeddings_are_not_quantised(b) -> None:
    model = b.model("target")
    names = set(quantise.quantisable(model))
    assert names == set(roundable(model)) and not names & set(model.head_parameters())


def test_nf4_is_what_bitsandbytes_computes_with() -> None:
    """Against its own Linear4bit; and moves inside the NF4 buckets vanish in it."""
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (efface[quant])")
    stream = torch.Generator().manual_seed(0)
    w, x = torch.randn(16, 128, generator=stream), torch.randn(3, 128, generator=stream)
    layer = bnb.nn.Linear4bit(
        128, 16, bias=False, quant_type="nf4", compute_dtype=torch.float32, compress_statistics=False
    )
    layer.load_state_dict({"weight": w})
    assert torch.allclose(layer.to("cpu")(x), x @ quantise.nf4(w).T, atol=1e-4)
    low, high = bounds(w, torch.tensor(NF4))
    moved = low + torch.rand(w.shape, generator=stream) * (high - low)
    assert not torch.equal(moved, w) and torch.equal(quantise.nf4(moved), quantise.nf4(w))


def test_int8_is_what_torchao_computes_with() -> None:
    ao = pytest.importorskip("torchao.quantization", reason="torchao is not installed (efface[quant])")
    layer, x = torch.nn.Linear(128, 16, bias=False), torch.randn(3, 128)
    w = layer.weight.detach().clone()
    ao.quantize_(holder := torch.nn.Sequential(layer), ao.Int8WeightOnlyConfig())
    got = quantise.int8(w)
    assert (
        torch.allclose(holder(x), x @ got.T, atol=1e-4)
        and 0 < float((got - w).abs().max()) < float(w.abs().max()) / 120
    )


def test_quantising_starts_from_the_same_weights_each_time(b) -> None:
    for name in ("bitsandbytes", "torchao"):
        pytest.importorskip(name, reason=f"{name} is not installed (efface[quant])")
    both = [digest(p.adapter) for p in quantise.Quantise().points(context(b))]
    alone = [digest(p.adapter) for p in quantise.Quantise(kinds=("nf4",)).points(context(b))]
    assert both[1] == alone[0] != both[0] != digest(b.model("target"))
