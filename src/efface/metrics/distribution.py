"""FADE: would anyone sampling from the unlearned model notice that it is not the reference?

Estimators over log-probs of samples of both models scored under both (four blocks); ``metrics.fade`` reads them from
the pass ``cross_samples``. Samples must be drawn at temperature 1 without truncation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CLIP = 20.0  # nats per token
Blocks = Sequence[np.ndarray]


@dataclass(frozen=True)
class Fade:
    """``forward``: what the reference says and the model does not; ``reverse``: what the model says and the reference
    would not; ``value`` their mean: half the Jeffreys divergence, in nats per answer, 0 for equal models.
    ``per_token``: the same of per-token means. ``median`` over samples and ``clipped`` (per token, at 20 nats): steady
    where a sample is all but impossible under the other model. ``error``: standard error of ``value`` over samples.
    ``n``: samples of each."""

    value: float
    forward: float
    reverse: float
    per_token: float
    median: float
    clipped: float
    error: float
    n: tuple[int, int]


def fade(
    reference_own: Blocks,
    reference_other: Blocks,
    subject_own: Blocks,
    subject_other: Blocks,
    *,
    reference_prompts: Sequence[str] = (),
    subject_prompts: Sequence[str] = (),
) -> Fade:
    """FADE from token log-probs Float[tokens] per sample, end token included (arXiv 2510.12981).

    ``reference_own`` / ``reference_other``: samples of the reference under itself and under the model; ``subject_own``
    / ``subject_other``: samples of the model under itself and under the reference. With prompts, samples are averaged
    within a prompt first. NaN where a side has no sample.
    """
    return of_gaps(
        _gaps(reference_own, reference_other), _gaps(subject_own, subject_other), reference_prompts, subject_prompts
    )


def of_gaps(
    forward: Blocks, reverse: Blocks, reference_prompts: Sequence[str] = (), subject_prompts: Sequence[str] = ()
) -> Fade:
    """FADE from what each token contributes, Float[tokens] per sample: the log-ratio of the token drawn, or the exact
    divergence of the next token there (same expectation, since KL(p || q) = E_p sum_t KL(p_t || q_t))."""

    def both(reduce: Callable[[np.ndarray], float]) -> tuple[float, float]:
        return (
            _average([reduce(gap) for gap in forward], reference_prompts),
            _average([reduce(gap) for gap in reverse], subject_prompts),
        )

    totals = [np.array([gap.sum() for gap in side]) for side in (forward, reverse)]
    error = np.sqrt(sum(t.var(ddof=1) / t.size if t.size > 1 else np.nan for t in totals)) / 2
    medians = [np.median(t) if t.size else np.nan for t in totals]
    sums, clipped = both(np.sum), both(lambda gap: np.clip(gap, -CLIP, CLIP).mean())
    return Fade(
        float(np.mean(sums)),
        *sums,
        float(np.mean(both(np.mean))),
        float(np.mean(medians)),
        float(np.mean(clipped)),
        float(error),
        (totals[0].size, totals[1].size),
    )


def by_prompt(
    forward: Blocks, reverse: Blocks, reference_prompts: Sequence[str], subject_prompts: Sequence[str]
) -> dict[str, float]:
    """FADE of each prompt that has samples of both models."""
    sides: list[dict[str, list[float]]] = []
    for gaps, prompts in ((forward, reference_prompts), (reverse, subject_prompts)):
        sides.append({})
        for gap, prompt in zip(gaps, prompts, strict=True):
            sides[-1].setdefault(prompt, []).append(float(np.sum(gap)))
    f, r = sides
    return {prompt: float(np.mean(f[prompt]) + np.mean(r[prompt])) / 2 for prompt in f if prompt in r}


def _gaps(own: Blocks, other: Blocks) -> list[np.ndarray]:
    return [np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64) for a, b in zip(own, other, strict=True)]


def _average(values: Sequence[float], prompts: Sequence[str]) -> float:
    """Mean of ``values``, within a prompt first where prompts are given."""
    if not values:
        return float("nan")
    if not prompts:
        return float(np.mean(values))
    groups: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        groups.setdefault(prompt, []).append(value)
    return float(np.mean([np.mean(group) for group in groups.values()]))


def normalised(value: float, floor: float, anchor: float) -> float:
    """(value - floor) / (anchor - floor): 0 at the seed noise FADE(R1, R2), 1 at the target's own FADE(O, R). NaN where
    the anchor is not above the floor: the samples have no power."""
    return (value - floor) / (anchor - floor) if anchor > floor else float("nan")
