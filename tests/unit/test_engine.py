"""The loop: same bits for the same seed, micro-batches, resume, selection, masks, schedules, processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from efface.engine import optimizer
from efface.engine.batches import Sampler, cut
from efface.engine.finetune import fit, fit_in_parts
from efface.engine.select import Saliency, trainable
from efface.engine.settings import Select, TrainSettings
from efface.errors import NeedsError, RunFailed
from efface.methods.base import METHODS, Context
from efface.models.base import Encoded, ModelAdapter
from efface.testing.bench import bench

FAST = TrainSettings(lr=1e-3, steps=6, batch_size=8, warmup=0.0, select=Select(freeze_head=False))


@pytest.fixture(scope="module")
def lm():
    return bench("causal_lm")


def trained(b, settings: TrainSettings = FAST, **options) -> ModelAdapter:
    adapter = b.model("base")
    fit(adapter, list(b.data.train["retain"])[:24], settings, seed=1, **options)
    return adapter


def same(a: ModelAdapter, b: ModelAdapter) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.module.parameters(), b.module.parameters(), strict=True))


def test_same_seed_same_bits_and_other_seed_other_bits(lm) -> None:
    assert same(trained(lm), trained(lm))
    other = lm.model("base")
    fit(other, list(lm.data.train["retain"])[:24], FAST, seed=2)
    assert not same(trained(lm), other)


def test_micro_batches_change_nothing(lm) -> None:
    """Two steps of SGD-like size: the gradient of 8 x 1 and 1 x 8 agree to rounding; AdamW's first step only has its
    sign."""
    whole, split = (
        trained(lm, FAST.model_copy(update={"token_budget": budget, "steps": 2, "optimizer": "sgd", "lr": 0.5}))
        for budget in (1 << 16, 1)
    )
    for a, b in zip(whole.module.parameters(), split.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


class Killed(Exception):
    pass


def killer(at: int):
    def log(event: dict) -> None:
        if event.get("step") == at and event["event"] == "step":
            raise Killed

    return log


@pytest.mark.parametrize("at", [1, 3, 5])
def test_resume_gives_the_same_bits(lm, tmp_path: Path, at: int) -> None:
    """Killed after step ``at`` (checkpoints at 2 and 4 of 6), then run again: bit for bit the uninterrupted result."""
    with pytest.raises(Killed):
        trained(lm, FAST, checkpoints=tmp_path, log=killer(at))
    resumed: list[dict] = []
    again = trained(lm, FAST, checkpoints=tmp_path, log=resumed.append)
    assert same(again, trained(lm))
    assert [e["step"] for e in resumed if e["event"] == "resumed"] == ([at - at % 2] if at > 1 else [])


def test_parts_equal_one_go(lm) -> None:
    """Yielding in between changes nothing."""
    adapter = lm.model("base")
    constant = FAST.model_copy(update={"schedule": "constant"})
    stops = list(fit_in_parts(adapter, list(lm.data.train["retain"])[:24], constant, seed=1, stops=(2, 5, 6)))
    assert stops == [2, 5, 6] and same(adapter, trained(lm, constant))


def test_layers_and_modules_move_and_nothing_else(lm) -> None:
    settings = FAST.model_copy(update={"select": Select(kind="layers", first=1, last=1, modules=("down_proj",))})
    before, after = lm.model("base"), trained(lm, settings)
    moved = {
        n
        for (n, a), b in zip(before.module.named_parameters(), after.module.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert moved == {"model.layers.1.mlp.down_proj.weight"}


def test_frozen_head_stays(lm) -> None:
    before, after = lm.model("base"), trained(lm, FAST.model_copy(update={"select": Select(freeze_head=True)}))
    head = set(before.head_parameters())
    state = dict(after.module.named_parameters())
    assert head and all(torch.equal(p, state[n]) == (n in head) for n, p in before.module.named_parameters())


def test_nothing_selected_is_refused(lm) -> None:
    with pytest.raises(NeedsError, match="train.nothing-selected"):
        trainable(lm.model("base"), Select(modules=("no_such_module",)), 0)
    with pytest.raises(NeedsError, match="train.bad-layers"):
        trainable(lm.model("base"), Select(kind="layers", first=1, last=9), 0)


def test_lora_trains_only_the_adapter(lm) -> None:
    before = lm.model("base")
    after = trained(lm, FAST.model_copy(update={"select": Select(kind="lora", rank=4)}))
    inner = dict(after.module.get_base_model().named_parameters())
    for name, p in before.module.named_parameters():
        plain = inner.get(name, inner.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(p, plain), name
    assert any(float(p.detach().abs().sum()) > 0 for n, p in after.module.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_saliency_mask_freezes_rows_exactly(lm, decay: float) -> None:
    """SURE: frozen rows keep their bits, weight decay or not; some rows move."""
    settings = FAST.model_copy(
        update={"weight_decay": decay, "select": Select(freeze_head=True, mask="saliency", mask_percentile=80.0)}
    )
    before, after = lm.model("base"), trained(lm, settings)
    frozen = moved = 0
    for (name, a), b in zip(before.module.named_parameters(), after.module.parameters(), strict=True):
        if name in before.head_parameters():
            continue
        rows = (a != b).reshape(a.shape[0], -1).any(1)
        moved += int(rows.sum()) * a[0].numel()
        frozen += int((~rows).sum()) * a[0].numel()
    assert 0.05 < moved / (moved + frozen) < 0.35


def test_saliency_threshold_by_hand() -> None:
    """Rows of norm 1, 2, 3, 4 (one weight each): the 50th percentile keeps 3 and 4 free."""
    p = torch.nn.Parameter(torch.zeros(4, 1))
    mask = Saliency({"w": p}, 50.0)
    mask.measure([torch.tensor([[1.0], [2.0], [3.0], [4.0]])])
    assert mask.masks["w"].tolist() == [False, False, True, True] and mask.share() == 0.5


def test_a_moving_mask_keeps_what_earlier_masks_moved() -> None:
    """Two rows, SGD at rate 1, half of them frozen: gradients (2, 1), then (1, 2). Each row moves once, by 2."""
    weight = torch.nn.Parameter(torch.zeros(2, 1))
    mask, step = Saliency({"w": weight}, 50), torch.optim.SGD([weight], lr=1.0)
    for gradient in ([[2.0], [1.0]], [[1.0], [2.0]]):
        mask.measure([torch.tensor(gradient)])
        weight.grad = torch.tensor(gradient)
        mask.filter_gradients()
        step.step()
        mask.restore()
    assert weight.tolist() == [[-2.0], [-2.0]]


def test_lora_on_blocks_there_are_not_is_refused(lm) -> None:
    for first, last in ((40, None), (1, 0), (0, 99)):
        with pytest.raises(NeedsError, match=r"train\.bad-layers"):
            trainable(lm.model("base"), Select(kind="lora", first=first, last=last), 0)
    with pytest.raises(ValueError, match="kind: layers or lora"):
        Select(first=1)


def unlearned(b, name: str, folder: Path | None = None, **change) -> Context:
    context = Context(
        b.model("target"),
        b.data.train["forget"],
        list(b.data.train["retain"])[:16],
        FAST.model_copy(update={"steps": 2} | change),
        checkpoints=folder,
    )
    METHODS.get(name)().apply(context)
    return context


def test_a_rule_that_is_named_wins_over_the_methods_own(lm) -> None:
    """npo_sam with the plain sum is npo; the record says which rule ran."""
    own, plain, npo = (unlearned(lm, n, rule=r) for n, r in (("npo_sam", None), ("npo_sam", "sum"), ("npo", None)))
    assert own.notes["training"]["rule"] == "sam" and plain.notes["training"]["rule"] == "sum"
    assert same(plain.adapter, npo.adapter) and not same(own.adapter, npo.adapter)


def test_the_logged_likelihood_is_that_of_the_weights_themselves(lm) -> None:
    """SAM's second pass is beside the weights, TAR's last after an adversary; step 1 logs what plain ascent does."""
    logged = {}
    for rule in ("sum", "sam", "tar"):
        events: list[dict] = []
        context = Context(
            lm.model("target"),
            lm.data.train["forget"],
            (),
            FAST.model_copy(update={"steps": 1, "rule": rule}),
            log=events.append,
        )
        METHODS.get("grad_ascent")().apply(context)
        logged[rule] = next(e["forget_nll"] for e in events if e["event"] == "step")
    assert logged["sam"] == logged["tar"] == logged["sum"]


def test_a_stopped_run_stays_stopped(lm, tmp_path: Path) -> None:
    """Killed after the step that passed the limit, on a checkpoint: the run that goes on takes no further step."""
    from efface.engine.loop import start

    options = {"steps": 40, "lr": 3e-3, "stop_nll": 1.0, "checkpoint_every": 1}
    whole = unlearned(lm, "grad_ascent", **options)
    run = start(
        METHODS.get("grad_ascent")(),
        Context(
            lm.model("target"),
            lm.data.train["forget"],
            (),
            FAST.model_copy(update=options),
            checkpoints=tmp_path,
        ),
    )
    run.prepare()
    run.until(40)
    assert run.stopped and run.step < 40
    again = unlearned(lm, "grad_ascent", tmp_path, **options)
    assert again.notes["training"]["steps"] == run.step == whole.notes["training"]["steps"]
    assert same(again.adapter, whole.adapter)


def test_methods_are_told_how_many_steps_there_will_be(lm) -> None:
    """Ten rows, six of them longer than the context, batch 2, three epochs: six steps, not fifteen."""
    from dataclasses import replace

    from efface.engine.loop import start

    rows = list(lm.data.train["forget"])[:10]
    rows = [replace(r, answer=r.answer * 200) if i < 6 else r for i, r in enumerate(rows)]
    settings = FAST.model_copy(update={"steps": None, "epochs": 3.0, "batch_size": 2})
    context = Context(lm.model("target"), rows, list(lm.data.train["retain"])[:8], settings)
    method = METHODS.get("pdu")(dual_warmup=0.5)
    run = start(method, context)
    assert run.total == context.steps == 6 and method.warm_steps == 3


def test_learning_rate_by_hand() -> None:
    """10 steps, warm-up 0.2: 0.5 and 1.0 of the peak, then (1 - done) with done = 0/8 .. 7/8."""
    settings = TrainSettings(lr=1.0, warmup=0.2, schedule="linear")
    rates = [optimizer.learning_rate(settings, step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    cosine = settings.model_copy(update={"schedule": "cosine"})
    assert optimizer.learning_rate(cosine, 6, 10) == pytest.approx(0.5)


def test_sampler_covers_every_row_each_epoch() -> None:
    sampler = Sampler(10, 4, 0, "forget")
    seen = [i for step in range(5) for i in sampler.rows(step)]
    assert sorted(seen[:10]) == list(range(10)) and sampler.rows(1) == Sampler(10, 4, 0, "forget").rows(1)
    assert Sampler(10, 4, 0, "retain").rows(0) != sampler.rows(0)


def test_cut_respects_the_budget() -> None:
    rows = [Encoded(str(i), "", None, (), length, 1) for i, length in enumerate([5, 9, 2, 7, 3])]
    parts = cut(rows, range(5), 14)
    assert sorted(i for part in parts for i in part) == [0, 1, 2, 3, 4]
    assert all(max(rows[i].length for i in part) * len(part) <= 14 for part in parts)
    assert [part[0] for part in parts][0] == 1


def test_non_finite_stops_and_keeps_the_checkpoint(lm, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="train.non-finite") as caught:
        trained(lm, FAST.model_copy(update={"lr": 1e18, "optimizer": "sgd", "clip": 0.0}), checkpoints=tmp_path)
    assert caught.value.exit_code == 2 and list(tmp_path.glob("step-*"))


def test_stop_nll_stops_early(lm) -> None:
    method = METHODS.get("grad_ascent")()
    context = Context(
        lm.model("target"),
        list(lm.data.train["forget"])[:16],
        [],
        FAST.model_copy(update={"steps": 60, "lr": 3e-3, "stop_nll": 2.0}),
    )
    method.apply(context)
    assert context.notes["training"]["steps"] < 60 and "stop_nll" in context.notes["training"]["stopped"]


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from efface.engine.distribution import world
from efface.engine.finetune import fit
from efface.engine.settings import Select, TrainSettings
from efface.testing.bench import bench
b = bench("causal_lm")
adapter = b.model("base")
settings = TrainSettings(
    lr=0.5,
    optimizer="sgd",
    steps=2,
    batch_size=8,
    token_budget=int(sys.argv[2]),
    warmup=0.0,
    select=Select(freeze_head=False),
)
fit(adapter, list(b.data.train["retain"])[:24], settings, seed=1)
if world()[0] == 0:
    torch.save([p.detach() for p in adapter.module.parameters()], sys.argv[1])
print("rank", *world())
"""


@pytest.mark.parametrize("budget", [64, 1 << 16])
def test_two_processes_equal_one(lm, tmp_path: Path, budget: int) -> None:
    """The same effective batch over two processes (gloo): same weights up to the order of summation. With the larger
    budget there is one micro-batch only, and one process has nothing to do but to add up."""

    def run(processes: int, out: Path) -> list[torch.Tensor]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": str(processes),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        started = [
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(out), str(budget)],
                env=env | {"RANK": str(r), "LOCAL_RANK": str(r)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for r in range(processes)
        ]
        told = [p.communicate(timeout=240)[0] for p in started]
        assert all(p.returncode == 0 for p in started) and all(
            f"rank {r} {processes}" in told[r] for r in range(processes)
        )
        return torch.load(out, weights_only=True)

    one, two = run(1, tmp_path / "one.pt"), run(2, tmp_path / "two.pt")
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, two, strict=True))
