"""What makes each loss that method and no other, on numbers small enough to compute by hand.

The example of ``test_losses_a``: one row, three classes, gold class 0 at both tokens; p(gold) = 1/2 and 1/4, so the
row's NLL is 3 ln 2. Each test names the mechanism and fails when it is taken out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from efface.engine.view import View
from efface.methods.base import METHODS
from efface.testing.views import hand_view, whole_top

LN2 = math.log(2)
P = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])


def example(**given) -> View:
    """The example; keyword arguments as for ``hand_view``."""
    return hand_view(P.log().requires_grad_(), [0, 0], **given)


def gradient(loss, logits: torch.Tensor, labels, rows=None, **given) -> torch.Tensor:
    """d loss(view) / d logits."""
    leaf = logits.detach().clone().requires_grad_()
    loss(hand_view(leaf, labels, rows, **given)).backward()
    return leaf.grad


def random_logits(tokens: int = 5, classes: int = 7, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(tokens, classes, generator=torch.Generator().manual_seed(seed))


# -- NPO ------------------------------------------------------------------------------------------------------------
@pytest.mark.mechanism("npo", "2/beta softplus(beta (log pi - log ref)), summed log-probs", kind="loss")
def test_npo_by_hand() -> None:
    """ref NLL ln 2: gap = ln 2 - 3 ln 2 = -2 ln 2. beta 1: 2 ln(1 + 1/4); beta 2: (2/2) ln(1 + 1/16). Summed, not mean,
    log-probs: the mean gap would give 2 ln(1 + 1/2). The target itself (gap 0) gives (2/beta) ln 2."""
    for beta, value in ((1.0, 2 * math.log(1.25)), (2.0, math.log(1 + 1 / 16))):
        assert METHODS.get("npo")(beta=beta).forget_loss(example(ref_nll=[LN2])).item() == pytest.approx(value)
    assert METHODS.get("npo")().forget_loss(example(ref_nll=[3 * LN2])).item() == pytest.approx(20 * LN2, rel=1e-5)


@pytest.mark.mechanism("needle", "NPO's loss", kind="loss")
def test_needle_by_hand() -> None:
    """As for NPO: beta 1, gap -2 ln 2: 2 ln(1 + 1/4)."""
    found = METHODS.get("needle")(beta=1.0).forget_loss(example(ref_nll=[LN2]))
    assert found.item() == pytest.approx(2 * math.log(1.25))


@pytest.mark.mechanism("npo", "beta -> 0 is gradient ascent on summed log-probs", kind="equality")
def test_npo_with_small_beta_is_gradient_ascent() -> None:
    """(2/beta) softplus(beta z) = (2/beta) ln 2 + z + O(beta): the gradient is that of the row mean of log pi."""
    logits, labels, rows = random_logits(), [1, 4, 0, 6, 2], [0, 0, 0, 1, 1]
    small = gradient(METHODS.get("npo")(beta=1e-4).forget_loss, logits, labels, rows, ref_nll=[1.0, 9.0])
    ascent = gradient(lambda view: -view.mean_rows(view.nll), logits, labels, rows)
    torch.testing.assert_close(small, ascent, rtol=2e-3, atol=1e-5)


@pytest.mark.mechanism("npo", "reference log-probs fade the gradient")
def test_npo_gradient_fades_as_the_answer_falls_below_the_reference() -> None:
    """Its size relative to gradient ascent is 2 sigmoid(beta gap): 1 at the reference, 2/(1 + e^(beta d)) after a loss
    of d nats. Without the reference it would not fade."""
    ascent = gradient(lambda view: -view.mean_rows(view.nll), P.log(), [0, 0])
    for lost in (0.0, 10.0, 50.0):
        found = gradient(METHODS.get("npo")().forget_loss, P.log(), [0, 0], ref_nll=[3 * LN2 - lost])
        torch.testing.assert_close(found, ascent * 2 / (1 + math.exp(0.1 * lost)), rtol=1e-4, atol=1e-6)


@pytest.mark.mechanism("npo", "retain terms of NPO, NPO-RT and NPO-KL", kind="equality")
def test_npo_variants() -> None:
    """NPO-RT adds the token-mean NLL 1.5 ln 2, NPO-KL a KL that is 0 at the reference, NPO nothing."""
    make = METHODS.get("npo")
    assert make(retain="none").retain_loss(example()) is None and not make(retain="none").needs.retain
    assert make().retain_loss(example()).item() == pytest.approx(1.5 * LN2)
    kl = make(retain="kl")
    assert kl.needs.top == ("retain",) and kl.needs.nll == ("forget",)
    assert kl.retain_loss(example(ref_top=whole_top(P.log()))).item() == pytest.approx(0.0, abs=1e-6)


# -- gradient ascent and its relatives ------------------------------------------------------------------------------
@pytest.mark.mechanism("grad_ascent", "the sign: exactly the opposite of descent")
@pytest.mark.mechanism("grad_diff", "the sign of the forget term")
@pytest.mark.mechanism("kl_min", "the sign of the forget term")
@pytest.mark.mechanism("tar", "the sign of the forget term", kind="equality")
@pytest.mark.parametrize("name", ["grad_ascent", "grad_diff", "kl_min", "tar"])
def test_ascent_is_descent_turned_round(name: str) -> None:
    logits, labels = random_logits(), torch.tensor([1, 4, 0, 6, 2])
    down = gradient(lambda view: F.cross_entropy(view.logits, view.batch.label_id), logits, labels)
    torch.testing.assert_close(gradient(METHODS.get(name)().forget_loss, logits, labels), -down)


@pytest.mark.mechanism("kl_min", "KL to the reference, reference first, whatever the labels say")
def test_kl_min_holds_the_reference_distribution_and_not_the_labels() -> None:
    """At the reference the retain gradient is 0 for any label, where cross-entropy pulls to the label. Away from it the
    logit gradient is p - ref, which only KL(ref || p) has; KL(p || ref) has p (log p/ref - KL)."""
    logits, ref = random_logits(2, 5), random_logits(2, 5, seed=1)
    for labels in ([0, 1], [3, 4]):
        still = gradient(METHODS.get("kl_min")().retain_loss, logits, labels, ref_top=whole_top(logits))
        assert still.abs().max() < 1e-5 < gradient(METHODS.get("grad_diff")().retain_loss, logits, labels).abs().max()
    moved = gradient(METHODS.get("kl_min")().retain_loss, logits, [0, 1], ref_top=whole_top(ref))
    torch.testing.assert_close(moved, (logits.softmax(-1) - ref.softmax(-1)) / 2, rtol=1e-4, atol=1e-5)


# -- SimNPO ---------------------------------------------------------------------------------------------------------
@pytest.mark.mechanism("simnpo", "length normalisation instead of a reference")
def test_simnpo_weighs_long_and_short_answers_alike() -> None:
    """The same tokens twice over leave SimNPO's loss as it is; NPO's summed log-ratio doubles."""
    once, twice = (P.log().repeat(k, 1) for k in (1, 2))
    sim = [METHODS.get("simnpo")().forget_loss(hand_view(x, [0] * len(x))).item() for x in (once, twice)]
    npo = METHODS.get("npo")(beta=1.0)
    summed = [npo.forget_loss(hand_view(x, [0] * len(x), ref_nll=[0.0])).item() for x in (once, twice)]
    assert sim[0] == pytest.approx(sim[1]) and summed[0] > 5 * summed[1]
    assert METHODS.get("simnpo").needs.nll == ()


@pytest.mark.mechanism("simnpo", "delta: the push fades above it", kind="equality")
def test_simnpo_delta_is_where_the_push_is_half() -> None:
    """d/d(mean NLL) = -2 gamma sigmoid(-beta (mean - delta)): -gamma at mean = delta = 1.5 ln 2."""
    method = METHODS.get("simnpo")(delta=1.5 * LN2, gamma=1.0)
    ascent = gradient(lambda view: -view.mean_rows(view.nll / view.lengths), P.log(), [0, 0])
    torch.testing.assert_close(gradient(method.forget_loss, P.log(), [0, 0]), ascent)


# -- token weights --------------------------------------------------------------------------------------------------
@pytest.mark.mechanism("wga", "weight p^beta: a forgotten token is left alone")
@pytest.mark.mechanism("satimp", "weights p^beta1 and (1 - p)^beta2: forgotten and certain tokens are left alone")
@pytest.mark.mechanism("tnpo", "reference weight: a token far below its reference is left alone")
@pytest.mark.mechanism("wtnpo", "weight p^alpha: a token that was never known is left alone")
def test_token_weights_pick_tokens() -> None:
    """Push on the gold logit relative to plain ascent, for tokens with p = 1/2, 1e-3 and (SatImp) near 1."""
    p = torch.tensor([0.5, 1e-3, 1 - 1e-4])
    logits = torch.stack([p.log(), ((1 - p) / 2).log(), ((1 - p) / 2).log()], 1)
    plain = gradient(lambda view: view.mean_tokens(view.logp), logits, [0, 0, 0])[:, 0]

    def push(name: str, ref: list[float]) -> list[float]:
        found = gradient(METHODS.get(name)().forget_loss, logits, [0, 0, 0], ref_logp=torch.tensor(ref).log())
        return (found[:, 0] / plain).tolist()

    assert push("wga", [1, 1, 1]) == pytest.approx([0.5, 1e-3, 1 - 1e-4], rel=1e-3)
    assert push("satimp", [1, 1, 1]) == pytest.approx([0.5**6, 1e-15, 1e-4], rel=1e-2, abs=1e-12)
    assert push("tnpo", [0.5, 0.5, 0.5]) == pytest.approx([1.0, 0.0, 2 / (1 + 0.5**4)], rel=1e-3, abs=1e-9)
    never_known = [push(name, [0.5, 1e-3, 1.0])[1] for name in ("tnpo", "wtnpo")]
    assert never_known[0] == pytest.approx(1.0, rel=1e-3) and never_known[1] == pytest.approx(1e-3**1.5, rel=1e-2)


# -- bounded losses -------------------------------------------------------------------------------------------------
@pytest.mark.mechanism("ce_u", "the gold logit at -inf: the gradient is p(gold) in size and fades")
def test_ce_u_gradient_is_the_gold_probability() -> None:
    """d/dz = p - target; gold has p - 0, so a token at p = 1e-6 is pushed 1e-6, where ascent pushes by 1 - p."""
    for p in (0.9, 0.1, 1e-6):
        logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(p), math.log((1 - p) / 2), math.log((1 - p) / 2)]])
        found = gradient(METHODS.get("ce_u")().forget_loss, logits, [0, 0])
        assert found[1, 0].item() == pytest.approx(p, rel=1e-3)
        assert not found[0].any(), "the first answer token is left out"


@pytest.mark.mechanism("undial", "the teacher's gold logit is lowered by beta")
def test_undial_stops_where_the_teacher_is() -> None:
    """At softmax(z_ref - beta onehot) the gradient is 0, at z_ref it is not: bounded, unlike ascent."""
    ref, labels = random_logits(), torch.tensor([1, 4, 0, 6, 2])
    given = {"ref_top": whole_top(ref), "ref_logp": ref.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)}
    method = METHODS.get("undial")(beta=3.0)
    for logits, still in ((ref - 3.0 * F.one_hot(labels, 7), True), (ref, False)):
        assert (gradient(method.forget_loss, logits, labels, **given).abs().max().item() < 1e-5) == still


@pytest.mark.mechanism("pdu", "(max logit - mean logit)^2 flattens towards uniform")
@pytest.mark.mechanism("me_gd", "KL(uniform || p) flattens towards uniform")
def test_flattening_lowers_what_is_likeliest_and_not_what_is_gold() -> None:
    """Gold class 0 is not the likeliest: the likeliest logit is pushed down, and any label gives the same gradient."""
    logits = torch.tensor([[0.0, 4.0, 1.0]])
    for name, settings in (("pdu", {}), ("me_gd", {"where": "answer"})):
        a, b = (gradient(METHODS.get(name)(**settings).forget_loss, logits, [label]) for label in (0, 2))
        assert a[0, 1] > 0 and torch.equal(a, b), name


# -- preferences ----------------------------------------------------------------------------------------------------
def other(p: float, ref_p: float, stream: str) -> tuple[torch.Tensor, View]:
    """(leaf, view) of one row with one label token of probability p, of two classes."""
    leaf = torch.tensor([[p, 1 - p]]).log().requires_grad_()
    return leaf, hand_view(leaf, [0], ref_nll=[-math.log(ref_p)], stream=stream)


@pytest.mark.mechanism("dpo", "the refusal is preferred: its likelihood is pushed up, the gold one down")
@pytest.mark.mechanism("alt_po", "alternatives are preferred: their likelihood is pushed up, the gold one down")
@pytest.mark.parametrize("name, stream", [("dpo", "idk"), ("alt_po", "alternative:0")])
def test_preference_pushes_both_ways(name: str, stream: str) -> None:
    settings = {"answers": 1} if name == "alt_po" else {}
    gold, (preferred, view) = P.log().requires_grad_(), other(0.2, 0.2, stream)
    METHODS.get(name)(**settings).forget_loss(
        hand_view(gold, [0, 0], ref_nll=[3 * LN2], others={stream: view})
    ).backward()
    assert preferred.grad[0, 0] < 0 < gold.grad[0, 0]


@pytest.mark.mechanism("alt_po", "mean over alternatives of (2/beta) softplus(-beta margin)", kind="loss")
def test_alt_po_by_hand() -> None:
    """Gold: Delta = -2 ln 2 (ref ln 2). Alternatives with Delta = ln 2 and 0: margins 3 ln 2 and 2 ln 2; beta 1:
    2 * mean(ln(1 + 1/8), ln(1 + 1/4))."""
    others = {
        "alternative:0": other(0.5, 0.25, "alternative:0")[1],
        "alternative:1": other(0.5, 0.5, "alternative:1")[1],
    }
    found = METHODS.get("alt_po")(beta=1.0, answers=2).forget_loss(example(ref_nll=[LN2], others=others))
    assert found.item() == pytest.approx(math.log(1.125) + math.log(1.25), rel=1e-5)


@pytest.mark.mechanism("alt_po", "an alternative that is the gold answer teaches nothing", kind="equality")
def test_alt_po_with_the_gold_answer_as_alternative_has_no_gradient() -> None:
    """Both sides are the same logits: the margin is 0 wherever the model goes. So alternatives must differ."""
    leaf = P.log().requires_grad_()
    same = hand_view(leaf, [0, 0], ref_nll=[3 * LN2], stream="alternative:0")
    METHODS.get("alt_po")(answers=1).forget_loss(
        hand_view(leaf, [0, 0], ref_nll=[3 * LN2], others={"alternative:0": same})
    ).backward()
    assert leaf.grad.abs().max() < 1e-6


@pytest.mark.mechanism("idk", "only the refusal is trained on")
@pytest.mark.mechanism("idk_ap", "only the refusal is trained on for forget questions", kind="equality")
@pytest.mark.parametrize("name", ["idk", "idk_ap"])
def test_refusal_losses_do_not_read_the_gold_answer(name: str) -> None:
    refusal, view = other(0.2, 0.2, "idk")
    gold = P.log().requires_grad_()
    METHODS.get(name)().forget_loss(hand_view(gold, [0, 0], others={"idk": view})).backward()
    assert gold.grad is None and refusal.grad[0, 0].item() == pytest.approx(0.2 - 1)


@pytest.mark.mechanism("idk_ap", "answer preservation: a refusal on retain questions is pushed down")
def test_answer_preservation_pushes_the_refusal_down() -> None:
    """Cross-entropy on the gold answer alone would leave the refusal without a gradient."""
    refusal, view = other(0.2, 0.2, "idk_retain")
    gold = P.log().requires_grad_()
    METHODS.get("idk_ap")().retain_loss(
        hand_view(gold, [0, 0], others={"idk_retain": view}, stream="retain")
    ).backward()
    assert refusal.grad[0, 0] > 0 > gold.grad[0, 0]


# -- the three-term loss --------------------------------------------------------------------------------------------
@pytest.mark.mechanism("llmu", "random answers, ascent and KL are logged one by one", kind="equality")
@pytest.mark.mechanism("opt_ascent", "random answers, ascent and KL are logged one by one", kind="equality")
@pytest.mark.parametrize("name", ["llmu", "opt_ascent"])
def test_three_terms_are_logged_and_reset(name: str) -> None:
    """Ascent -1.5 ln 2, random answer ln 5, KL 0 at the reference; micro-batches add up; the next step starts at 0."""
    method = METHODS.get(name)(answers=1, where="answer")
    for _ in range(2):
        answer = replace(other(0.2, 0.2, "random:0")[1], rows_total=2)
        method.forget_loss(example(others={"random:0": answer}, rows_total=2))
    method.retain_loss(example(ref_top=whole_top(P.log())))
    method.after_step(1, report := {})
    assert report["ascent_term"] == pytest.approx(-1.5 * LN2) and report["random_term"] == pytest.approx(math.log(5))
    assert report["normal_term"] == pytest.approx(0.0, abs=1e-6)
    method.after_step(2, report)
    assert report["ascent_term"] == report["random_term"] == 0.0


# -- representation under attack --------------------------------------------------------------------------------------
@pytest.mark.mechanism("lat", "alpha ||h - h_ref||^2 / norm^2 on retain rows, unperturbed", kind="loss")
def test_lat_retain_term_by_hand() -> None:
    """Drifts of squared length 4 and 0 at positions 1 and 2: mean 2; norm 2 -> / 4; alpha 10 -> 5. The adversary would
    need a model with blocks, and this view has none."""
    states, ref = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
    states[0, 1, 0] = 2.0
    method = METHODS.get("lat")(layer=1, alpha=10.0)
    method.hidden_layers(SimpleNamespace(adapter=None))
    method.start(SimpleNamespace(reference=SimpleNamespace(mean_norm=lambda *_: 2.0), seed=0))
    view = hand_view(torch.zeros(1, 3), [0], hidden={1: states}, ref_hidden={1: ref}, stream="retain")
    assert method.retain_loss(view).item() == pytest.approx(5.0)
