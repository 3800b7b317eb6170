"""Update rules on functions whose gradients are known by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from efface.engine.rules.base import RULES, Gradients, dot, norm
from efface.errors import SpecError

Loss = Callable[[list[nn.Parameter]], Tensor]


def parameters(*values: list[float]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(v)) for v in values]


def make(params: list[nn.Parameter], forget: Loss, retain: Loss | None, seen: list | None = None) -> Gradients:
    """Gradients of two plain functions; ``seen`` collects (side, weights at the call)."""
    losses = {"forget": forget, "retain": retain}

    def backward(side: str) -> float:
        if seen is not None:
            seen.append((side, torch.cat([p.detach().flatten().clone() for p in params])))
        loss = losses[side](params)
        loss.backward()
        return float(loss.detach())

    return Gradients(params, backward, retain is not None)


def run(name: str, params: list[nn.Parameter], forget: Loss, retain: Loss | None, seen: list | None = None, **settings):
    """Compose once; returns (flat written gradient, report). Checks that the weights come back to the same bits."""
    before = [p.detach().clone() for p in params]
    gradients = make(params, forget, retain, seen)
    report = RULES.get(name)(**settings).compose(gradients, torch.Generator().manual_seed(7))
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    return torch.cat([p.grad.flatten() for p in params]), report


def square(params: list[nn.Parameter]) -> Tensor:
    """1/2 * (a^2 + 4 b^2): gradient (a, 4b), Hessian diag(1, 4)."""
    w = torch.cat([p.flatten() for p in params])
    return 0.5 * (w[0] ** 2 + 4 * w[1] ** 2)


def linear(*slope: float) -> Loss:
    return lambda params: (torch.cat([p.flatten() for p in params]) * torch.tensor(slope)).sum()


RULE_NAMES = ["sum", "sam", "random_smoothing", "gradient_penalty", "curvature", "weight_average", "blur", "tar"]


@pytest.mark.parametrize("name", RULE_NAMES)
def test_every_rule_has_a_card_and_refuses_unknown_settings(name: str) -> None:
    cls = RULES.get(name)
    assert cls.card.title and cls.card.source and cls.card.summary
    with pytest.raises(SpecError, match="train.rule_settings"):
        cls(rhoo=1.0)


@pytest.mark.parametrize("name", RULE_NAMES)
def test_every_rule_works_without_a_retain_term(name: str) -> None:
    got, _ = run(name, parameters([3.0, 1.0]), square, None)
    assert torch.isfinite(got).all() and got.abs().sum() > 0


# -- SAM ------------------------------------------------------------------------------------------------------------


@pytest.mark.mechanism("npo_sam", "forget gradient at theta + e, retain gradient at theta")
def test_sam_takes_the_forget_gradient_at_the_perturbed_weights() -> None:
    """w = (3, 1): g = (3, 4), |g| = 5, rho 0.5 -> e = (0.3, 0.4); g(w + e) = (3.3, 5.6). Plus g_r (1, -1): (4.3,
    4.6)."""
    got, report = run("sam", parameters([3.0], [1.0]), square, linear(1.0, -1.0), rho=0.5)
    assert torch.allclose(got, torch.tensor([4.3, 4.6]), atol=1e-6)
    assert report["forget_gradient"] == pytest.approx(5.0)


def test_sam_evaluates_retain_at_the_unperturbed_weights() -> None:
    seen: list = []
    run("sam", parameters([3.0], [1.0]), square, square, seen, rho=0.5)
    assert [side for side, _ in seen] == ["forget", "forget", "retain"]
    assert torch.equal(seen[2][1], torch.tensor([3.0, 1.0]))
    assert torch.allclose(seen[1][1], torch.tensor([3.3, 1.4]))


def test_sam_with_rho_zero_is_the_sum_and_a_zero_gradient_is_no_division() -> None:
    plain, _ = run("sum", parameters([3.0, 1.0]), square, linear(1.0, -1.0))
    got, _ = run("sam", parameters([3.0, 1.0]), square, linear(1.0, -1.0), rho=0.0)
    assert torch.equal(got, plain)
    flat, _ = run("sam", parameters([0.0, 0.0]), square, linear(1.0, -1.0), rho=0.5)
    assert torch.equal(flat, torch.tensor([1.0, -1.0]))


# -- random smoothing -----------------------------------------------------------------------------------------------


def test_random_smoothing_averages_over_noisy_copies() -> None:
    """The gradient of `square` is linear, so the mean gradient is the gradient at w + mean noise."""
    seen: list = []
    got, _ = run("random_smoothing", parameters([3.0, 1.0]), square, None, seen, sigma=0.1, relative=False, copies=3)
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(7)) * 0.1
    where = torch.tensor([3.0, 1.0]) + noise.mean(0)
    assert torch.allclose(got, where * torch.tensor([1.0, 4.0]), atol=1e-5)
    assert len({tuple(w.tolist()) for _, w in seen}) == 3


def test_random_smoothing_scales_noise_by_the_root_mean_square() -> None:
    """rms of (3, 1) is sqrt(5); one copy, sigma 0.1: noise 0.1 * sqrt(5) * n."""
    seen: list = []
    run("random_smoothing", parameters([3.0, 1.0]), square, None, seen, sigma=0.1, relative=True, copies=1)
    noise = torch.randn(2, generator=torch.Generator().manual_seed(7)) * 0.1 * 5**0.5
    assert torch.allclose(seen[0][1], torch.tensor([3.0, 1.0]) + noise, atol=1e-6)
    got, _ = run("random_smoothing", parameters([3.0, 1.0]), square, None, sigma=0.0)
    assert torch.allclose(got, torch.tensor([3.0, 4.0]))


# -- gradient penalty and curvature ---------------------------------------------------------------------------------


def test_gradient_penalty_adds_the_gradient_of_the_norm() -> None:
    """g = (3, 4), v = (.6, .8), H = diag(1, 4): H v = (.6, 3.2). weight 2: (3 + 1.2, 4 + 6.4) = (4.2, 10.4)."""
    got, _ = run("gradient_penalty", parameters([3.0, 1.0]), square, None, weight=2.0, probe=0.1)
    assert torch.allclose(got, torch.tensor([4.2, 10.4]), atol=1e-4)
    plain, _ = run("gradient_penalty", parameters([3.0, 1.0]), square, linear(1.0, 1.0), weight=0.0)
    assert torch.allclose(plain, torch.tensor([4.0, 5.0]))


def test_gradient_penalty_equals_autograd_through_the_norm() -> None:
    """The penalty the released code intends, by double backward: d/dw (f + 0.3 ||f'||) with f = sum w^4 / 4."""
    start = torch.tensor([0.5, -0.2, 0.9], dtype=torch.float64)
    w = start.clone().requires_grad_(True)
    (g,) = torch.autograd.grad((w**4).sum() / 4, w, create_graph=True)
    (want,) = torch.autograd.grad((w**4).sum() / 4 + 0.3 * g.norm(), w)
    params = [nn.Parameter(start.clone())]
    got, _ = run("gradient_penalty", params, lambda p: (p[0] ** 4).sum() / 4, None, weight=0.3, probe=1e-5)
    assert torch.allclose(got, want, atol=1e-4)


def test_curvature_equals_autograd_through_the_gradient_difference() -> None:
    """d/dw (f + 0.3 ||f'(w + e) - f'(w)||), e = 0.1 f'/||f'|| held constant, f = sum w^4 / 4, by double backward."""
    start = torch.tensor([0.5, -0.2, 0.9], dtype=torch.float64)
    w = start.clone().requires_grad_(True)
    g = start**3
    e = 0.1 * g / g.norm()
    want = torch.autograd.grad((w**4).sum() / 4 + 0.3 * ((w + e) ** 3 - w**3).norm(), w)[0]
    params = [nn.Parameter(start.clone())]
    settings = {"weight": 0.3, "rho": 0.1, "probe": 1e-5}
    got, report = run("curvature", params, lambda p: (p[0] ** 4).sum() / 4, None, **settings)
    assert torch.allclose(got, want, atol=1e-3)
    assert report["curvature"] == pytest.approx(float(((start + e) ** 3 - g).norm()) / 0.1, rel=1e-4)


def test_curvature_of_a_quadratic_adds_nothing() -> None:
    """H is constant, so H(w + e) - H(w) = 0 and the penalty has no slope."""
    got, report = run("curvature", parameters([3.0, 1.0]), square, linear(1.0, 1.0), weight=5.0)
    assert torch.allclose(got, torch.tensor([4.0, 5.0]), atol=2e-2)
    assert report["curvature"] == pytest.approx((0.6**2 + 3.2**2) ** 0.5, rel=1e-3)  # |H v| = |(.6, 3.2)|


# -- weight averaging -----------------------------------------------------------------------------------------------


def average(values: list[float], **settings: float) -> float:
    """Weight after `values` were the weights of successive steps."""
    rule, (w,) = RULES.get("weight_average")(**settings), parameters([0.0])
    for value in values:
        w.data.fill_(value)
        rule.after_update([w])
    rule.finish([w])
    return float(w.detach())


def test_weight_average_by_hand() -> None:
    """decay .5 over 1, 2, 4: 1 -> 1.5 -> 2.75; equal weights: 7/3; start 1 leaves (2, 4) -> 3; start 9 keeps 4."""
    assert average([1.0, 2.0, 4.0], decay=0.5) == pytest.approx(2.75)
    assert average([1.0, 2.0, 4.0], decay=1.0) == pytest.approx(7 / 3)
    assert average([1.0, 2.0, 4.0], decay=0.5, start=1) == pytest.approx(3.0)
    assert average([1.0, 2.0, 4.0], decay=0.5, start=9) == 4.0
    assert average([1.0, 2.0, 4.0], decay=0.0) == 4.0


def test_weight_average_resumes_from_its_state() -> None:
    first, second, (w,) = (
        RULES.get("weight_average")(decay=0.5),
        RULES.get("weight_average")(decay=0.5),
        parameters([0.0]),
    )
    for value in (1.0, 2.0):
        w.data.fill_(value)
        first.after_update([w])
    second.load_state({k: v.clone() for k, v in first.state().items()})
    w.data.fill_(4.0)
    second.after_update([w])
    second.finish([w])
    assert float(w.detach()) == pytest.approx(2.75)


def test_weight_average_writes_the_plain_sum() -> None:
    got, _ = run("weight_average", parameters([3.0, 1.0]), square, linear(1.0, -1.0))
    assert torch.allclose(got, torch.tensor([4.0, 3.0]))


# -- BLUR -----------------------------------------------------------------------------------------------------------


def vectors(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """A forget and a retain gradient over two tensors, in conflict and of different size."""
    g = torch.Generator().manual_seed(seed)
    forget = [torch.randn(40, 30, generator=g), torch.randn(50, generator=g)]
    retain = [-0.6 * f + 3 * torch.randn(f.shape, generator=g) for f in forget]
    return forget, retain


def blur(forget: list[Tensor], retain: list[Tensor], **settings) -> tuple[list[Tensor], dict[str, float]]:
    """u for given gradients: losses that are linear in the weights have exactly these gradients."""
    params = [nn.Parameter(torch.zeros_like(f)) for f in forget]
    losses = [lambda p, s=side: sum((a * b).sum() for a, b in zip(p, s, strict=True)) for side in (forget, retain)]
    gradients = make(params, *losses)
    report = RULES.get("blur")(**settings).compose(gradients, torch.Generator())
    return [p.grad for p in params], report


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blur_identity_and_orthogonality(gamma: float, seed: int) -> None:
    """<g_f, u> = gamma ||g_f||^2 to 1e-6, and u - gamma g_f is orthogonal to g_f."""
    forget, retain = vectors(seed)
    u, _ = blur(forget, retain, gamma=gamma)
    assert float(dot(forget, u) / (gamma * dot(forget, forget))) == pytest.approx(1.0, abs=1e-6)
    rest = [a - gamma * f for a, f in zip(u, forget, strict=True)]
    assert abs(float(dot(rest, forget) / (norm(rest) * norm(forget)))) < 1e-6


def test_blur_by_hand() -> None:
    """g_f = (1, 0), g_r = (-2, 1), gamma 1: xi = 1 + 2 = 3, u = (1, 1). The sum would be (-1, 1): forgetting undone."""
    f, r = [torch.tensor([1.0, 0.0])], [torch.tensor([-2.0, 1.0])]
    u, report = blur(f, r)
    assert torch.equal(u[0], torch.tensor([1.0, 1.0])) and report["xi"] == 3.0
    assert report["cosine"] == pytest.approx(-2 / 5**0.5)


def test_blur_negative_xi_is_kept_unless_clamped() -> None:
    """g_f = (1, 0), g_r = (3, 1): xi = 1 - 3 = -2, u = (1, 1); clamped xi = 0, u = g_r = (3, 1)."""
    f, r = [torch.tensor([1.0, 0.0])], [torch.tensor([3.0, 1.0])]
    assert torch.equal(blur(f, r)[0][0], torch.tensor([1.0, 1.0]))
    assert torch.equal(blur(f, r, clamp=True)[0][0], torch.tensor([3.0, 1.0]))


def test_blur_equals_the_sum_when_gradients_are_orthogonal() -> None:
    f, r = [torch.tensor([1.0, 0.0, 2.0])], [torch.tensor([2.0, 5.0, -1.0])]
    assert torch.equal(blur(f, r)[0][0], torch.tensor([3.0, 5.0, 1.0]))


def test_blur_with_retain_priority_exchanges_the_roles() -> None:
    """u = g_f + xi g_r, xi = 1 - <g_r, g_f>/||g_r||^2 = 1 + 2/5: <g_r, u> = ||g_r||^2."""
    f, r = [torch.tensor([1.0, 0.0])], [torch.tensor([-2.0, 1.0])]
    u, _ = blur(f, r, priority="retain")
    assert torch.allclose(u[0], torch.tensor([1.0 - 2.8, 1.4]))


def test_blur_skips_the_projection_on_a_vanishing_forget_gradient() -> None:
    tiny, r = [torch.tensor([1e-12, 0.0])], [torch.tensor([-2.0, 1.0])]
    u, report = blur(tiny, r)
    assert report["xi"] == 1.0 and torch.allclose(u[0], r[0])


def test_blur_never_undoes_forgetting_however_heavy_the_retain_gradient() -> None:
    """A step of length 0.01 along -u lowers <g_f, w> for every weight of g_r; along -(g_f + w g_r) it does not."""
    forget, retain = vectors(5)
    for weight in (1, 5, 20, 100):
        heavy = [weight * r for r in retain]
        u, _ = blur(forget, heavy)
        assert float(dot(forget, u)) > 0
    plain = [f + 100 * r for f, r in zip(forget, heavy, strict=True)]
    assert float(dot(forget, plain)) < 0


# -- TAR ------------------------------------------------------------------------------------------------------------


@pytest.mark.mechanism("tar", "first-order meta-gradient over the adversary's steps")
def test_tar_by_hand() -> None:
    """l_f = -square: g_f = (-a, -4b). w = (3, 1), lr 0.5: the adversary climbs l_f by sign steps, (-, -): (2.5, .5)
    with g_f (-2.5, -2), then (2, 0) with g_f (-2, 0). Mean (-2.25, -1), times 4: (-9, -4). Plus g_r (1, 1)."""
    seen: list = []
    settings = {"steps": 2, "lr": 0.5, "scale": 4.0}
    got, report = run("tar", parameters([3.0], [1.0]), lambda p: -square(p), linear(1.0, 1.0), seen, **settings)
    assert torch.allclose(got, torch.tensor([-8.0, -3.0]))
    assert report["loss_after_tampering"] == pytest.approx((-3.625 - 2.0) / 2)  # -(6.25 + 1)/2 and -4/2
    assert [side for side, _ in seen] == ["forget", "forget", "forget", "retain"]
    assert torch.equal(seen[-1][1], torch.tensor([3.0, 1.0]))


def test_tar_drops_the_forget_term_beyond_its_bound() -> None:
    """Loss after tampering is -2.8: bound 2 drops the term (only g_r is left), bound 3 keeps it."""
    settings = {"steps": 2, "lr": 0.5}
    params = parameters([3.0, 1.0])
    off, report = run("tar", params, lambda p: -square(p), linear(1.0, 1.0), bound=2.0, **settings)
    assert torch.equal(off, torch.tensor([1.0, 1.0])) and report["tamper_term"] == 0.0
    on, report = run("tar", params, lambda p: -square(p), linear(1.0, 1.0), bound=3.0, **settings)
    assert not torch.equal(on, off) and report["tamper_term"] == 1.0
