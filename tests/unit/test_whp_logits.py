"""The logit form of Who's Harry Potter: two models at every token, their keys side by side, one artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from efface.artifact import Artifact
from efface.attacks.base import ATTACKS, AttackContext
from efface.attacks.free_inputs import around, free_ids, start_vectors
from efface.attacks.remove_guard import RemoveGuard
from efface.data.rows import Row
from efface.engine.finetune import fit
from efface.engine.settings import Select, TrainSettings
from efface.errors import NeedsError
from efface.guards import Contrast, LogitBias
from efface.methods.base import METHODS, Context
from efface.models.causal_lm import CausalLM
from efface.models.contrasted import Contrasted, generic
from efface.models.tampering import StateEdit, Tampering
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


# -- under attack ------------------------------------------------------------------------------------------------------
def test_without_its_strength_it_is_the_plain_model_bit_for_bit(done: Context) -> None:
    """Log-probs, answers decoded from a cache, and the start that all prompts share run once, as the target does it;
    the second model does not run."""
    alone, target = done.adapter.clone(), bench().model("target")
    alone.alpha = 0.0
    ran = alone.other.register_forward_hook(lambda *_: pytest.fail("the second model ran"))
    start = "Read this with care and answer in one short sentence, as you were told before. "
    asked = [replace(r, prompt=start + r.prompt) for r in rows("forget", 8)]
    settings = GenerateSettings(max_new_tokens=12)
    mine, plain = (score(m, asked, answers=("answer", "wrong"), generate=settings) for m in (alone, target))
    ran.remove()
    assert mine.tokens.equals(plain.tokens) and mine.generations["ids"].equals(plain.generations["ids"])
    assert outputs(done.adapter, asked) != outputs(target, asked) and done.adapter.alpha == 60.0


def test_taking_off_the_guard_takes_off_the_second_model(done: Context) -> None:
    """It is counted, holds at the first point and is gone from the second on."""
    b, asked = bench(), rows("forget", 4)
    hidden, plain = outputs(done.adapter, asked), outputs(b.model("target"), asked)
    points = RemoveGuard().points(AttackContext(done.adapter.clone(), b.data))
    trail = [(outputs(p.adapter, asked), p.supplied["things_found"]) for p in points]
    assert hidden != plain and trail == [(hidden, 1), (plain, 1), (plain, 1), (plain, 1)]


def test_first_tokens_are_not_ranked_by_one_model_of_two(done: Context) -> None:
    attack, b = ATTACKS.get("first_token"), bench()
    with pytest.raises(NeedsError, match=r"attack\.second-model"):
        next(attack().points(AttackContext(done.adapter.clone(), b.data)))
    alone = done.adapter.clone()
    alone.alpha = 0.0
    assert next(attack().points(AttackContext(alone, b.data))).budget == {"first_tokens": 1}


def test_free_vectors_and_edits_reach_the_first_model_only(done: Context) -> None:
    """By hand: the first model reads the vectors, the second one token 0 in their place."""
    guarded, row = done.adapter, rows("forget", 1)[0]
    vectors = start_vectors(guarded, 2).detach() + 0.5
    edit = StateEdit(1, "add", torch.full((64,), 0.1))
    attacked = around(guarded.tampered(Tampering(edits=(edit,))), {"": free_ids(guarded, 2)}, vectors)
    batch = attacked.collate([attacked.encode(row)], [0])
    ids = batch.inputs["input_ids"]
    size = guarded.hf.get_input_embeddings().weight.shape[0]
    assert int((ids >= size).sum()) == 2
    with torch.no_grad():
        embedded = guarded.hf.get_input_embeddings()(ids.masked_fill(ids >= size, 0))
        embedded[ids >= size] = vectors
        hook = guarded.blocks[0].register_forward_hook(lambda module, args, out: out + 0.1)
        first = guarded.module(inputs_embeds=embedded).logits[0][batch.label_at]
        hook.remove()
        second = guarded.other(ids.masked_fill(ids >= size, 0)).logits[0][batch.label_at]
    mixed = generic(first, second, guarded.alpha).log_softmax(-1).gather(1, batch.label_id[:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(outputs(attacked, [row])[0]), mixed, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["soft_prompt", "embedding", "gcg"])
def test_attacks_with_free_vectors_run(done: Context, name: str) -> None:
    b = bench()
    point = next(ATTACKS.get(name)(steps=(1,)).points(AttackContext(done.adapter.clone(), b.data)))
    assert type(point.adapter) is Contrasted and outputs(point.adapter, rows("forget", 2))
