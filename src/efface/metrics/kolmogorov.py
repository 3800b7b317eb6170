"""Two-sample Kolmogorov-Smirnov test whose p-value never underflows: exact path counts in integers, logs at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

EXACT_CELLS = 1_000_000


@dataclass(frozen=True)
class KS:
    """``statistic`` D in [0, 1]; ``p`` two-sided (0.0 below 1e-308), ``log10_p`` without underflow; ``above`` /
    ``below`` one-sided distances: ``above`` is large when the first sample's values lie above the second's."""

    statistic: float
    p: float
    log10_p: float
    above: float
    below: float
    method: str


def ks_two_sample(a: np.ndarray, b: np.ndarray) -> KS:
    """Two-sided test that ``a`` and ``b`` come from one distribution. NaN is not allowed; each side needs a value.

    Exact (every order of the pooled sample equally likely, as in scipy's ``method="exact"``) when the sizes are equal
    or their product is at most 1e6, asymptotic otherwise. Ties make the exact p-value conservative.
    """
    a, b = np.sort(np.asarray(a, dtype=np.float64)), np.sort(np.asarray(b, dtype=np.float64))
    n, m, pooled = len(a), len(b), np.concatenate([a, b])
    gaps = np.searchsorted(b, pooled, "right") * n - np.searchsorted(a, pooled, "right") * m
    above, below = max(int(gaps.max()), 0), max(int(-gaps.min()), 0)
    distance = max(above, below)
    if n != m and n * m > EXACT_CELLS:
        log10_p, method = _asymptotic(n, m, distance / (n * m)), "asymptotic"
        p = 10.0**log10_p
    else:
        outside, paths = _equal(n, distance // n) if n == m else _unequal(n, m, distance)
        p, log10_p, method = outside / paths, math.log10(outside) - math.log10(paths), "exact"
    return KS(distance / (n * m), p, log10_p, above / (n * m), below / (n * m), method)


def ks_floor(n: int, m: int) -> float:
    """log10 of the smallest two-sided p-value that samples of ``n`` and ``m`` can give (no overlap at all): the p-value
    2 / C(n + m, n), 1.5e-11 for 20 against 20 and 1.1e-239 for 400 against 400. P-values of different n do not
    compare."""
    return math.log10(2) - math.log10(math.comb(n + m, n))


def ks_critical(n: int, m: int, level: float = 0.05) -> float:
    """Smallest distance D between samples of ``n`` and ``m`` whose two-sided p-value is at most ``level``: what this
    many rows can see. Exact for equal sizes (.325 for 40 against 40), from Kolmogorov's limit otherwise; 1 where even
    complete separation is not enough."""
    if n != m:
        from scipy.special import kolmogi

        return min(1.0, float(kolmogi(level)) * math.sqrt((n + m) / (n * m)))
    enough = (k for k in range(1, n + 1) if _equal(n, k)[0] <= level * _equal(n, k)[1])
    return next(enough, n) / n


def _equal(n: int, steps: int) -> tuple[int, int]:
    """(orders at least this far apart, all orders) for equal sizes: 2 sum_k (-1)^(k+1) C(2n, n - k steps) of C(2n, n)
    (Gnedenko and Korolyuk 1951)."""
    if steps == 0:
        return 1, 1
    outside = sum((-1) ** (k + 1) * math.comb(2 * n, n - k * steps) for k in range(1, n // steps + 1))
    return 2 * outside, math.comb(2 * n, n)


def _unequal(n: int, m: int, distance: int) -> tuple[int, int]:
    """(orders at least this far apart, all orders): lattice paths from (0, 0) to (n, m) that touch
    ``|i m - j n| >= distance``, counted as all paths minus those that stay inside."""
    if distance == 0:
        return 1, 1
    inside = [1 if j * n < distance else 0 for j in range(m + 1)]
    for j in range(1, m + 1):
        inside[j] = inside[j] and inside[j - 1]
    for i in range(1, n + 1):
        left = 0
        for j in range(m + 1):
            left = left + inside[j] if abs(i * m - j * n) < distance else 0
            inside[j] = left
    total = math.comb(n + m, n)
    return total - inside[m], total


def _asymptotic(n: int, m: int, statistic: float) -> float:
    """Kolmogorov's limit, in logs once its first term is all that counts."""
    from scipy.special import kolmogorov

    x = math.sqrt(n * m / (n + m)) * statistic
    return (math.log(2) - 2 * x * x) / math.log(10) if x > 3 else math.log10(kolmogorov(x))
