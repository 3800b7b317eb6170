"""FADE on two bigram models over 5 symbols, against full enumeration of all sequences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from efface.metrics.distribution import fade, normalised

LENGTH, SYMBOLS = 6, 5


class Bigram:
    """First symbol uniform, then a row of ``table``."""

    def __init__(self, seed: int, sharp: float) -> None:
        logits = sharp * np.random.default_rng(seed).normal(size=(SYMBOLS, SYMBOLS))
        self.table = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def lp(self, text) -> np.ndarray:
        return np.log([1 / SYMBOLS, *(self.table[a, b] for a, b in itertools.pairwise(text))])

    def sample(self, rng) -> list[int]:
        text = [int(rng.integers(SYMBOLS))]
        while len(text) < LENGTH:
            text.append(int(rng.choice(SYMBOLS, p=self.table[text[-1]])))
        return text


@pytest.fixture(scope="module")
def pair():
    reference, model = Bigram(0, 1.0), Bigram(1, 1.0)
    rng = np.random.default_rng(2)
    theirs, mine = ([m.sample(rng) for _ in range(1500)] for m in (reference, model))
    blocks = [
        [m.lp(t) for t in texts]
        for texts, m in ((theirs, reference), (theirs, model), (mine, model), (mine, reference))
    ]
    return reference, model, fade(*blocks)


def exact(p: Bigram, q: Bigram) -> float:
    """KL(p || q) over all 5^6 sequences."""
    everything = [(p.lp(t).sum(), q.lp(t).sum()) for t in itertools.product(range(SYMBOLS), repeat=LENGTH)]
    return sum(math.exp(a) * (a - b) for a, b in everything)


def test_sampled_fade_agrees_with_enumeration(pair):
    reference, model, found = pair
    forward, reverse = exact(reference, model), exact(model, reference)
    assert found.value == pytest.approx((forward + reverse) / 2, abs=2 * found.error)
    assert found.forward == pytest.approx(forward, rel=0.1) and found.reverse == pytest.approx(reverse, rel=0.1)
    assert found.per_token == pytest.approx(found.value / LENGTH)


def test_equal_models_give_zero():
    lp = [np.array([-1.0, -2.0])] * 4
    assert fade(lp, lp, lp, lp).value == 0.0


def test_an_impossible_sample_leaves_median_and_clipped_steady():
    """Forward gaps 0, 0 and 1000 nats over two tokens: mean 1000/3, median 0, clipped per token (0 + 0 + 20) / 3 halved
    over tokens: gaps [500, 500] clip to [20, 20], so 20/3; averaged with a reverse of 0: 166.7, 0, 3.33."""
    own, other = [np.zeros(2)] * 3, [np.zeros(2), np.zeros(2), np.full(2, -500.0)]
    found = fade(own, other, own, own)
    assert (found.value, found.median, found.clipped) == pytest.approx((1000 / 6, 0.0, 20 / 6))


def test_prompts_weigh_alike():
    """Prompt a has gap 1 three times, prompt b gap 5 once: (1 + 5) / 2 = 3, not 2."""
    own, other = [np.zeros(1)] * 4, [np.array([-1.0])] * 3 + [np.array([-5.0])]
    found = fade(own, other, own[:1], own[:1], reference_prompts=["a", "a", "a", "b"], subject_prompts=["a"])
    assert found.forward == 3.0 and found.reverse == 0.0


def test_normalised_needs_power():
    assert normalised(2.0, 1.0, 5.0) == 0.25 and math.isnan(normalised(2.0, 3.0, 3.0))
