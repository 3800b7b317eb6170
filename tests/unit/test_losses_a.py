"""Losses of the general, divergence and rejection methods on two-token examples, computed by hand.

The example: one row, three classes, two label tokens, gold class 0 at both; p = (1/2, 1/4, 1/4) at the first token and
(1/4, 1/2, 1/4) at the second. So log p(gold) = -ln 2 and -2 ln 2, the row's NLL is 3 ln 2 and its mean 1.5 ln 2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from efface.data.rows import Row
from efface.engine.settings import TrainSettings
from efface.engine.view import View
from efface.errors import NeedsError, SpecError
from efface.methods.base import METHODS, Context
from efface.methods.language.refusals import REFUSALS, with_refusals
from efface.testing.views import hand_view, whole_top

LN2 = math.log(2)
P = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
KL_THIRDS = -math.log(3) + 5 / 3 * LN2  # KL(uniform || (1/2, 1/4, 1/4)), the same at both tokens


def example(**given) -> View:
    """The example; keyword arguments as for ``hand_view``."""
    return hand_view(P.log().requires_grad_(), [0, 0], **given)


def plain_view(nll: float, ref_nll: float | None = None, stream: str = "idk") -> View:
    """One row with one label token of the given NLL (two classes)."""
    p = math.exp(-nll)
    logits = torch.tensor([[p, 1 - p]]).log().requires_grad_()
    return hand_view(logits, [0], ref_nll=None if ref_nll is None else [ref_nll], stream=stream)


def context(forget=(), retain=(), **train) -> Context:
    """A context without a model."""
    settings, steps = TrainSettings(**train), train.get("steps", 0)
    return Context(SimpleNamespace(family="causal_lm"), list(forget), list(retain), settings, seed=7, steps=steps)


def question(i: int, answer: str = "") -> Row:
    return Row(f"r{i}", answer or f"answer {i}", f"question {i}?", f"person {i}")


# -- the loss of every method ---------------------------------
@pytest.mark.mechanism("grad_ascent", "-CE, token mean", kind="loss")
@pytest.mark.mechanism("grad_diff", "-CE + CE, token means", kind="loss")
@pytest.mark.mechanism("kl_min", "-CE + KL(ref || model)", kind="loss")
def test_gradient_ascent_family():
    """-CE = -1.5 ln 2; the retain term of grad_diff is +1.5 ln 2; that of kl_min is KL(thirds || p) = KL_THIRDS."""
    for name in ("grad_ascent", "grad_diff", "kl_min"):
        assert METHODS.get(name)().forget_loss(example()).item() == pytest.approx(-1.5 * LN2)
    assert METHODS.get("grad_ascent")().retain_loss(example()) is None
    assert METHODS.get("grad_diff")().retain_loss(example()).item() == pytest.approx(1.5 * LN2)
    thirds = whole_top(torch.zeros(2, 3))
    assert METHODS.get("kl_min")().retain_loss(example(ref_top=thirds)).item() == pytest.approx(KL_THIRDS, abs=1e-6)
    assert METHODS.get("grad_diff")(retain="kl").retain_loss(example(ref_top=thirds)).item() == pytest.approx(
        KL_THIRDS, abs=1e-6
    )


def test_retain_setting_decides_needs():
    """none needs no retain rows, kl needs reference distributions, nll needs neither more."""
    assert not METHODS.get("wga")(retain="none").needs.retain
    assert METHODS.get("wga")(retain="none").retain_loss(example()) is None
    assert METHODS.get("wga")(retain="kl").needs.top == ("retain",)
    assert METHODS.get("tnpo")(retain="kl").needs.logp == ("forget",), "the method's own needs must stay"
    assert METHODS.get("undial")(retain="kl").needs.top == ("forget", "retain")
    assert METHODS.get("wga")().needs == METHODS.get("wga").needs


@pytest.mark.mechanism("simnpo", "gamma (2/beta) softplus(-beta (mean NLL - delta))", kind="loss")
def test_simnpo():
    """beta 2, delta 0, gamma 1/8: (1/8)(2/2) softplus(-2 * 1.5 ln 2) = (1/8) ln(1 + 2^-3).

    delta ln2/2, gamma 1: ln(1 + 2^-2)."""
    assert METHODS.get("simnpo")(beta=2.0).forget_loss(example()).item() == pytest.approx(math.log(1.125) / 8)
    shifted = METHODS.get("simnpo")(beta=2.0, delta=LN2 / 2, gamma=1.0).forget_loss(example())
    assert shifted.item() == pytest.approx(math.log(1.25))


@pytest.mark.mechanism("wga", "mean p^beta log p", kind="loss")
def test_wga():
    """beta 1: mean of 1/2 * -ln 2 and 1/4 * -2 ln 2 = -ln2/2."""
    assert METHODS.get("wga")().forget_loss(example()).item() == pytest.approx(-LN2 / 2)


@pytest.mark.mechanism("satimp", "mean p^beta1 (1-p)^beta2 log p, and both published presets", kind="loss")
def test_satimp_and_its_presets():
    """beta1 = beta2 = 1: weights 1/4 and 3/16; mean of -ln2/4 and -6/16 ln2 = -5/16 ln2.

    readme 1 : 0.1, yaml 0.1 : 1."""
    for preset, a, b in (("readme", 1.0, 0.1), ("yaml", 0.1, 1.0), ("equal", 1.0, 1.0)):
        method = METHODS.get("satimp")(beta1=1.0, preset=preset)
        assert method.forget_loss(example()).item() == pytest.approx(-a * 5 / 16 * LN2)
        assert method.retain_loss(example()).item() == pytest.approx(b * 1.5 * LN2)
    assert METHODS.get("satimp")(retain="none").retain_loss(example()) is None


@pytest.mark.mechanism("tnpo", "mean 2 p^b/(p^b + ref^b) log p", kind="loss")
@pytest.mark.mechanism("wtnpo", "mean 2 p^(a+b)/(p^b + ref^b) log p", kind="loss")
def test_tnpo_and_wtnpo():
    """ref p = 1/2 twice, beta 1. TNPO weights 2*(1/2)/1 = 1 and 2*(1/4)/(3/4) = 2/3: -(ln2 + 4/3 ln2)/2 = -7/6 ln2.
    WTNPO with alpha 1 multiplies by p: 1/2 and 1/6: -(1/2 + 1/3)/2 ln2 = -5/12 ln2."""
    ref = [-LN2, -LN2]
    assert METHODS.get("tnpo")(beta=1.0).forget_loss(example(ref_logp=ref)).item() == pytest.approx(-7 / 6 * LN2)
    assert METHODS.get("wtnpo")(beta=1.0, alpha=1.0).forget_loss(example(ref_logp=ref)).item() == pytest.approx(
        -5 / 12 * LN2
    )


@pytest.mark.mechanism("ce_u", "CE to the own distribution without gold, first token left out", kind="loss")
def test_ce_u():
    """Only the second token counts: target (0, 2/3, 1/3), CE = 2/3 ln2 + 1/3 * 2 ln2 = 4/3 ln2; gradient p - target,
    zero at the first token. skip 0: the first token adds target (0, 1/2, 1/2), CE 2 ln2, so the mean is 5/3 ln2."""
    logits = P.log().requires_grad_()
    loss = METHODS.get("ce_u")().forget_loss(hand_view(logits, [0, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(4 / 3 * LN2)
    torch.testing.assert_close(logits.grad, torch.tensor([[0, 0, 0], [1 / 4, 1 / 2 - 2 / 3, 1 / 4 - 1 / 3]]))
    assert METHODS.get("ce_u")(skip=0).forget_loss(example()).item() == pytest.approx(5 / 3 * LN2)


@pytest.mark.mechanism("pdu", "(max - mean)^2 and a (CE - eps)", kind="loss")
def test_pdu_losses():
    """Logits (3,0,0) and (1,1,1): (3 - 1)^2 = 4 and 0, mean 2. Retain: a (CE - eps) = 10 (1.5 ln2 - 0.3)."""
    flat = hand_view(torch.tensor([[3.0, 0, 0], [1, 1, 1]], requires_grad=True), [0, 0])
    method = METHODS.get("pdu")(dual=10.0, eps=0.3)
    assert method.forget_loss(flat).item() == pytest.approx(2.0)
    assert method.retain_loss(example()).item() == pytest.approx(10 * (1.5 * LN2 - 0.3), rel=1e-5)


@pytest.mark.mechanism("undial", "CE to softmax(z_ref - beta onehot)", kind="loss")
def test_undial():
    """Teacher = student = example, beta ln 2. First token: (1/4, 1/4, 1/4)/(3/4) = thirds, CE (ln2 + 2ln2 + 2ln2)/3.
    Second: (1/8, 1/2, 1/4)/(7/8) = (1, 4, 2)/7, CE = (2 + 4 + 4)/7 ln2."""
    view = example(ref_top=whole_top(P.log()), ref_logp=P.log()[:, 0])
    assert METHODS.get("undial")(beta=LN2).forget_loss(view).item() == pytest.approx(
        (5 / 3 + 10 / 7) / 2 * LN2, rel=1e-5
    )


@pytest.mark.mechanism("idk", "CE on the refusal", kind="loss")
def test_idk():
    """CE on the refusal only: one token of NLL 0.7, whatever the gold answer is."""
    assert METHODS.get("idk")().forget_loss(example(others={"idk": plain_view(0.7)})).item() == pytest.approx(
        0.7, rel=1e-5
    )


@pytest.mark.mechanism("dpo", "(2/beta) softplus(-beta margin)", kind="loss")
def test_dpo():
    """NLL gold 3 ln2, ref ln2: Delta(gold) = -2 ln2. Refusal NLL 1, ref 1.5: Delta = 0.5. Margin 0.5 + 2 ln2, beta 2:
    (2/2) softplus(-2 (0.5 + 2 ln2)) = ln(1 + e^-1 / 16)."""
    view = example(ref_nll=[LN2], others={"idk": plain_view(1.0, 1.5)})
    assert METHODS.get("dpo")(beta=2.0).forget_loss(view).item() == pytest.approx(
        math.log1p(math.exp(-1) / 16), rel=1e-4
    )


@pytest.mark.mechanism("idk_ap", "CE on the refusal; (1/beta) softplus(-beta (NLL refusal - NLL gold))", kind="loss")
def test_idk_ap():
    """Forget: CE on the refusal. Retain, beta 2: softplus(-2 (4 ln2 - 3 ln2))/2 = ln(1 + 1/4)/2."""
    method = METHODS.get("idk_ap")(beta=2.0)
    assert method.forget_loss(example(others={"idk": plain_view(0.7)})).item() == pytest.approx(0.7, rel=1e-5)
    view = example(others={"idk_retain": plain_view(4 * LN2)}, stream="retain")
    assert method.retain_loss(view).item() == pytest.approx(math.log(1.25) / 2, rel=1e-5)


@pytest.mark.mechanism("me_gd", "0.1 KL(uniform || p)", kind="loss")
def test_me_gd_on_answers():
    """0.1 KL(uniform || p), KL_THIRDS at both tokens."""
    loss = METHODS.get("me_gd")(where="answer").forget_loss(example())
    assert loss.item() == pytest.approx(0.1 * KL_THIRDS, rel=1e-4)


@pytest.mark.mechanism("llmu", "-e1 CE + e2 CE(random) + e3 KL", kind="loss")
@pytest.mark.mechanism("opt_ascent", "-e1 CE + e2 CE(random) + e3 KL", kind="loss")
@pytest.mark.parametrize("name", ["llmu", "opt_ascent"])
def test_llmu(name):
    """-0.5 * 1.5 ln2 + (0.6 + 1.0)/2 with two random answers; KL_THIRDS on retain; e2 = 0 leaves ascent alone."""
    others = {"random:0": plain_view(0.6), "random:1": plain_view(1.0)}
    method = METHODS.get(name)(answers=2, where="answer")
    assert method.forget_loss(example(others=others)).item() == pytest.approx(-0.75 * LN2 + 0.8, rel=1e-5)
    kept = method.retain_loss(example(ref_top=whole_top(torch.zeros(2, 3))))
    assert kept.item() == pytest.approx(KL_THIRDS, rel=1e-4)
    assert METHODS.get(name)(random=0.0).forget_loss(example()).item() == pytest.approx(-0.75 * LN2)


# -- equalities ---------------------------------
def random_views(seed: int = 0) -> tuple[torch.Tensor, dict]:
    """Random logits Float[5, 7] of two rows (3 + 2 tokens) with reference values of other random logits."""
    generator = torch.Generator().manual_seed(seed)
    logits, ref = (2 * torch.randn(5, 7, generator=generator) for _ in range(2))
    labels, rows = torch.tensor([1, 4, 0, 6, 2]), torch.tensor([0, 0, 0, 1, 1])
    ref_logp = ref.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
    given = dict(
        labels=labels,
        rows=rows,
        ref_logp=ref_logp,
        ref_top=whole_top(ref),
        ref_nll=torch.zeros(2).index_add(0, rows, -ref_logp),
    )
    return logits, given | {"ref": ref}


def gradient(loss, seed: int = 0) -> torch.Tensor:
    """d loss(view) / d logits on the random views."""
    logits, given = random_views(seed)
    logits.requires_grad_()
    loss(hand_view(logits, **{k: v for k, v in given.items() if k != "ref"})).backward()
    return logits.grad


def ascent(view: View) -> torch.Tensor:
    return view.mean_tokens(view.logp)


@pytest.mark.mechanism("wga", "exponents 0 are gradient ascent", kind="equality")
@pytest.mark.mechanism("satimp", "exponents 0 are gradient ascent", kind="equality")
@pytest.mark.mechanism("tnpo", "exponents 0 are gradient ascent", kind="equality")
@pytest.mark.mechanism("wtnpo", "exponents 0 are gradient ascent", kind="equality")
@pytest.mark.parametrize(
    "name, settings",
    [
        ("wga", {"beta": 0.0}),
        ("satimp", {"beta1": 0.0, "beta2": 0.0}),
        ("tnpo", {"beta": 0.0}),
        ("wtnpo", {"beta": 0.0, "alpha": 0.0}),
        ("grad_diff", {}),
        ("kl_min", {}),
    ],
)
def test_zero_exponents_are_gradient_ascent(name, settings):
    torch.testing.assert_close(gradient(METHODS.get(name)(**settings).forget_loss), gradient(ascent))


@pytest.mark.mechanism("simnpo", "beta -> 0 is gradient ascent on row means", kind="equality")
def test_simnpo_with_small_beta_is_row_mean_gradient_ascent():
    """(2/b) softplus(-b g) has slope -1 in g at b = 0; the row mean NLL weighs each row the same."""

    def row_ascent(view: View) -> torch.Tensor:
        return -view.mean_rows(view.nll / view.lengths)

    found = gradient(METHODS.get("simnpo")(beta=1e-4, gamma=1.0).forget_loss)
    torch.testing.assert_close(found, gradient(row_ascent), rtol=1e-3, atol=1e-5)


@pytest.mark.mechanism("tnpo", "gradient of token-wise NPO", kind="equality")
@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_tnpo_has_the_gradient_of_token_npo(beta):
    """d/dtheta (2/b) softplus(b log(p/ref)) = 2 p^b/(p^b + ref^b) dlog p."""

    def token_npo(view: View) -> torch.Tensor:
        return view.mean_tokens(2 / beta * F.softplus(beta * (view.logp - view.ref_logp)))

    torch.testing.assert_close(gradient(METHODS.get("tnpo")(beta=beta).forget_loss), gradient(token_npo))


@pytest.mark.mechanism("wtnpo", "alpha 0 is TNPO", kind="equality")
@pytest.mark.mechanism("satimp", "beta2 0 is WGA", kind="equality")
def test_special_cases_of_weights():
    """WTNPO with alpha 0 is TNPO; SatImp with beta2 0 is WGA; and each exponent matters."""
    tnpo, wga = gradient(METHODS.get("tnpo")().forget_loss), gradient(METHODS.get("wga")(beta=5.0).forget_loss)
    torch.testing.assert_close(gradient(METHODS.get("wtnpo")(alpha=0.0).forget_loss), tnpo)
    torch.testing.assert_close(gradient(METHODS.get("satimp")(beta2=0.0).forget_loss), wga)
    assert not torch.allclose(gradient(METHODS.get("wtnpo")().forget_loss), tnpo)
    assert not torch.allclose(gradient(METHODS.get("satimp")().forget_loss), wga)


@pytest.mark.mechanism("wga", "the weight is a constant, with nothing from its own gradient", kind="equality")
@pytest.mark.mechanism("satimp", "the weight is a constant, with nothing from its own gradient", kind="equality")
@pytest.mark.mechanism("tnpo", "the weight is a constant, with nothing from its own gradient", kind="equality")
@pytest.mark.mechanism("wtnpo", "the weight is a constant, with nothing from its own gradient", kind="equality")
@pytest.mark.parametrize("name", ["wga", "satimp", "tnpo", "wtnpo"])
def test_weights_are_constants(name):
    """The gradient of the gold logit is weight * (1 - p) / tokens, with nothing from the weight itself."""
    logits, given = random_views()
    gold = given["labels"][:, None]
    p = logits.softmax(-1).gather(1, gold).squeeze(1)
    ref = given["ref_logp"].exp()
    weight = {
        "wga": p,
        "satimp": p**5 * (1 - p),
        "tnpo": 2 * p**4 / (p**4 + ref**4),
        "wtnpo": 2 * p**5.5 / (p**4 + ref**4),
    }[name]
    found = gradient(METHODS.get(name)().forget_loss).gather(1, gold).squeeze(1)
    torch.testing.assert_close(found, weight * (1 - p) / 5)


@pytest.mark.mechanism("dpo", "an unmoved refusal makes it NPO", kind="equality")
def test_dpo_with_an_unmoved_refusal_is_npo():
    """Delta(refusal) = 0 leaves (2/b) softplus(b Delta(gold)), which is NPO."""

    def with_still_refusal(view: View) -> torch.Tensor:
        refusal = hand_view(torch.zeros(2, 2), [0, 0], [0, 1], ref_nll=[LN2, LN2])
        return METHODS.get("dpo")().forget_loss(replace(view, others={"idk": refusal}))

    torch.testing.assert_close(gradient(with_still_refusal), gradient(METHODS.get("npo")().forget_loss))


@pytest.mark.mechanism("undial", "a whole teacher gives the published loss", kind="equality")
def test_undial_is_the_published_loss_when_the_teacher_is_whole():
    """k = V: cross-entropy to softmax(z_ref - beta onehot(gold)), value and gradient."""

    def published(view: View) -> torch.Tensor:
        teacher = given["ref"] - 10.0 * F.one_hot(view.batch.label_id, 7)
        return F.cross_entropy(view.logits, teacher.softmax(-1))

    _, given = random_views()
    torch.testing.assert_close(gradient(METHODS.get("undial")().forget_loss), gradient(published), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_undial_with_a_short_teacher_is_the_bucketed_loss(k):
    """Brute force over buckets: the k likeliest tokens, the gold token, and the rest as one."""
    logits, given = random_views()
    ref, labels = given["ref"].softmax(-1), given["labels"]
    q = ref * torch.exp(torch.tensor(-2.0)) ** F.one_hot(labels, 7)
    q, p, total = q / q.sum(1, keepdim=True), logits.softmax(-1), 0.0
    for i in range(5):
        single = set(ref[i].topk(k).indices.tolist()) | {int(labels[i])}
        rest = [v for v in range(7) if v not in single]
        total -= sum(q[i, v] * p[i, v].log() for v in single) + q[i, rest].sum() * p[i, rest].sum().log()
    values, ids = ref.log().topk(k)
    top = (values, ids, (1 - values.exp().sum(1)).log())
    view = hand_view(logits, labels, given["rows"], ref_logp=given["ref_logp"], ref_top=top)
    assert METHODS.get("undial")(beta=2.0).forget_loss(view).item() == pytest.approx(total.item() / 5, rel=1e-4)


@pytest.mark.mechanism("undial", "beta 0 distils the model into itself", kind="equality")
def test_undial_without_strength_leaves_the_model_where_it_is():
    """beta 0 distils the model into itself: no gradient at the start; beta 10 has one."""
    logits, given = random_views()
    for beta, still in ((0.0, True), (10.0, False)):
        student = given["ref"].clone().requires_grad_()
        view = hand_view(student, given["labels"], given["rows"], ref_logp=given["ref_logp"], ref_top=given["ref_top"])
        METHODS.get("undial")(beta=beta).forget_loss(view).backward()
        assert (student.grad.abs().max().item() < 1e-6) == still


@pytest.mark.mechanism("pdu", "still at the uniform distribution", kind="equality")
@pytest.mark.mechanism("me_gd", "still at the uniform distribution", kind="equality")
def test_pdu_and_me_gd_are_still_at_the_uniform_distribution():
    """Both losses are 0 and flat there: bounded below."""
    for name, settings in (("pdu", {}), ("me_gd", {"where": "answer"})):
        logits = torch.zeros(2, 3, requires_grad=True)
        loss = METHODS.get(name)(**settings).forget_loss(hand_view(logits, [0, 0]))
        loss.backward()
        assert loss.item() == pytest.approx(0.0, abs=1e-6) and logits.grad.abs().max() < 1e-6


# -- 8 x 1 equals 1 x 8 ---------------------------------
ADDITIVE = [
    "grad_ascent",
    "grad_diff",
    "kl_min",
    "simnpo",
    "wga",
    "satimp",
    "tnpo",
    "wtnpo",
    "ce_u",
    "pdu",
    "undial",
    "idk",
    "dpo",
    "idk_ap",
    "me_gd",
    "llmu",
    "opt_ascent",
    "alt_po",
]
SETTINGS = {
    "me_gd": {"where": "answer"},
    "llmu": {"where": "answer", "answers": 2},
    "opt_ascent": {"where": "answer", "answers": 2},
    "pdu": {"eps": 0.3},
    "alt_po": {"answers": 2},
}


def piece(rows: list[int], stream: str = "forget", others: bool = True) -> View:
    """The given rows of a fixed effective batch of three rows with 3, 2 and 4 tokens."""
    generator = torch.Generator().manual_seed({"forget": 1, "retain": 2}.get(stream, 3 + len(stream)))
    label_row = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    logits, ref = (torch.randn(9, 5, generator=generator) for _ in range(2))
    labels = torch.randint(0, 5, (9,), generator=generator)
    ref_logp = ref.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
    ref_nll = torch.zeros(3).index_add(0, label_row, -ref_logp)
    mine = torch.cat([(label_row == r).nonzero().flatten() for r in rows])
    place = torch.cat([torch.full((int((label_row == r).sum()),), i) for i, r in enumerate(rows)])
    extra = ("idk", "idk_retain", "random:0", "random:1", "alternative:0", "alternative:1") if others else ()
    return hand_view(
        logits[mine],
        labels[mine],
        place,
        ref_nll=ref_nll[rows],
        ref_logp=ref_logp[mine],
        ref_top=tuple(t[mine] for t in whole_top(ref)),
        stream=stream,
        rows_total=3,
        tokens_total=9,
        others={name: piece(rows, name, others=False) for name in extra},
    )


@pytest.mark.parametrize("name", ADDITIVE)
def test_losses_add_over_rows(name):
    """Three micro-batches of one row sum to the loss of one batch of three, on both sides."""
    method = METHODS.get(name)(**SETTINGS.get(name, {}))
    for stream, loss in (("forget", method.forget_loss), ("retain", method.retain_loss)):
        whole = loss(piece([0, 1, 2], stream))
        if whole is not None:
            parts = sum(loss(piece([r], stream)) for r in range(3))
            torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


# -- PDU's dual variable ---------------------------------
@pytest.mark.mechanism("pdu", "the dual variable follows the retain loss after its warm-up")
def test_pdu_dual_steps():
    """Warm-up 2 of 4 steps; then 100 + 5 (0.5 - 0.3) = 101, then 101 + 5 (0.1 - 0.3) = 100; never below 0."""
    method = METHODS.get("pdu")(eps=0.3)
    method.start(context([question(0)], [question(1)], steps=4))
    seen = []
    for step, nll in enumerate((9.0, 9.0, 0.5, 0.1), start=1):
        method.after_step(step, report := {"retain_nll": nll})
        seen.append(report["dual"])
    assert seen == pytest.approx([100.0, 100.0, 101.0, 100.0])
    method.settings = method.settings.model_copy(update={"dual_step": 1000.0})
    method.after_step(5, {"retain_nll": 0.0})
    assert method.dual == 0.0


def test_pdu_measures_its_bound_and_carries_its_state():
    """eps = the first retain loss 0.2 + margin 0.1; saved and restored; a new start resets both."""
    method = METHODS.get("pdu")()
    method.start(context([question(0)], [question(1)], steps=1))
    method.after_step(1, {"retain_nll": 0.2})
    assert method.eps == pytest.approx(0.3) and method.dual == pytest.approx(100 + 5 * (0.2 - 0.3))
    again = METHODS.get("pdu")()
    again.load_state(method.state())
    assert (again.dual, again.eps) == (method.dual, method.eps)
    again.start(context([question(0)], [question(1)], steps=1))
    assert (again.dual, again.eps) == (100.0, None)


def test_pdu_refuses_to_run_without_its_constraint():
    with pytest.raises(NeedsError, match="retain_weight is 0"):
        METHODS.get("pdu")().check(context([question(0)], [question(1)], retain_weight=0.0))


# -- refusals and random answers ---------------------------------
def test_refusals_are_a_hundred_different_sentences():
    assert len(REFUSALS) == len({r.lower() for r in REFUSALS}) == 100


def test_refusals_depend_on_seed_and_row_only():
    """A row gets the same refusal in any set; another seed gives others; questions stay, gold answers go."""
    rows = [question(i) for i in range(30)]
    drawn = with_refusals(rows, 7)
    assert drawn[4] == with_refusals(rows[4:5], 7)[0]
    assert [r.answer for r in drawn] != [r.answer for r in with_refusals(rows, 8)]
    assert all(d.prompt == r.prompt and d.answer in REFUSALS for d, r in zip(drawn, rows, strict=True))
    assert len({r.answer for r in drawn}) > 15
    streams = METHODS.get("dpo")().streams(context(rows))
    assert [r.answer for r in streams["idk"]] == [r.answer for r in drawn]


@pytest.mark.parametrize("name", ["idk", "dpo", "idk_ap", "llmu", "opt_ascent", "alt_po"])
def test_methods_with_new_answers_refuse_documents(name):
    """A plain document has no question that another answer could be given to."""
    with pytest.raises(NeedsError, match="has no prompt") as caught:
        METHODS.get(name)().check(context([Row("doc", "some text")], [question(i) for i in range(9)]))
    assert caught.value.code == "method.needs-questions"


@pytest.mark.mechanism("llmu", "random answers are never a row's own")
@pytest.mark.mechanism("opt_ascent", "random answers are never a row's own")
def test_llmu_draws_mismatched_answers():
    """Five different answers of retain rows for each forget row, none of them its own; too few are refused."""
    forget = [question(0, "answer 3"), question(1)]
    retain = [question(i) for i in range(10, 15)] + [question(3)]
    streams = METHODS.get("llmu")().streams(context(forget, retain))
    assert sorted(streams) == [f"random:{k}" for k in range(5)]
    first = [streams[f"random:{k}"][0] for k in range(5)]
    assert {r.answer for r in first} == {f"answer {i}" for i in range(10, 15)} and {r.prompt for r in first} == {
        "question 0?"
    }
    with pytest.raises(NeedsError, match="lower method.answers"):
        METHODS.get("llmu")().check(context(forget, retain[1:]))
    assert METHODS.get("llmu")(random=0.0).streams(context(forget, retain)) == {}


def test_ce_u_refuses_answers_it_would_skip():
    adapter = SimpleNamespace(family="causal_lm", encode=lambda row: SimpleNamespace(problem="", labels=1))
    with pytest.raises(NeedsError, match="row r0 has 1"):
        METHODS.get("ce_u")().check(replace(context([question(0)]), adapter=adapter))


def test_unknown_settings_are_errors():
    with pytest.raises(SpecError, match="not a setting"):
        METHODS.get("simnpo")(betta=1.0)


def test_hand_view_says_what_it_was_not_given():
    with pytest.raises(NeedsError, match="ref_logp"):
        METHODS.get("tnpo")().forget_loss(example())
