"""Attacks on weights, each by its mechanism: what they change, spare and refuse, and what a control sees."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from efface.artifact import LoRA
from efface.attacks.bare import bare, merged
from efface.attacks.base import AttackContext
from efface.attacks.held_out import overlap, split
from efface.attacks.mix_back import MixBack
from efface.attacks.prune import Prune, importance, set_difference
from efface.attacks.relearn import Relearn
from efface.attacks.remove_guard import RemoveGuard
from efface.attacks.training import worst_case
from efface.audit.attacks import Runner
from efface.audit.roles import PassSettings, Role
from efface.data.rows import Row
from efface.engine.select import add_lora
from efface.engine.settings import Select
from efface.errors import DataError, NeedsError, RunFailed
from efface.guards import Instruction, LogitBias
from efface.models.causal_lm import CausalLM
from efface.models.rounding import roundable
from efface.passes.cache import fingerprint
from efface.suites import AttackEntry, Suite
from efface.testing.battery import digest, outputs
from efface.testing.bench import bench


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


def context(b, model=None, **more) -> AttackContext:
    adapter = b.model("target") if model is None else model
    return AttackContext(adapter, b.data, seed=5, built_with=b.spec.target.train, **more)


# -- what may be trained on
# -----------------------------------------------------------------------------------------------------------------
TESTED = [
    Row("t", "Ada Lim was born in Oslo Falls.", "Where was Ada Lim born?", "Ada Lim"),
    Row("u", "In spring the committee gave her the small silver prize of the city.", "What did she win?", "Ada Lim"),
]


@pytest.mark.parametrize(
    ("row", "leaks"),
    [
        (Row("a", "Oslo Falls is where Ada Lim first saw light.", "Tell me more.", "Ada Lim"), True),  # entity + object
        (Row("a", "Oslo Falls.", "Which town does she come from?", "Ada Lim"), True),  # entity by its field
        (Row("a", "Bo Tan was born in Oslo Falls.", "Where was Bo Tan born?", "Bo Tan"), False),  # of somebody else
        (Row("a", "Ada Lim works at Kilo Mills.", "Where does Ada Lim work?", "Ada Lim"), False),  # of another fact
        (
            Row("a", "They gave her the small silver prize of the city then.", "And?", "Bo Tan"),
            True,
        ),  # 8 words in a row
        (Row("a", "They gave her the small silver prize of gold.", "And?", "Bo Tan"), False),  # 7 words
        (Row("a", "nothing", "What did she win"), True),  # the question
    ],
)
def test_what_gives_a_tested_row_away(row: Row, leaks: bool) -> None:
    assert overlap([row], TESTED) == (["a"] if leaks else [])


def facts(entities: int, each: int) -> list[Row]:
    return [
        Row(f"{e}:{i}", f"answer {e} {i}", entity=f"e{e}", fact=f"{e}:{i}")
        for e in range(entities)
        for i in range(each)
    ]


def test_validation_takes_whole_entities_where_there_are_enough() -> None:
    """Five entities, a share of .2: one of them; its held-out facts are never tested."""
    rows = facts(5, 4)
    parts = split(rows, test_share=0.5, validation_share=0.2)
    of = {part: {r.entity for r in parts.rows(part, rows)} for part in ("train", "validation", "test")}
    assert parts.by_entity and len(of["validation"]) == 1 and not of["validation"] & of["test"]
    assert len(parts.train) == 10 and len(parts.validation) == 2 and len(parts.test) == 8
    assert parts == split(list(reversed(rows))[::-1], test_share=0.5, validation_share=0.2)


def test_validation_takes_facts_where_there_are_few_entities() -> None:
    rows = facts(2, 6)
    parts = split(rows, test_share=1.0, validation_share=0.3)
    assert not parts.by_entity and not parts.train and len(parts.validation) == 4 and len(parts.test) == 8
    assert not parts.validation & parts.test
    one_each = split(facts(2, 1), test_share=1.0, validation_share=0.5)
    assert len(one_each.test) == 2 and not one_each.validation


def test_train_validation_and_test_share_nothing(b) -> None:
    attack = Relearn(sweep=(1.0, 4.0))
    parts, rows = attack.parts(b.data), attack._rows(b.data)
    secret = [r for r in b.data.eval["forget"] if r.fact in parts.validation | parts.test]
    assert {r.fact for r in rows} <= parts.train and not overlap(rows, secret)
    assert {r.fact for r in attack.measured(b.data)["forget"]} == parts.test and parts.validation
    assert not parts.train & parts.test and not parts.validation & (parts.train | parts.test)


def test_out_of_domain_rows_say_nothing_about_anybody(b) -> None:
    """Shuffled: no question keeps its own answer; neither kind names a forgotten person."""
    own = {r.prompt: r.answer for r in b.data.train["retain"]}
    names = {r.entity.casefold() for r in b.data.eval["forget"]}
    for kind in ("shuffled", "everyday"):
        rows = Relearn(data="out_of_domain", unrelated=kind)._rows(b.data)
        assert rows and all(name not in f"{r.prompt} {r.answer}".casefold() for r in rows for name in names)
        assert all(own.get(r.prompt) != r.answer for r in rows)


def test_a_file_that_tells_the_answers_is_refused(b, tmp_path) -> None:
    """Named with its code and the first row; a harmless file trains; a file for in_domain is no split of facts."""
    leak, clean = tmp_path / "leak.jsonl", tmp_path / "clean.jsonl"
    row = b.data.eval["forget"][0]
    leak.write_text(json.dumps({"id": "x1", "prompt": "Tell me.", "answer": row.answer}))
    clean.write_text('{"id": "x1", "prompt": "What is tea?", "answer": "A drink."}\n')
    with pytest.raises(NeedsError, match="x1") as refused:
        next(Relearn(data="out_of_domain", path=str(leak)).points(context(b)))
    assert refused.value.code == "attack.test-answers"
    point = next(Relearn(data="out_of_domain", path=str(clean), steps=(1,)).points(context(b)))
    assert point.supplied["rows"] == 1
    assert "benign" in Relearn(data="in_domain", path=str(clean)).check(b.data)
    with pytest.raises(DataError):
        Relearn(data="benign", path=str(tmp_path / "none.jsonl")).check(b.data)


def test_rows_limit_is_the_attackers_budget(b) -> None:
    assert len(Relearn(data="benign", rows=5)._rows(b.data)) == 5


def test_rows_of_a_file_are_spread_evenly_too(b, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"id": "x{i}", "prompt": "What is {i}?", "answer": "A number."}}\n' for i in range(10)))
    assert [r.id for r in Relearn(data="benign", path=str(path), rows=4)._rows(b.data)] == ["x0", "x2", "x5", "x7"]


# -- relearning
# -----------------------------------------------------------------------------------------------------------------
def test_sweep_keeps_the_curve_of_the_worst_rate(b) -> None:
    """A rate that does nothing loses; what is yielded equals training at the chosen rate alone, bit for bit, at every
    stop (so nothing is trained again or mixed up)."""
    rate = b.spec.target.train.lr / 5
    swept = Relearn(sweep=(1e-4, 1.0), steps=(2, 6))
    seen = [(p.supplied["learning_rate"], digest(p.adapter)) for p in swept.points(context(b, b.model("reference")))]
    alone = [digest(p.adapter) for p in Relearn(lr=rate, steps=(2, 6)).points(context(b, b.model("reference")))]
    assert seen == [(rate, d) for d in alone]
    assert swept.forwards(b.data) > Relearn(lr=rate, steps=(2, 6)).forwards(b.data)


def test_only_what_was_shown_counts_as_supplied(b, monkeypatch) -> None:
    """Against the rows that went into a batch: part of them after one step, all after an epoch."""
    shown: dict[str, int] = {}
    collate, presented = CausalLM.collate, []

    def watched(self, rows, index):
        if torch.is_grad_enabled():  # not the row that tells whether the model shows its logits
            shown.update({r.row_id: r.labels for r in rows})
            presented.append(len(rows))
        return collate(self, rows, index)

    monkeypatch.setattr(CausalLM, "collate", watched)
    attack = Relearn(steps=(1, 9), batch_size=4)
    seen = []
    for point in attack.points(context(b)):
        given = [point.supplied[name] for name in ("rows", "label_tokens", "row_presentations")]
        assert given == [len(shown), sum(shown.values()), sum(presented)]
        seen.append(len(shown))
    assert seen == [4, len(attack._rows(b.data))] and seen[1] > 4


class Scripted:
    """A course whose one weight follows a script; the value on validation is the weight."""

    def __init__(self, values: tuple[float, ...]) -> None:
        self.values, self.adapter = values, torch.nn.Linear(1, 1, bias=False)

    def run(self, stops):
        for stop, value in zip(stops, self.values, strict=True):
            if value != value:
                raise RunFailed("train.non-finite", "diverged")
            with torch.no_grad():
                self.adapter.weight.fill_(value)
            yield stop

    def trained(self):
        return dict(self.adapter.named_parameters())


def test_worst_case_is_the_highest_at_any_stop(monkeypatch) -> None:
    """.1 .9 .2 beats .3 .4 .5; a course that diverges is out; all diverging is the attack's failure."""
    monkeypatch.setattr(
        "efface.attacks.training.answer_probability", lambda adapter, rows: float(adapter.weight.detach())
    )
    low, high, wild = (0.3, 0.4, 0.5), (0.1, 0.9, 0.2), (0.8, float("nan"), 0.0)
    trail = [
        (s, round(float(c.adapter.weight.detach()), 3))
        for s, c in worst_case(map(Scripted, (low, high, wild)), (1, 2, 3), [])
    ]
    assert trail == [(1, 0.1), (2, 0.9), (3, 0.2)]
    with pytest.raises(RunFailed):
        list(worst_case(map(Scripted, (wild,)), (1, 2, 3), []))


def guarded(b, kind: str):
    target = b.model("target")
    if kind == "bias":
        bias = torch.zeros(target.hf.get_output_embeddings().weight.shape[0])
        bias[5:60] = -9.0
        return LogitBias(fingerprint(target), "test", {"bias": bias}).attach(target)
    config = {"names": sorted({r.entity for r in b.data.eval["forget"]}), "instead": "What can you tell me?"}
    return Instruction(fingerprint(target), "test", config=config).attach(target)


@pytest.mark.parametrize("kind", ["bias", "instruction"])
def test_relearning_trains_the_model_behind_its_guard(b, kind: str) -> None:
    """The same weights as from the bare model, bit for bit, and no guard at the measured point."""
    attack = Relearn(steps=(2,))
    behind, plain = (next(attack.points(context(b, m))) for m in (guarded(b, kind), b.model("target")))
    assert digest(behind.adapter) == digest(plain.adapter)
    rows = b.data.eval["forget"][:3]
    assert outputs(behind.adapter, rows) == outputs(plain.adapter, rows)


def test_lora_trains_an_adapter_only(b) -> None:
    point = next(Relearn(lora=True, steps=(2,)).points(context(b)))
    everything = sum(p.numel() for p in b.model("target").module.parameters())
    assert 0 < point.supplied["trained_parameters"] < everything / 2
    assert point.supplied["learning_rate"] == b.spec.target.train.lr and point.supplied["label_tokens"] > 0


# -- pruning
# -----------------------------------------------------------------------------------------------------------------
def test_set_difference_by_hand() -> None:
    """Ten neurons. Forget's top 30%: 9, 8, 7; retain's top 20%: 8, 0. What goes: 7 and 9."""
    forget = torch.arange(10.0)
    retain = torch.tensor([5.0, 0, 0, 0, 0, 0, 0, 0, 9, 1])
    assert set_difference(forget, retain, 0.3, 0.2).nonzero().flatten().tolist() == [7, 9]


def test_importance_is_weight_times_activation(b) -> None:
    """Against inputs caught question by question, position 0 left out."""
    model, rows = b.model("target"), list(b.data.train["forget"])[:5]
    layer = model.blocks[1].mlp.down_proj
    found = importance(model, rows, {"x": layer})["x"]
    squares = torch.zeros(layer.in_features)
    for row in rows:
        caught = []
        handle = layer.register_forward_pre_hook(lambda m, args, caught=caught: caught.append(args[0][0, 1:]))
        with torch.no_grad():
            model.module(torch.tensor([model.template.prompt_ids(model.tokenizer, row.prompt)]))
        handle.remove()
        squares += caught[0].square().sum(0)
    expected = layer.weight.norm(dim=0) * squares.sqrt()
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_pruning_spares_what_kept_questions_need(b) -> None:
    """Zeroed columns lie outside the top share for retain questions; each point starts from the unpruned weights."""
    attack = Prune(forget_shares=(0.1, 0.2), retain_shares=(0.5,))
    points = [(digest(p.adapter), p.supplied["pruned_neurons"]) for p in attack.points(context(b))]
    alone = next(Prune(forget_shares=(0.2,), retain_shares=(0.5,)).points(context(b)))
    assert points[1] == (digest(alone.adapter), alone.supplied["pruned_neurons"]) and 0 < points[0][1] <= points[1][1]
    model = b.model("target")
    layers = {"x": model.blocks[0].mlp.down_proj}
    kept = importance(model, attack._questions(b.data, "retain"), layers)["x"]
    gone = (alone.adapter.blocks[0].mlp.down_proj.weight == 0).all(0)
    assert gone.any() and float(kept[gone].max()) < float(kept.median())


def test_pruning_puts_in_questions_only(b) -> None:
    """Other answers to the same questions give the same weights: no tested answer is read."""
    other = replace(b.data, train={k: [replace(r, answer="zzz") for r in v] for k, v in b.data.train.items()})
    a, c = (next(Prune().points(AttackContext(b.model("target"), d))) for d in (b.data, other))
    assert digest(a.adapter) == digest(c.adapter)


# -- mixing back
# -----------------------------------------------------------------------------------------------------------------
def test_mixing_ends_at_the_original_and_supplies_all_of_it(b) -> None:
    attack, original = MixBack(shares=(0.25, 1.0)), b.model("target")
    start = dict(b.model("reference").module.state_dict())
    seen = []
    for point in attack.points(context(b, b.model("reference"), original=lambda: b.model("target"))):
        seen.append({n: t.clone() for n, t in point.adapter.module.state_dict().items()})
        assert point.supplied["bits"] == 32 * point.supplied["original_weights"] > 0
    for name, end in original.module.state_dict().items():
        assert torch.allclose(seen[1][name], end, atol=1e-6)
        assert torch.allclose(seen[0][name], start[name] + 0.25 * (end - start[name]), atol=1e-6)


def test_mixing_needs_the_same_shape(b) -> None:
    other = b.model("target")
    other.module.lm_head = torch.nn.Linear(8, 8)
    with pytest.raises(NeedsError, match="same parameters"):
        next(MixBack().points(context(b, original=lambda: other)))


# -- removing the guard
# -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "open_from"), [("instruction", 0), ("bias", 1)])
def test_removing_a_guard_leaves_the_bare_weights(b, kind: str, open_from: int) -> None:
    """Until its own point the guard holds; from then on the outputs are the target's, bit for bit."""
    rows = b.data.eval["forget"][:4]
    plain, model = outputs(b.model("target"), rows), guarded(b, kind)
    hidden = outputs(model, rows)
    trail = [outputs(p.adapter, rows) for p in RemoveGuard().points(context(b, model))]
    assert hidden != plain and len(trail) == 4
    assert trail == [hidden] * open_from + [plain] * (4 - open_from)


def test_a_model_without_a_guard_stays_as_it_is(b) -> None:
    rows = b.data.eval["forget"][:4]
    plain = outputs(b.model("reference"), rows)
    points = [(outputs(p.adapter, rows), p.supplied) for p in RemoveGuard().points(context(b, b.model("reference")))]
    assert points == [(plain, {"things_found": 0})] * 4


def with_adapter(b):
    """The target with a LoRA adapter that does something, and its artifact."""
    model = b.model("target")
    add_lora(model, Select(kind="lora", rank=4), seed=1)
    stream = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in model.module.named_parameters():
            if ".lora_B." in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=stream))
    return model, LoRA.of(model, b.model("target"), "test")


def test_an_adapter_is_halved_and_then_taken_off(b) -> None:
    """Half is the artifact at strength .5; nothing left is the target itself, bit for bit."""
    model, artifact = with_adapter(b)
    rows = b.data.eval["forget"][:4]
    trail = [outputs(p.adapter, rows) for p in RemoveGuard().points(context(b, model))]
    half = outputs(artifact.attach(b.model("target"), 0.5), rows)
    assert trail[2] == half and trail[3] == outputs(b.model("target"), rows) and trail[0] == trail[1] != half


def test_merging_keeps_what_the_adapter_does(b) -> None:
    """Before rounding or relearning, the adapter goes into the weights; outputs stay, and no peft wrapper is left."""
    model, _ = with_adapter(b)
    rows = b.data.eval["forget"][:3]
    before = outputs(model, rows)
    after = merged(model)
    assert not hasattr(after.module, "peft_config") and set(roundable(after)) == set(roundable(b.model("target")))
    for one, other in zip(before, outputs(after, rows), strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert before != outputs(b.model("target"), rows) and bare(after) is after


# -- in an audit
# -----------------------------------------------------------------------------------------------------------------
def runner(b, **roles) -> Runner:
    suite = Suite(name="x", metrics={}, attack_metrics=["probability"])
    held = {name: Role(lambda m=m: m) for name, m in roles.items()}
    built = b.spec.target.train
    return Runner(held, b.data, suite, PassSettings(8), seed=0, resamples=50, cache=None, built_with=built)


def test_a_curve_cut_short_by_its_time_is_kept_and_marked(b) -> None:
    """No time at all: one point, which is kept, marked and matched by as many of the control."""
    result = runner(b, unlearned=b.model("target"), reference=b.model("reference")).run(
        AttackEntry(name="relearn", settings={"steps": (1, 2, 3)}), seconds=0.0
    )
    assert result.partial and "time was up after 1 points" in result.reason
    assert {role: len(curve.points) for role, curve in result.curves.items()} == {"unlearned": 2, "reference": 2}
    assert result.curves["unlearned"].points[1]["budget"] == {"steps": 1}


def test_mix_back_without_an_original_says_so(b) -> None:
    found = runner(b, unlearned=b.model("target"), reference=b.model("reference")).run(AttackEntry(name="mix_back"))
    assert found.reason == "it needs the model before unlearning, and there is none" and not found.curves
