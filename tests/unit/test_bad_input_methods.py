"""Bad input to training methods: refused by name, or handled as said. (What every method refuses is in the battery.)"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_lm import FORGET, RETAIN, SETTINGS, start

from efface import refusing
from efface.engine.settings import Select, TrainSettings
from efface.errors import NeedsError, RunFailed
from efface.loading import load_data
from efface.methods.base import METHODS, Context
from efface.models.causal_lm import CausalLM
from efface.spec import resolve

TRAIN = TrainSettings(lr=1e-3, steps=4, batch_size=4, warmup=0.0, checkpoint_every=1)


def context(model: CausalLM | None = None, **changes) -> Context:
    return Context(
        **{"adapter": model or start().clone(), "forget": FORGET, "retain": RETAIN, "train": TRAIN} | changes
    )


def run(name: str, given: Context, **settings) -> Context:
    METHODS.get(name)(**SETTINGS.get(name, {}) | settings).apply(given)
    return given


# -- a method without the data it needs ---------------------------------
@pytest.mark.parametrize(
    "name, settings, changes, code",
    [
        ("npo", {}, {"forget": []}, "method.no-forget"),
        ("npo", {}, {"retain": []}, "method.needs-retain"),
        ("retrain", {}, {"base": None}, "method.needs-base"),
        ("idk", {}, {"forget": [replace(FORGET[0], prompt="")]}, "method.needs-questions"),
        ("idk_ap", {}, {"retain": [replace(RETAIN[0], prompt=" ")]}, "method.needs-questions"),
        ("elm", {}, {"forget": [replace(FORGET[0], entity="")]}, "elm.needs-concept"),
        ("llmu", {"answers": 5}, {}, "method.few-answers"),
        ("ce_u", {"skip": 9}, {}, "method.answer-too-short"),
        ("pdu", {}, {"train": TRAIN.model_copy(update={"retain_weight": 0.0})}, "method.needs-retain"),
        ("rmu", {"layer": 3}, {}, "method.bad-layer"),
    ],
)
def test_missing_data_is_refused_before_a_weight_moves(name, settings, changes, code) -> None:
    given = context(**changes)
    with pytest.raises(NeedsError) as caught:
        run(name, given, **settings)
    assert caught.value.code == code and name in caught.value.cause and caught.value.fix
    before = start().module.parameters()
    assert all(torch.equal(a, b) for a, b in zip(given.adapter.module.parameters(), before, strict=True))


@pytest.mark.parametrize("name, settings", [("llmu", {"answers": 20}), ("opt_ascent", {"answers": 20})])
def test_what_the_rows_tell_is_refused_before_a_model_is_loaded(name, settings) -> None:
    values = {"model": {"name": "tiny"}, "data": {"benchmark": "harm", "settings": {"people": 4}}}
    spec = resolve(("test", values | {"method": {"name": name, "settings": settings}})).spec
    with pytest.raises(NeedsError) as caught:
        refusing.method_for(spec, load_data(spec)[0])
    assert caught.value.code == "method.few-answers"


# -- coefficients that make the loss non-finite ---------------------------------
HUGE, TINY = 1e39, 1e-45  # beyond float32


@pytest.mark.parametrize(
    "name, settings, train",
    [
        ("grad_diff", {}, {"forget_weight": math.inf}),
        ("grad_diff", {}, {"retain_weight": HUGE}),
        ("simnpo", {"gamma": HUGE}, {}),
        ("npo_irm", {"gamma": HUGE}, {}),
        ("me_gd", {"weight": HUGE}, {}),
        ("pdu", {"dual": HUGE}, {}),
        ("llmu", {"normal": math.inf}, {}),
        ("elm", {"fluency": HUGE}, {}),
        ("repnoise", {"alpha": HUGE}, {}),
        ("rmu", {"alpha": HUGE}, {}),
        ("rr", {"alpha": HUGE}, {}),
        ("lat", {"coefficient": HUGE, "adaptive": False, "iterations": 1}, {}),
        ("npo", {"beta": TINY}, {}),
        ("dpo", {"beta": TINY}, {}),
        ("idk_ap", {"beta": TINY}, {}),
    ],
)
def test_a_coefficient_out_of_range_stops_the_run(name, settings, train, tmp_path: Path) -> None:
    """The run stops at the first step with its code; weights are untouched and the checkpoint holds the start."""
    given = context(train=TRAIN.model_copy(update=train), checkpoints=tmp_path)
    with pytest.raises(RunFailed) as caught:
        run(name, given, **settings)
    assert caught.value.code == "train.non-finite" and caught.value.exit_code == 2 and name in caught.value.cause
    assert "step 1 of 4" in caught.value.cause
    kept = checkpointed(tmp_path)
    for key, p in start().module.named_parameters():
        assert key not in kept or torch.equal(kept[key], p)


def test_the_last_good_checkpoint_is_kept(tmp_path: Path) -> None:
    """PDU's dual variable explodes at the end of step 1: step 2 fails, and the checkpoint is the model after step 1."""
    given = context(train=TRAIN.model_copy(update={"schedule": "constant"}), checkpoints=tmp_path)
    with pytest.raises(RunFailed, match="step 2 of 4"):
        run("pdu", given, eps=0.0, dual=1.0, dual_step=HUGE, dual_warmup=0.0)
    one = context(train=TRAIN.model_copy(update={"steps": 1, "schedule": "constant"}))
    run("pdu", one, eps=0.0, dual=1.0, dual_step=1.0, dual_warmup=0.0)
    kept, after = checkpointed(tmp_path), dict(one.adapter.module.named_parameters())
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-000001"]
    assert all(torch.equal(value, after[key]) and bool(value.isfinite().all()) for key, value in kept.items())


def checkpointed(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the newest checkpoint below ``folder``."""
    from safetensors.torch import load_file

    places = sorted(folder.rglob("step-*"))
    assert places, "no checkpoint was kept"
    return load_file(places[-1] / "weights.safetensors")


# -- a retain set smaller than a batch ---------------------------------
@pytest.mark.parametrize("name", ["grad_diff", "npo", "kl_min", "rmu", "rr", "pdu", "llmu", "npo_sam", "tar", "elm"])
def test_a_retain_set_smaller_than_a_batch_is_used_whole_at_every_step(name: str) -> None:
    """One retain row, batches of sixteen: it counts once, not sixteen times, and there are as many steps as told."""
    events: list[dict] = []
    train = TRAIN.model_copy(update={"batch_size": 16, "steps": 2})
    given = context(retain=RETAIN[:1], train=train, log=events.append)
    run(name, given)
    steps = [e for e in events if e["event"] == "step"]
    assert len(steps) == 2 and all(math.isfinite(v) for e in steps for v in e.values() if isinstance(v, float))
    assert all(bool(p.isfinite().all()) for p in given.adapter.module.parameters())
    if name in ("grad_diff", "npo"):
        row = start().collate([start().encode(RETAIN[0])], [0])
        with start().evaluating():
            logp = start().forward(row).logits.log_softmax(-1).gather(1, row.label_id[:, None])
        assert steps[0]["retain_loss"] == pytest.approx(float(-logp.mean()), rel=1e-3)


# -- an adapter on a tied embedding ---------------------------------
@pytest.mark.parametrize("module", ["lm_head", "embed_tokens", "model.embed_tokens"])
def test_an_adapter_on_a_tied_embedding_is_refused(module: str) -> None:
    select = Select(kind="lora", rank=2, modules=("q_proj", module))
    with pytest.raises(NeedsError) as caught:
        run("npo", context(train=TRAIN.model_copy(update={"select": select})))
    assert caught.value.code == "method.lora-on-tied-embedding" and module.split(".")[-1] in caught.value.cause


def test_the_engine_refuses_it_whoever_asks() -> None:
    from efface.engine.select import add_lora

    with pytest.raises(NeedsError, match="tied-embedding"):
        add_lora(start().clone(), Select(kind="lora", rank=2, modules=("lm_head",)), 0)


def test_an_adapter_on_a_head_of_its_own_is_taken() -> None:
    """Untied, nothing is untied by it; and without named modules neither end gets an adapter."""
    select = Select(kind="lora", rank=2, modules=("lm_head",))
    given = run("npo", context(start(tied=False).clone(), train=TRAIN.model_copy(update={"select": select})))
    assert any("lm_head" in n for n, _ in given.adapter.module.named_parameters() if "lora_" in n)
    plain = run("npo", context(train=TRAIN.model_copy(update={"select": Select(kind="lora", rank=2)})))
    assert not any("lm_head" in n or "embed" in n for n, _ in plain.adapter.module.named_parameters() if "lora_" in n)
