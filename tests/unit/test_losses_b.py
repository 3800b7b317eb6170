"""Representation, rejection and robust losses by hand arithmetic."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from efface.data.rows import Row
from efface.engine.representation import Steering, at_depth, check_layers, mean_positions
from efface.engine.settings import Select, TrainSettings
from efface.engine.targets import Targets, soft_cross_entropy
from efface.engine.view import View
from efface.errors import DataError, NeedsError, SpecError
from efface.methods.base import METHODS, Context
from efface.methods.language import elm, lat, npo_irm, repnoise, whp
from efface.models.base import Batch, Encoded, Output
from efface.models.causal_lm import CausalLM
from efface.models.tiny import build_tokenizer, tiny_model

LOG = math.log


@dataclass
class Known:
    """A reference with given values."""

    logp_values: Tensor | None = None
    hidden_values: Tensor | None = None
    norm: float = 1.0
    rows: dict = field(default_factory=dict)

    def logp(self, stream: str, batch: Batch) -> Tensor:
        return self.logp_values

    def nll(self, stream: str, batch: Batch) -> Tensor:
        zero = torch.zeros(len(batch.index))
        return zero.index_add(0, batch.label_row, -self.logp_values)

    def hidden(self, stream: str, layer: int, batch: Batch) -> Tensor:
        return self.hidden_values

    def mean_norm(self, stream: str, layer: int) -> float:
        return self.norm


def batch(labels: list[list[int]], width: int = 6, mask: list[list[int]] | None = None) -> Batch:
    """Rows with one branch: row r has `labels[r]`, predicted by positions 1, 2, ...; position 0 is masked."""
    flat = [(r, i, label) for r, row in enumerate(labels) for i, label in enumerate(row)]
    rows = [Encoded(f"row{r}", "", None, ("answer",), width, len(row)) for r, row in enumerate(labels)]
    true = torch.tensor(mask, dtype=torch.bool) if mask else torch.ones(len(labels), width, dtype=torch.bool)
    true[:, 0] = False
    answer = torch.zeros(len(labels), width, dtype=torch.bool)
    for r, i, _ in flat:
        answer[r, i + 2] = True
    return Batch(
        torch.arange(len(labels)),
        {},
        torch.tensor([r for r, _, _ in flat]),
        torch.zeros(len(flat), dtype=torch.long),
        torch.tensor([label for *_, label in flat]),
        torch.tensor([r * width + i + 1 for r, i, _ in flat]),
        true,
        answer,
        rows,
    )


def view(
    labels: list[list[int]],
    *,
    logits: Tensor | None = None,
    hidden: Tensor | None = None,
    reference: Known | None = None,
    layer: int = 1,
    rows_total: int | None = None,
    tokens_total: int | None = None,
    **kwargs,
) -> View:
    """A view with given outputs instead of a model."""
    made = batch(labels, hidden.shape[1] if hidden is not None else 6, **kwargs)
    out = View(None, made, "forget", rows_total or len(labels), tokens_total or sum(map(len, labels)), reference)
    out.__dict__["_out"] = Output(logits, {} if hidden is None else {layer: hidden})
    return out


def started(
    name: str, reference: Known, seed: int = 0, train: TrainSettings | None = None, forget: int = 4, **settings
):
    """A method after `start`, reading layer 1, without a model."""
    method = METHODS.get(name)(**settings)
    context = Context(
        None,
        [Row(f"r{i}", "a") for i in range(forget)],
        [Row("k", "a")],
        train or TrainSettings(),
        seed,
        reference=reference,
    )
    method.layer = 1
    method.start(context)
    return method


# -- shared pieces of representation losses -------------------------------------------------------------------------


def test_mean_positions_is_per_row_and_ignores_the_rest() -> None:
    """Row 0: (1 + 3)/2 = 2; row 1: 5; a row without positions: 0, not nan. Infinite masked values do not leak."""
    values = torch.tensor([[math.inf, 1.0, 3.0], [9.0, 5.0, math.nan], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    assert mean_positions(values, mask).tolist() == [2.0, 5.0, 0.0]


def test_direction_is_a_function_of_the_seed_and_has_length_one() -> None:
    like = torch.zeros(1, 1, 64)
    units = [Steering(seed, "gaussian", 1.0, None).unit(like) for seed in (3, 3, 4)]
    assert torch.equal(units[0], units[1]) and not torch.equal(units[0], units[2])
    assert float(units[0].norm()) == pytest.approx(1.0) and (units[0] < 0).any()
    assert (Steering(3, "positive", 1.0, None).unit(like) >= 0).all()


class Blocks:
    """As much of an adapter as `check_layers` looks at: four blocks with an MLP each."""

    def __init__(self) -> None:
        self.blocks = [torch.nn.ModuleDict({"mlp": torch.nn.Linear(2, 2)}) for _ in range(4)]
        self.module = torch.nn.ModuleList(self.blocks)


def test_check_layers_refuses_what_training_cannot_reach() -> None:
    """Layer 2 is the output of block index 1: training blocks 2.. cannot move it, training block 1 can."""
    adapter = Blocks()
    check_layers(adapter, Select(kind="layers", first=1, last=1), (2,), "rmu")
    with pytest.raises(NeedsError, match="method.layer-before-training"):
        check_layers(adapter, Select(kind="layers", first=2), (2,), "rmu")
    with pytest.raises(NeedsError, match="method.layer-before-training"):
        check_layers(adapter, Select(modules=("attn",)), (2,), "rmu")
    with pytest.raises(NeedsError, match="method.bad-layer"):
        check_layers(adapter, Select(), (5,), "rmu")
    assert [at_depth(adapter, s) for s in (0.01, 0.25, 0.5, 1.0)] == [1, 1, 2, 4]


# -- RMU ------------------------------------------------------------------------------------------------------------


@pytest.mark.mechanism("adaptive_rmu", "||h - c u||^2 / norm^2", kind="loss")
def test_rmu_forget_by_hand() -> None:
    """Reference norm 10, factor 2 -> c = 20, both errors divided by 100. A state equal to c u costs 0; a zero state
    costs c^2/100 = 4. Row 0 has one of each (mean 2), row 1 has one zero state (4): mean over rows 3."""
    rmu = started("adaptive_rmu", Known(norm=10.0), factor=2.0)
    hidden = torch.zeros(2, 3, 8)
    hidden[0, 1] = 20 * rmu.steering.unit(hidden)
    made = view([[1], [1]], hidden=hidden, mask=[[1, 1, 1], [1, 1, 0]])
    assert float(rmu.forget_loss(made)) == pytest.approx(3.0, rel=1e-5)


@pytest.mark.mechanism("rmu", "alpha ||h - h_ref||^2 / norm^2", kind="loss")
def test_rmu_retain_by_hand_and_alpha() -> None:
    """One row, positions 1 and 2 with drifts of squared length 4 and 0: mean 2; / norm^2 = 4 -> 0.5; alpha 10 -> 5."""
    reference = Known(hidden_values=torch.zeros(1, 3, 4), norm=2.0)
    hidden = torch.zeros(1, 3, 4)
    hidden[0, 1, 0] = 2.0
    made = view([[1]], hidden=hidden, reference=reference)
    assert float(started("rmu", reference, alpha=10.0).retain_loss(made)) == pytest.approx(5.0)
    plain = started("rmu", reference, alpha=1.0, normalise=False)
    assert float(plain.retain_loss(made)) == pytest.approx(2.0 / 4)  # mean squared error over the width 4


@pytest.mark.mechanism("adaptive_rmu", "c follows the model's own norm", kind="equality")
@pytest.mark.mechanism("rmu", "c is fixed unless asked for", kind="equality")
def test_rmu_fixed_and_adaptive_coefficient() -> None:
    assert started("rmu", Known(norm=140.0)).steering.coefficient == 6.5
    assert started("adaptive_rmu", Known(norm=140.0)).steering.coefficient == pytest.approx(5 * 140.0)
    assert started("rmu", Known(norm=140.0), adaptive=True, factor=3.0).steering.coefficient == pytest.approx(420.0)


def test_rmu_position_zero_and_padding_have_no_influence() -> None:
    """Huge states at position 0 and at padding change neither value nor gradient of either term."""
    reference = Known(hidden_values=torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)), norm=3.0)
    rmu = started("rmu", reference)
    quiet = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))
    loud = quiet.clone()
    loud[:, 0], loud[1, 3] = 2e4, -1e4
    values = []
    for states in (quiet, loud):
        states.requires_grad_(True)
        made = view([[1], [1]], hidden=states, reference=reference, mask=[[1, 1, 1, 1], [1, 1, 1, 0]])
        total = rmu.forget_loss(made) + rmu.retain_loss(made)
        total.backward()
        values.append(float(total.detach()))
        assert not states.grad[:, 0].any() and not states.grad[1, 3].any() and states.grad[0, 3].any()
    assert values[0] == values[1]


def test_rmu_answer_positions_only() -> None:
    """Labels sit at positions 2..: with `where: answer` the state at position 1 gets no gradient."""
    hidden = torch.ones(1, 4, 8, requires_grad=True)
    started("rmu", Known(), where="answer").forget_loss(view([[1, 2]], hidden=hidden)).backward()
    assert not hidden.grad[0, :2].any() and hidden.grad[0, 2:].any()


def test_rmu_adds_over_micro_batches() -> None:
    """Two rows of different length at once equal one by one with the sizes of the whole batch."""
    rmu = started("rmu", Known(norm=2.0))
    hidden = torch.randn(2, 4, 8)
    mask = [[1, 1, 1, 1], [1, 1, 0, 0]]
    both = rmu.forget_loss(view([[1], [1]], hidden=hidden, mask=mask))
    apart = [
        rmu.forget_loss(view([[1]], hidden=hidden[r : r + 1], mask=mask[r : r + 1], rows_total=2)) for r in range(2)
    ]
    assert float(both) == pytest.approx(float(sum(apart)), rel=1e-6)


def test_rmu_without_retain_weight_needs_no_retain_rows() -> None:
    bare = METHODS.get("rmu")(alpha=0.0)
    assert not bare.needs.retain and bare.retain_loss(None) is None and METHODS.get("rmu")().needs.retain


# -- RR -------------------------------------------------------------------------------------------------------------


def rr(reference: Known, **settings):
    """RR on layer 1, four steps."""
    method = METHODS.get("rr")(layers=(1,), nudge=0.0, **settings)
    rows = [Row(f"r{i}", "a") for i in range(4)]
    method.start(Context(Blocks(), rows, rows, TrainSettings(), 0, reference=reference, steps=4))
    return method


@pytest.mark.mechanism("rr", "alpha (1 - p) relu(cos) and alpha p ||h - h_ref||, p = t/2T", kind="loss")
def test_rr_by_hand() -> None:
    """Cosines to the reference at positions 1, 2: 1 and -1 -> relu mean 0.5; alpha 10, p 0 -> 5.
    Drifts 0 and 2 -> mean 1, norm 4 -> 0.25; p 0 -> 0."""
    reference = Known(hidden_values=torch.tensor([[[0.0, 0], [1, 0], [1, 0]]]), norm=4.0)
    method = rr(reference)
    made = view([[1]], hidden=torch.tensor([[[5.0, 5], [1, 0], [-1, 0]]]), reference=reference)
    assert float(method.forget_loss(made)) == pytest.approx(5.0)
    assert float(method.retain_loss(made)) == 0.0
    method.after_step(2, report := {})
    assert method.progress == pytest.approx(2 / 8) == report["schedule"]  # T = 4 steps, t / 2T
    assert float(method.forget_loss(made)) == pytest.approx(10 * 0.75 * 0.5)
    assert float(method.retain_loss(made)) == pytest.approx(10 * 0.25 * 0.25)


def test_rr_schedule_survives_a_checkpoint() -> None:
    first, second = rr(Known()), rr(Known())
    first.after_step(3, {})
    second.load_state(first.state())
    assert second.progress == first.progress > 0


@pytest.mark.mechanism("rr", "the nudge that leaves the maximum of the cosine")
def test_rr_nudge_gives_the_first_step_a_gradient() -> None:
    """At h = h_ref the cosine is at its maximum: without the nudge the gradient vanishes, with it it does not."""
    states = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    sizes = []
    for nudge in (0.0, 0.01):
        method = rr(reference := Known(hidden_values=states))
        method.settings = method.settings.model_copy(update={"nudge": nudge})
        hidden = states.clone().requires_grad_(True)
        method.forget_loss(view([[1]], hidden=hidden, reference=reference)).backward()
        sizes.append(float(hidden.grad.norm()))
    assert sizes[0] < 1e-5 < 1e-3 < sizes[1]


def test_rr_position_zero_and_padding_have_no_influence() -> None:
    reference = Known(hidden_values=torch.randn(1, 4, 8))
    method = rr(reference)
    method.after_step(2, {})
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    made = view([[1]], hidden=hidden, reference=reference, mask=[[1, 1, 1, 0]])
    (method.forget_loss(made) + method.retain_loss(made)).backward()
    assert not hidden.grad[0, 0].any() and not hidden.grad[0, 3].any() and hidden.grad[0, 1:3].any()


# -- NPO with robust designs ----------------------------------------------------------------------------------------


def two_tokens() -> tuple[Tensor, Known]:
    """One row, gold tokens with p 1/2 and 1/4 (summed log-prob -ln 8); the reference gave 1/2 and 1/2 (-ln 4)."""
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))
    return logits, Known(torch.log(torch.tensor([0.5, 0.5])))


@pytest.mark.mechanism("npo_sam", "NPO with summed log-probs", kind="loss")
def test_npo_sam_loss_by_hand() -> None:
    """beta 1: gap = -ln 8 + ln 4 = -ln 2; 2 softplus(-ln 2) = 2 ln(1 + 1/2). token_mean: gap -ln2 / 2."""
    logits, reference = two_tokens()
    made = view([[0, 1]], logits=logits, reference=reference)
    assert METHODS.get("npo_sam").update_rule == "sam"
    assert float(METHODS.get("npo_sam")(beta=1.0).forget_loss(made)) == pytest.approx(2 * LOG(1.5), rel=1e-5)
    mean = METHODS.get("npo_sam")(beta=1.0, log_prob="token_mean")
    assert float(mean.forget_loss(made)) == pytest.approx(2 * LOG(1 + 2**-0.5), rel=1e-5)
    assert float(mean.retain_loss(made)) == pytest.approx((LOG(2) + LOG(4)) / 2, rel=1e-5)


@pytest.mark.mechanism("npo_irm", "(mean E_p[z] - z_y)^2", kind="loss")
def test_irm_penalty_by_hand() -> None:
    """z = ln(p): E_p[z] = .5 ln .5 + .5 ln .25 = -1.5 ln 2. Token 1 (gold ln .5): -.5 ln 2; token 2 (gold ln .25):
    +.5 ln 2. Their mean is 0. With both gold tokens 0: mean -.5 ln 2, squared .25 ln^2 2."""
    logits, _ = two_tokens()
    assert float(npo_irm.irm_penalty(view([[0, 1]], logits=logits))) == pytest.approx(0.0, abs=1e-6)
    value = npo_irm.irm_penalty(view([[0, 0]], logits=logits))
    assert float(value) == pytest.approx(0.25 * LOG(2) ** 2, rel=1e-5)
    shifted = npo_irm.irm_penalty(view([[0, 0]], logits=logits + 3.0))
    assert float(shifted) == pytest.approx(float(value), rel=1e-4)


@pytest.mark.mechanism("npo_irm", "IRMv1 by autograd at w = 1", kind="equality")
def test_irm_penalty_equals_autograd_at_w_one() -> None:
    """(d/dw CE(w z))^2 at w = 1 by autograd, per row."""
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    made = view([[1, 2], [0, 6, 3]], logits=logits)
    want = []
    for rows, labels in ((logits[:2], [1, 2]), (logits[2:], [0, 6, 3])):
        w = torch.ones((), requires_grad=True)
        loss = torch.nn.functional.cross_entropy(w * rows, torch.tensor(labels))
        want.append(float(torch.autograd.grad(loss, w)[0] ** 2))
    assert npo_irm.irm_penalty(made).tolist() == pytest.approx(want, rel=1e-4)


@pytest.mark.mechanism("npo_irm", "the invariance penalty")
def test_npo_irm_adds_the_penalty_where_it_is_told() -> None:
    logits, reference = two_tokens()
    made = view([[0, 0]], logits=logits, reference=reference)
    base = METHODS.get("npo_irm")(gamma=0.0)
    penalty = 2.0 * 0.25 * LOG(2) ** 2
    for rows, on_forget, on_retain in (("retain", 0, 1), ("forget", 1, 0), ("both", 1, 1)):
        method = METHODS.get("npo_irm")(gamma=2.0, rows=rows)
        assert float(method.forget_loss(made) - base.forget_loss(made)) == pytest.approx(on_forget * penalty, abs=1e-6)
        assert float(method.retain_loss(made) - base.retain_loss(made)) == pytest.approx(on_retain * penalty, abs=1e-6)


@pytest.mark.mechanism("tar", "-CE and CE, token means", kind="loss")
def test_tar_method_is_gradient_ascent_under_the_rule() -> None:
    logits, _ = two_tokens()
    made = view([[0, 1]], logits=logits)
    tar = METHODS.get("tar")()
    assert tar.update_rule == "tar"
    assert float(tar.forget_loss(made)) == pytest.approx(-(LOG(2) + LOG(4)) / 2, rel=1e-5)
    assert float(tar.retain_loss(made)) == pytest.approx((LOG(2) + LOG(4)) / 2, rel=1e-5)


# -- soft targets: WHP and ELM --------------------------------------------------------------------------------------


@pytest.mark.mechanism("elm", "CE to soft targets", kind="loss")
@pytest.mark.mechanism("whp", "CE to soft targets", kind="loss")
def test_soft_cross_entropy_by_hand() -> None:
    """Targets (3/4, 1/4) on tokens 0 and 2, model (1/2, 1/4, 1/4): .75 ln 2 + .25 ln 4. Its logit gradient is p - q."""
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).requires_grad_(True)
    value = soft_cross_entropy(logits, torch.tensor([[0, 2]]), torch.tensor([[0.75, 0.25]]))
    assert float(value.detach()) == pytest.approx(0.75 * LOG(2) + 0.25 * LOG(4), rel=1e-5)
    value.sum().backward()
    assert torch.allclose(logits.grad, torch.tensor([[-0.25, 0.25, 0.0]]), atol=1e-6)


def test_targets_keep_the_top_and_follow_the_batch_order() -> None:
    """Scores ln(4, 2, 1): the top two are tokens 0 and 1 with 2/3 and 1/3. Another row order gets its own."""
    targets = Targets()
    targets.put("row0", torch.log(torch.tensor([[4.0, 2.0, 1.0]])), 2)
    targets.put("row1", torch.log(torch.tensor([[1.0, 2.0, 8.0], [8.0, 1.0, 2.0]])), 2)
    ids, probs = targets.of(batch([[0], [0, 0]]))
    assert ids.tolist() == [[0, 1], [2, 1], [0, 2]]
    assert torch.allclose(probs, torch.tensor([[2 / 3, 1 / 3], [0.8, 0.2], [0.8, 0.2]]))
    swapped = batch([[0, 0], [0]])
    swapped.encoded = [swapped.encoded[1], swapped.encoded[0]]
    assert targets.of(swapped)[0].tolist() == [[2, 1], [0, 2], [0, 1]]


@pytest.mark.mechanism("whp", "v_base - a relu(v_reinforced - v_base)", kind="loss")
def test_whp_generic_by_hand() -> None:
    """Only what reinforcement raised is lowered: (2, 1, 0) and (4, 0, 1), a = 5 -> (2 - 10, 1, 0 - 5)."""
    got = whp.generic(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([4.0, 0.0, 1.0]), 5.0)
    assert got.tolist() == [-8.0, 1.0, -5.0]
    assert torch.equal(whp.generic(torch.ones(3), torch.randn(3), 0.0), torch.ones(3))


@pytest.mark.mechanism("elm", "eta ramps from 1 to 1000")
def test_elm_strength_grows_with_the_position_in_the_row() -> None:
    """A row of 5 tokens whose labels are predicted by positions 1 and 3: eta = 1 + 999 * (1/4, 3/4)."""

    class Adapter:
        device = torch.device("cpu")

        def collate(self, rows, index):
            made = batch([[7, 8]], width=5)
            made.label_at = torch.tensor([1, 3])
            return made

    ids, eta = METHODS.get("elm")()._strength(Adapter(), Encoded("x", "", None, ("answer",), 5, 2))
    assert ids.tolist() == [7, 8] and eta.tolist() == [1 + 999 * 0.25, 1 + 999 * 0.75]


def test_elm_refuses_rows_without_a_name() -> None:
    class Adapter:
        family = "causal_lm"

    rows = [Row("a", "x", "q", entity="Ada"), Row("b", "x", "q")]
    context = Context(Adapter(), rows, rows, TrainSettings())
    with pytest.raises(NeedsError, match="elm.needs-concept.*'b'"):
        METHODS.get("elm")().check(context)
    METHODS.get("elm")(concept="the town").check(context)


def test_elm_fluency_rows_are_aligned_and_never_the_gold_answer() -> None:
    rows = [Row("a", "Paris", "Where?", entity="Ada"), Row("b", "A whole document.", entity="Ada")]
    fluent = METHODS.get("elm")().streams(Context(None, rows, rows, TrainSettings()))["fluent"]
    assert [r.prompt for r in fluent] == ["Where?", "A whole document."]
    assert all(r.answer in elm.CHANGES for r in fluent)
    assert METHODS.get("elm")(fluency=0.0).streams(Context(None, rows, rows, TrainSettings())) == {}


# -- RepNoise -------------------------------------------------------------------------------------------------------


@pytest.mark.mechanism("repnoise", "MMD with five kernels", kind="loss")
def test_mmd_by_hand() -> None:
    """Samples 0 and 1: squared distance 1, width 2 / 2 / 4 = 1/4, kernels exp(-4), exp(-2), exp(-1),
    exp(-1/2), exp(-1/4). MMD = 5 + 5 - 2 k. Equal samples: 0."""
    k = sum(math.exp(-x) for x in (4, 2, 1, 0.5, 0.25))
    assert float(repnoise.mmd(torch.tensor([[0.0]]), torch.tensor([[1.0]]))) == pytest.approx(10 - 2 * k, rel=1e-5)
    same = torch.randn(6, 3)
    assert float(repnoise.mmd(same, same.clone())) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.mechanism("repnoise", "the distance falls as states become noise")
def test_mmd_falls_when_states_become_noise() -> None:
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(30, 4, generator=g)
    assert float(repnoise.mmd(torch.randn(30, 4, generator=g), noise)) < 0.2 * float(
        repnoise.mmd(torch.full((30, 4), 3.0), noise)
    )


def repnoise_method(**settings):
    """RepNoise reading layer 1 through a head that returns the state itself as logits."""
    method = METHODS.get("repnoise")(**settings)
    method.layers, method.seed = (1,), 0
    return method


@pytest.mark.mechanism("repnoise", "log(1 + CE over layers)", kind="loss")
def test_repnoise_ascent_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """beta 0: -log(1 + (final CE + lens CE) / 2). Gold token at p 1/2 (ln 2) at the end and 1/4 (ln 4) at layer 1."""
    monkeypatch.setattr(repnoise, "lens", lambda adapter: lambda hidden: hidden)
    hidden = torch.zeros(1, 6, 3)
    hidden[0, 1] = torch.log(torch.tensor([0.25, 0.5, 0.25]))  # position 1 predicts the one label, token 0
    made = view([[0]], logits=torch.log(torch.tensor([[0.5, 0.25, 0.25]])), hidden=hidden)
    made.adapter = Silent()
    want = -LOG(1 + (LOG(2) + LOG(4)) / 2)
    assert float(repnoise_method(beta=0.0).forget_loss(made)) == pytest.approx(want, rel=1e-5)


@pytest.mark.mechanism("repnoise", "noise, new at every step")
def test_repnoise_noise_depends_on_step_and_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repnoise, "lens", lambda adapter: lambda hidden: hidden)
    method = repnoise_method(alpha=0.0, beta=1.0)
    hidden = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(3))
    both = view([[0, 1], [1, 0]], logits=torch.zeros(4, 3), hidden=hidden)
    second = view([[1, 0]], logits=torch.zeros(2, 3), hidden=hidden[1:], rows_total=2)
    first = view([[0, 1]], logits=torch.zeros(2, 3), hidden=hidden[:1], rows_total=2)
    second.batch.index = torch.tensor([1])
    for made in (both, second, first):
        made.adapter = Silent()
    total = float(method.forget_loss(both))
    assert total == pytest.approx(float(method.forget_loss(first) + method.forget_loss(second)), rel=1e-5)
    method.after_step(1, {})
    assert float(method.forget_loss(both)) != total


class Silent:
    """An adapter that only offers autocast."""

    @staticmethod
    def autocast():
        return contextlib.nullcontext()


# -- on a real (tiny, untrained) model --------------------------------------------------------------------------------

ROWS = [
    Row("a", "Ada lives in Oslo.", "Where does Ada live?", entity="Ada"),
    Row("b", "Red.", "Which colour does Bob like best of all?", entity="Bob"),
    Row("c", "Cy was born in a small town by the sea.", entity="Cy"),
]


@pytest.fixture(scope="module")
def lm() -> CausalLM:
    """Two blocks, width 32, random weights, a tokenizer that knows the rows."""
    tokenizer = build_tokenizer([text for row in ROWS for text in (row.prompt, row.answer)], vocab=320)
    return CausalLM(tiny_model(tokenizer, width=32, layers=2, ff=64, heads=2, seed=1), tokenizer)


def case(lm: CausalLM, forget: list[Row] | None = None, **train) -> Context:
    """A context on a private copy, training block 0."""
    settings = TrainSettings(
        **{"lr": 1e-3, "steps": 2, "batch_size": 4, "select": {"kind": "layers", "first": 0, "last": 0}} | train
    )
    return Context(lm.clone(), forget or ROWS[:2], ROWS[:2], settings, seed=0)


def views_of(lm: CausalLM, rows: list[Row], parts: list[list[int]], **kwargs) -> list[View]:
    """One view per part, sized as micro-batches of one effective batch."""
    encoded = [lm.encode(row) for row in rows]
    tokens = sum(e.labels for e in encoded)
    return [
        View(lm, lm.collate([encoded[i] for i in part], part), "forget", len(rows), tokens, **kwargs) for part in parts
    ]


def attacking(lm: CausalLM, **settings):
    """LAT at layer 1, perturbing the embeddings, with norm 1 as reference."""
    method = METHODS.get("lat")(layer=1, attack_layer=0, **settings)
    method.hidden_layers(case(lm))
    method.start(Context(lm, ROWS, ROWS, TrainSettings(), reference=Known(norm=1.0)))
    return method


@pytest.mark.mechanism("lat", "PGD restores the answers inside its ball")
def test_lat_attack_restores_the_answers_inside_its_ball(lm: CausalLM) -> None:
    """The perturbation lowers the answers' NLL, has at most its radius, and is zero at position 0 and padding."""
    (made,) = views_of(lm, ROWS, [[0, 1, 2]])
    method = attacking(lm, epsilon=0.5, iterations=6)
    delta = method.attack(made)
    clean = method._clean(made)
    with torch.no_grad(), lat.perturbed(lm, 0, delta):
        hit = torch.nn.functional.cross_entropy(lm.forward(made.batch).logits, made.batch.label_id)
        states = lm.forward(made.batch, logits=False, hidden=(1,)).hidden[1]
    with torch.no_grad():
        plain = torch.nn.functional.cross_entropy(lm.forward(made.batch).logits, made.batch.label_id)
        untouched = lm.forward(made.batch, logits=False, hidden=(1,)).hidden[1]
    assert float(hit) < float(plain) - 0.05
    assert (delta.norm(dim=-1) <= 0.5 * clean.norm(dim=-1) + 1e-5).all() and (delta[made.mask].norm(dim=-1) > 0).any()
    assert not delta[~made.mask].any()
    assert torch.equal(states[:, 0], untouched[:, 0]) and not torch.equal(states, untouched)
    assert all(p.grad is None for p in lm.module.parameters()) and not lm.blocks[0]._forward_pre_hooks


def test_lat_absolute_radius(lm: CausalLM) -> None:
    (made,) = views_of(lm, ROWS, [[0, 1, 2]])
    delta = attacking(lm, epsilon=0.01, unit="absolute", iterations=8, step=0.5).attack(made)
    assert float(delta.norm(dim=-1).max()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.mechanism("lat", "without a perturbation it is RMU")
def test_lat_without_a_perturbation_is_rmu(lm: CausalLM) -> None:
    (made,) = views_of(lm, ROWS, [[0, 1, 2]], hidden_layers=(1,))
    off, on = attacking(lm, epsilon=0.0, iterations=2), attacking(lm, epsilon=0.5, iterations=2)
    rmu = started("adaptive_rmu", Known(norm=1.0))
    assert float(off.forget_loss(made).detach()) == pytest.approx(float(rmu.forget_loss(made).detach()), rel=1e-6)
    assert float(on.forget_loss(made).detach()) != pytest.approx(float(off.forget_loss(made).detach()), rel=1e-6)


def test_lat_adds_over_micro_batches(lm: CausalLM) -> None:
    """Rows of different length attack and count for themselves."""
    method = attacking(lm, epsilon=0.3, iterations=3)
    whole = float(method.forget_loss(*views_of(lm, ROWS, [[0, 1, 2]])).detach())
    apart = sum(float(method.forget_loss(v).detach()) for v in views_of(lm, ROWS, [[0], [1], [2]]))
    assert apart == pytest.approx(whole, rel=1e-4)


def test_lat_refuses_layers_that_do_not_fit(lm: CausalLM) -> None:
    with pytest.raises(NeedsError, match="method.bad-layer"):
        METHODS.get("lat")(layer=1, attack_layer=1).check(case(lm))


@pytest.mark.mechanism("whp", "what reinforcement raised is lowered")
def test_whp_with_strength_zero_asks_for_what_the_model_says_anyway(lm: CausalLM) -> None:
    """alpha 0 and all tokens kept: the targets are the model's own distribution, so the forget gradient vanishes."""
    sizes = []
    for alpha in (0.0, 5.0):
        method, now = METHODS.get("whp")(alpha=alpha, top=10_000, reinforce_lr=1e-2), case(lm)
        method.start(now)
        model = now.adapter.module
        model.zero_grad()
        sum(method.forget_loss(v) for v in views_of(now.adapter, ROWS[:2], [[0], [1]])).backward()
        sizes.append(max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None))
    assert sizes[0] < 1e-6 < 1e-4 < sizes[1]


def test_whp_start_leaves_the_model_alone(lm: CausalLM) -> None:
    method, now = METHODS.get("whp")(), case(lm)
    before = {n: p.detach().clone() for n, p in now.adapter.module.named_parameters()}
    method.start(now)
    assert all(torch.equal(before[n], p) for n, p in now.adapter.module.named_parameters())
    assert set(method.targets.rows) == {"a", "b"}


@pytest.mark.mechanism("elm", "novice against expert context")
def test_elm_targets_by_hand_on_model_outputs(lm: CausalLM) -> None:
    """log p - eta (log p_expert - log p_novice) at temperature 1.2, top k renormalised, from three plain forwards."""
    own = METHODS.get("elm")(eta_first=2.0, eta=2.0, top=5, temperature=1.2)
    own.start(case(lm))

    def logp(row: Row) -> Tensor:
        encoded = lm.encode(row)
        with lm.evaluating():
            return torch.log_softmax(lm.forward(lm.collate([encoded], [0])).logits.double() / 1.2, -1)

    row = ROWS[0]
    texts = [own.settings.expert.format(concept="Ada"), own.settings.novice.format(concept="Ada")]
    expert, novice = (logp(replace(row, prompt=text + row.prompt)) for text in texts)
    values, ids = (logp(row) - 2.0 * (expert - novice)).topk(5)
    got_ids, got = own.targets.rows["a"]
    assert torch.equal(got_ids, ids) and torch.allclose(got.double(), values.softmax(-1), atol=1e-4)


def test_elm_with_strength_zero_keeps_the_models_own_top_tokens(lm: CausalLM) -> None:
    own = METHODS.get("elm")(eta_first=0.0, eta=0.0, top=3, temperature=1.0)
    own.start(case(lm))
    encoded = lm.encode(ROWS[0])
    with lm.evaluating():
        want = lm.forward(lm.collate([encoded], [0])).logits.topk(3)
    ids, probs = own.targets.rows["a"]
    assert torch.equal(ids, want.indices) and torch.allclose(probs, want.values.softmax(-1), atol=1e-5)


def test_elm_documents_are_read_behind_the_context(lm: CausalLM) -> None:
    """A row without a question: the context goes in front of the text and the text's own tokens are compared."""
    own = METHODS.get("elm")()
    own.start(case(lm, forget=[ROWS[2]]))
    assert len(own.targets.rows["c"][0]) == lm.encode(ROWS[2]).labels


def test_elm_refuses_a_context_that_merges_with_the_text(lm: CausalLM) -> None:
    with pytest.raises(DataError, match="elm.context-changes-tokens.*'c'"):  # "sm" + "all" becomes "s", "mall"
        METHODS.get("elm")(expert="{concept} sm", novice="{concept}\n").start(
            case(lm, forget=[replace(ROWS[2], answer="all")])
        )


def test_repnoise_reads_the_models_own_output_at_the_last_layer(lm: CausalLM) -> None:
    """The lens on the last block gives the model's logits."""
    batch_ = lm.collate([lm.encode(ROWS[0])], [0])
    with torch.no_grad():
        out = lm.forward(batch_, hidden=(2,))
        read = repnoise.lens(lm)(out.hidden[2].flatten(0, 1)[batch_.label_at])
    assert torch.allclose(read, out.logits, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["rmu", "adaptive_rmu", "rr", "lat", "repnoise", "npo_sam", "npo_irm", "tar", "whp", "elm"]
)
def test_zero_steps_leave_the_target_bit_identical(lm: CausalLM, name: str) -> None:
    now = case(lm, steps=0)
    METHODS.get(name)().apply(now)
    assert all(torch.equal(a, b) for a, b in zip(lm.module.parameters(), now.adapter.module.parameters(), strict=True))


@pytest.mark.parametrize(
    "name", ["rmu", "adaptive_rmu", "rr", "lat", "repnoise", "npo_sam", "npo_irm", "tar", "whp", "elm"]
)
def test_every_method_trains_a_lora_adapter(lm: CausalLM, name: str) -> None:
    """The adapter moves, the weights under it do not."""
    now = case(lm, steps=2, lr=1e-2, select={"kind": "lora", "rank": 2})
    METHODS.get(name)().apply(now)
    named = dict(now.adapter.module.named_parameters())
    before = dict(lm.module.named_parameters())
    assert any(bool(p.any()) for n, p in named.items() if "lora_B" in n)
    under = {
        n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in named.items() if "lora_" not in n
    }
    assert under.keys() == before.keys() and all(torch.equal(p, before[n]) for n, p in under.items())


@pytest.mark.parametrize("name", ["rmu", "rr", "lat"])
def test_layers_out_of_reach_are_refused_before_anything_is_computed(lm: CausalLM, name: str) -> None:
    now = case(lm, select={"kind": "layers", "first": 1, "last": 1})
    settings = {"layers": (1,)} if name == "rr" else {"layer": 1}
    with pytest.raises(NeedsError, match=f"method.layer-before-training.*{name}"):
        METHODS.get(name)(**settings).apply(now)


@pytest.mark.mechanism("adaptive_rmu", "the retain term holds retain states")
def test_representation_signature(lm: CausalLM) -> None:
    """After adaptive RMU the forget states have turned away from where they were (cosine < 0.5), the retain states have
    not (> 0.95). Without the retain term they turn as well: that term is what holds them."""
    away, keep = ROWS[:1], [replace(ROWS[1], id="k")]

    def cosines(alpha: float) -> list[float]:
        settings = TrainSettings(
            lr=1e-2, steps=60, batch_size=2, warmup=0.0, select={"kind": "layers", "first": 0, "last": 0}
        )
        now = Context(lm.clone(), away, keep, settings, seed=0)
        METHODS.get("adaptive_rmu")(layer=1, alpha=alpha).apply(now)
        found = []
        for rows in (away, keep):
            batch_ = lm.collate([lm.encode(row) for row in rows], range(len(rows)))
            with torch.no_grad():
                a, b = (
                    m.forward(batch_, logits=False, hidden=(1,)).hidden[1][batch_.token_mask] for m in (lm, now.adapter)
                )
            found.append(float(torch.cosine_similarity(a, b, dim=-1).mean()))
        return found

    forget, retain = cosines(alpha=30.0)
    assert forget < 0.5 and retain > 0.95
    assert cosines(alpha=0.0)[1] < 0.5


# -- declarations ---------------------------------------------------------------------------------------------------

OURS = ["rmu", "adaptive_rmu", "rr", "lat", "repnoise", "npo_sam", "npo_irm", "tar", "whp", "elm", "task_vector"]


@pytest.mark.parametrize("name", OURS)
def test_every_method_declares_itself(name: str) -> None:
    cls = METHODS.get(name)
    assert cls.card.title and cls.card.source and cls.card.code and cls.card.summary
    assert cls.family_tag in ("representation", "rejection", "divergence", "edit") and cls.aim in (
        "erasure",
        "concealment",
    )
    for field_name, info in cls.Settings.model_fields.items():
        assert info.description, field_name
    with pytest.raises(SpecError, match="spec.unknown-setting"):
        cls(no_such_setting=1)
