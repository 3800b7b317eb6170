"""Mechanisms that only a trained model shows: the small bench's target, a few steps, with the mechanism and without."""

from __future__ import annotations

import pytest
import torch

from efface.data.rows import Row
from efface.engine.finetune import fit_in_parts
from efface.engine.settings import Select, TrainSettings
from efface.engine.view import View
from efface.methods.base import METHODS, Context
from efface.metrics.base import Tables
from efface.metrics.parametric import left_buckets
from efface.models.base import ModelAdapter
from efface.models.rounding import roundable
from efface.passes.weight import weight
from efface.testing.battery import mean_log_prob
from efface.testing.bench import bench

TRAIN = {"lr": 2e-3, "steps": 40, "batch_size": 16, "retain_weight": 4.0}


def run(name: str, settings: dict | None = None, seed: int = 0, **train) -> Context:
    """A method on a fresh copy of the bench's target."""
    b = bench()
    context = Context(
        b.model("target"), b.data.train["forget"], b.data.train["retain"], TrainSettings(**{**TRAIN, **train}), seed
    )
    METHODS.get(name)(**(settings or {})).apply(context)
    return context


def weights(adapter: ModelAdapter) -> list[torch.Tensor]:
    return [p.detach().clone() for p in adapter.module.parameters()]


def forget(adapter: ModelAdapter) -> float:
    """Mean log-prob per token of the forget answers."""
    return mean_log_prob(adapter, bench().data.eval["forget"])


def curve(name: str, **train) -> list[float]:
    """``forget`` after 0, 10 and 20 steps of an attacker who fine-tunes on the forget rows."""
    adapter = run(name, **train).adapter
    attack = TrainSettings(lr=5e-4, batch_size=14, schedule="constant", warmup=0.0)
    found = [forget(adapter)]
    for _ in fit_in_parts(adapter, bench().data.train["forget"], attack, seed=9, stops=(10, 20)):
        found.append(forget(adapter))
    return found


# -- robust designs -------------------------------------------------------------------------------------------------
@pytest.mark.mechanism("npo_sam", "SAM: without a perturbation it is NPO, bit for bit")
def test_npo_sam_without_a_perturbation_is_npo() -> None:
    npo, off, on = (
        weights(run(name, steps=3, **train).adapter)
        for name, train in (
            ("npo", {}),
            ("npo_sam", {"rule_settings": {"rho": 0.0}}),
            ("npo_sam", {"rule_settings": {"rho": 0.1}}),
        )
    )
    assert all(map(torch.equal, npo, off)) and not all(map(torch.equal, npo, on))


@pytest.mark.mechanism("npo_sam", "forgetting survives relearning better than NPO's")
def test_npo_sam_loses_less_to_relearning_than_npo() -> None:
    """Measured over seeds 0, 1, 2, nats per token after 10 and 20 attacker steps: NPO -1.85, -1.65, -2.21 and -0.66,
    -0.51, -0.84; NPO+SAM -3.79, -3.12, -3.80 and -1.11, -0.85, -1.85."""
    plain, flat = curve("npo"), curve("npo_sam", rule_settings={"rho": 0.1})
    assert plain[0] < flat[0] + 5 and flat[1] < plain[1] and flat[2] < plain[2]


@pytest.mark.mechanism("tar", "the forget gradient after an adversary's steps makes the relearning curve flat")
def test_tar_makes_the_relearning_curve_flatter() -> None:
    """The same loss without the adversary is grad_diff. Measured over seeds 0, 1, 2 after 20 attacker steps: grad_diff
    -0.85, -0.71, -1.19, TAR -5.37, -5.19, -5.17 nats per token."""
    plain = curve("grad_diff", stop_nll=6.0)
    held = curve("tar", rule_settings={"steps": 8, "lr": 5e-4, "bound": 6.0})
    assert plain[2] > -2.0 and held[2] < plain[2] - 2.0
    assert mean_log_prob(run("tar", steps=4).adapter, bench().data.eval["retain"]) > -1.0


# -- gradient ascent --------------------------------------------------------------------------------------------------
@pytest.mark.mechanism("npo", "beta -> 0 takes the steps of gradient ascent", kind="equality")
def test_npo_with_small_beta_takes_the_steps_of_gradient_ascent() -> None:
    """SGD on rows of one length each: NPO sums log-probs of a row and averages rows, so a row-sum ascent is its limit.
    Two steps agree to 1e-3 of their length."""
    rows = [r for r in bench().data.train["forget"]][:8]
    settings = TrainSettings(lr=1e-2, steps=2, batch_size=8, optimizer="sgd", warmup=0.0, clip=0.0)

    class RowAscent(METHODS.get("grad_ascent")):
        def forget_loss(self, view: View) -> torch.Tensor:
            return -view.mean_rows(view.nll)

    moved = []
    start = bench().model("target")
    for method in (RowAscent(), METHODS.get("npo")(beta=1e-5, retain="none")):
        context = Context(bench().model("target"), rows, (), settings, 0)
        method.apply(context)
        moved.append(
            torch.cat([(a - b).flatten() for a, b in zip(weights(context.adapter), weights(start), strict=True)])
        )
    assert float((moved[0] - moved[1]).norm() / moved[0].norm()) < 1e-2 and float(moved[0].norm()) > 0


@pytest.mark.mechanism("llmu", "e2: random answers become likely")
@pytest.mark.mechanism("opt_ascent", "e2: random answers become likely")
@pytest.mark.mechanism("llmu", "e3: KL keeps normal predictions")
@pytest.mark.mechanism("opt_ascent", "e3: KL keeps normal predictions")
@pytest.mark.parametrize("name", ["llmu", "opt_ascent"])
def test_three_term_ablations(name: str) -> None:
    """Without e2 the mismatched answers stay unlikely; without e3 normal answers fall further."""
    both, no_random, no_normal = (
        run(name, {"answers": 2, **change}, steps=15) for change in ({}, {"random": 0.0}, {"normal": 0.0})
    )
    mismatched = [
        Row(f"x{i}", other.answer, row.prompt)
        for i, (row, other) in enumerate(zip(bench().data.eval["forget"], bench().data.eval["retain"], strict=False))
    ]
    assert mean_log_prob(both.adapter, mismatched) > mean_log_prob(no_random.adapter, mismatched) + 0.5
    kept = [mean_log_prob(c.adapter, bench().data.eval["retain"]) for c in (both, no_normal)]
    assert kept[0] > kept[1] + 0.05


# -- representation -------------------------------------------------------------------------------------------------
@pytest.mark.mechanism("rmu", "steering: forget states end up along u, and along no other direction")
@pytest.mark.mechanism("adaptive_rmu", "steering: forget states end up along u, and along no other direction")
@pytest.mark.parametrize("name, settings", [("rmu", {"coefficient": 25.0}), ("adaptive_rmu", {})])
def test_rmu_steers_to_its_direction(name: str, settings: dict) -> None:
    method = METHODS.get(name)(layer=1, alpha=50.0, **settings)
    b = bench()
    train = TrainSettings(lr=4e-3, steps=40, batch_size=16, select=Select(kind="layers", first=0, last=0))
    context = Context(b.model("target"), b.data.train["forget"], b.data.train["retain"], train, 0)
    method.apply(context)
    states = hidden(context.adapter, "forget")
    along = torch.cosine_similarity(states, method.steering.unit(states), dim=-1).mean()
    others = torch.randn(20, states.shape[-1], generator=torch.Generator().manual_seed(3))
    assert along > 0.6 > 0.4 > torch.cosine_similarity(states[:, None], others, dim=-1).mean(0).abs().max()
    kept = torch.cosine_similarity(hidden(context.adapter, "retain"), hidden(b.model("target"), "retain"), dim=-1)
    assert kept.mean() > 0.95


def hidden(model: ModelAdapter, rows: str) -> torch.Tensor:
    """Float[positions, width]: states of layer 1 at answer positions."""
    encoded = [model.encode(row) for row in bench().data.eval[rows]]
    batch = model.collate(encoded, range(len(encoded)))
    with model.evaluating():
        states = model.forward(batch, logits=False, hidden=(1,)).hidden[1]
    return states[batch.token_mask & batch.answer_mask]


# -- masks ----------------------------------------------------------------------------------------------------------
@pytest.mark.mechanism("pdu", "forget positions are those that predict answer tokens (the released mask is off by one)")
def test_pdu_reads_the_positions_that_predict_the_answer() -> None:
    """Against a plain forward: (max - mean)^2 at the position before each answer token; one position on, it differs."""
    model, rows = bench().model("target"), list(bench().data.eval["forget"])[:3]
    encoded = [model.encode(row) for row in rows]
    batch = model.collate(encoded, range(3))
    found = METHODS.get("pdu")().forget_loss(View(model, batch, "forget", 3, len(batch.label_id)))

    def by_hand(shift: int) -> float:
        values = []
        for row in encoded:
            prompt, answer = list(row.payload.prompt), list(row.payload.branches[0])
            logits = model.hf(input_ids=torch.tensor([prompt + answer])).logits[0].float()
            first = len(prompt) - 1 + shift
            at = logits[first : first + len(answer)]
            values += ((at.max(-1).values - at.mean(-1)) ** 2).tolist()
        return sum(values) / len(values)

    assert found.item() == pytest.approx(by_hand(0), rel=1e-3)
    assert found.item() != pytest.approx(by_hand(1), rel=1e-2)


@pytest.mark.parametrize("dynamic", [False, True])
def test_saliency_mask_is_fixed_at_the_start_or_measured_anew(dynamic: bool) -> None:
    """SURE on NPO: static masks leave the same rows alone in one step and in six; dynamic ones move on."""
    start, counts = weights(bench().model("target")), []
    for steps in (1, 6):
        select = Select(mask="saliency", mask_percentile=95.0, mask_dynamic=dynamic)
        after = weights(run("npo", steps=steps, select=select).adapter)
        counts.append({(i, r) for i, (a, b) in enumerate(zip(after, start, strict=True)) for r in rows_moved(a, b)})
    assert counts[0] and (counts[1] <= counts[0]) == (not dynamic)


def rows_moved(a: torch.Tensor, b: torch.Tensor) -> list[int]:
    return (a != b).reshape(len(a), -1).any(1).nonzero().flatten().tolist()


@pytest.mark.mechanism("needle", "only the chosen value vectors move")
def test_needle_moves_its_columns_and_nothing_else() -> None:
    """Columns 3 and 5 of block 1's down_proj, out of the whole model, with noise and without."""
    start = dict(bench().model("target").module.named_parameters())
    for noise in (1.0, 0.0):
        settings = {"vectors": ((1, 3), (1, 5)), "noise": noise}
        after = run("needle", settings, steps=2).adapter.module.named_parameters()
        moved = {n: (p != start[n]) for n, p in after if not torch.equal(p, start[n])}
        assert list(moved) == ["model.layers.0.mlp.down_proj.weight"]
        assert moved["model.layers.0.mlp.down_proj.weight"].any(0).nonzero().flatten().tolist() == [3, 5]


def test_sure_moves_few_weights_far_enough_to_leave_their_bucket() -> None:
    """SURE is a mask with a larger rate. Of the weights that moved, more are another one of 16 values afterwards, and
    far fewer have moved; both runs have forgotten."""
    target = bench().model("target")

    def moved(context: Context) -> tuple[int, float]:
        before, after = (dict(a.module.named_parameters()) for a in (target, context.adapter))
        table = weight(before, after, roundable(target))
        tables = Tables(lambda role, need: table, "")
        return sum(table["changed"].to_pylist()), left_buckets(tables, 4).value

    plain = run("npo", lr=5e-4)
    sure = run("npo", lr=4e-3, select=Select(mask="saliency", mask_percentile=90.0))
    assert max(forget(c.adapter) for c in (plain, sure)) < -1.0
    (many, few_leave), (few, many_leave) = moved(plain), moved(sure)
    assert few < 0.2 * many and many_leave > 2 * few_leave
