"""The logit form of Who's Harry Potter: two models at every token, their keys side by side, one artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from efface.artifact import Artifact
from efface.data.rows import Row
from efface.engine.finetune import fit
from efface.engine.settings import Select, TrainSettings
from efface.guards import Contrast, LogitBias
from efface.methods.base import METHODS, Context
from efface.models.causal_lm import CausalLM
from efface.models.contrasted import Contrasted, generic
from efface.models.tampering import Tampering
from efface.passes.cache import fingerprint
from efface.passes.generate import GenerateSettings, generate
from efface.passes.score import score
from efface.pipeline import artifact_of
from efface.testing.battery import mean_log_prob, outputs
from efface.testing.bench import bench

TRAIN = TrainSettings(lr=2e-3, epochs=6, batch_size=16, select=Select(freeze_head=False))


@pytest.fixture(scope="module")
def done() -> Context:
    """WHP's logit form on the bench's target, embeddings and head reinforced as well."""
    b = bench()
    context = Context(b.model("target"), b.data.train["forget"], b.data.train["retain"], TRAIN, seed=3)
    METHODS.get("whp_logits")(alpha=60.0).apply(context)
    return context


def rows(name: str, count: int = 6) -> list[Row]:
    return list(bench().data.eval[name])[:count]


def by_hand(guarded: Contrasted, row: Row) -> torch.Tensor:
    """Log-probs of one row's answer from two plain forwards over the whole sequence."""
    encoded = guarded.encode(row)
    batch = guarded.collate([encoded], [0])
    logits = []
    with torch.no_grad():
        for module in (guarded.module, guarded.other):
            full = module(input_ids=batch.inputs["input_ids"]).logits[0].float()
            logits.append(full[batch.label_at])
    mixed = logits[0] - guarded.alpha * torch.clamp(logits[1] - logits[0], min=0)
    return mixed.log_softmax(-1).gather(1, batch.label_id[:, None]).squeeze(1)


@pytest.mark.mechanism("whp_logits", "v_base - a relu(v_reinforced - v_base) at every label token")
def test_scores_are_those_of_two_plain_forwards(done: Context) -> None:
    guarded = done.adapter
    found = score(guarded, rows("forget"), answers=("answer", "wrong")).tokens.to_pylist()
    for row in rows("forget"):
        line = next(x for x in found if x["row"] == row.id and x["variant"] == "answer")
        torch.testing.assert_close(torch.tensor(line["lp"]), by_hand(guarded, row), rtol=2e-3, atol=2e-3)


@pytest.mark.mechanism(
    "whp_logits", "a second cache: decoding with both models' keys is decoding without any", kind="equality"
)
def test_greedy_answers_are_those_of_full_forwards(done: Context) -> None:
    """Answers that start from the scoring pass, answers from the prompt, and one forward per token over everything."""
    guarded, asked = done.adapter, rows("forget", 4) + rows("retain", 4)
    settings = GenerateSettings(max_new_tokens=12)
    scored = score(guarded, asked, generate=settings).generations["ids"].to_pylist()
    plain = generate(guarded, asked, settings=settings)["ids"].to_pylist()
    full = []
    for row in asked:
        ids = list(guarded.encode(row, answers=()).payload.prompt)
        start = len(ids)
        with torch.no_grad():
            while len(ids) - start < 12:
                a, b = (m(input_ids=torch.tensor([ids])).logits[0, -1] for m in (guarded.module, guarded.other))
                token = int(generic(a, b, guarded.alpha).argmax())
                if token in guarded.stops:
                    break
                ids.append(token)
        full.append(ids[start:])
    assert scored == plain == full


@pytest.mark.mechanism("whp_logits", "the forget answers fall, the weights stay")
def test_forget_answers_fall_and_no_weight_moves(done: Context) -> None:
    target = bench().model("target")
    assert fingerprint(done.adapter) == fingerprint(target)
    forget, retain = (mean_log_prob(done.adapter, bench().data.eval[name]) for name in ("forget", "retain"))
    assert forget < mean_log_prob(target, bench().data.eval["forget"]) - 1.0 and retain > forget + 1.0
    assert done.adapter.identity()["contrast"] and "contrast" not in target.identity()


def test_artifact_goes_out_and_comes_back(done: Context, tmp_path: Path) -> None:
    """Its own kind beside the logit bias; strength 0 is the target, half the strength is half of alpha."""
    target = bench().model("target")
    artifact = artifact_of(METHODS.get("whp_logits")(), target, done.adapter)
    artifact.save(tmp_path)
    loaded = Artifact.load(tmp_path)
    assert (
        type(loaded) is Contrast and loaded.kind == LogitBias.kind == "logit_wrapper" and loaded.config["alpha"] == 60.0
    )
    assert outputs(loaded.attach(target), rows("forget")) == outputs(done.adapter, rows("forget"))
    assert type(loaded.attach(target, 0.0)) is CausalLM
    assert outputs(loaded.attach(target, 0.0), rows("forget")) == outputs(target, rows("forget"))
    assert loaded.attach(target, 0.5).alpha == 30.0


def test_alpha_zero_and_an_unmoved_copy_change_nothing(done: Context) -> None:
    target = bench().model("target")
    want = outputs(target, rows("forget"))
    assert outputs(Contrasted.of(target, done.adapter.other, 0.0), rows("forget")) == want
    assert outputs(Contrasted.of(target, target.clone().module, 60.0), rows("forget")) == want


def test_guarded_models_can_be_cloned_tampered_with_and_trained(done: Context) -> None:
    """A clone shares nothing that is trained; a suffix reaches both models; training moves the target beneath."""
    guarded = done.adapter
    clone = guarded.clone()
    assert type(clone) is Contrasted and clone.module is not guarded.module
    suffixed = guarded.tampered(Tampering(suffix={"": [5, 6]}))
    assert outputs(suffixed, rows("forget")) != outputs(guarded, rows("forget"))
    fit(clone, rows("forget"), TrainSettings(lr=1e-3, steps=2, batch_size=6), seed=0)
    assert fingerprint(clone) != fingerprint(guarded)
    same = zip(clone.other.parameters(), guarded.other.parameters(), strict=True)
    assert all(a is b for a, b in same)


def test_lora_reinforcement_is_merged(done: Context) -> None:
    b = bench()
    train = TRAIN.model_copy(update={"select": Select(kind="lora", rank=2), "lr": 1e-2})
    context = Context(b.model("target"), b.data.train["forget"], (), train, seed=3)
    METHODS.get("whp_logits")(alpha=60.0).apply(context)
    artifact = artifact_of(METHODS.get("whp_logits")(), b.model("target"), context.adapter)
    assert artifact.tensors and not any("lora" in name for name in artifact.tensors)
