"""Representation: are the hidden states still the target's, or those of a model that never saw the forget set?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from efface.card import Card
from efface.metrics.base import KNOWLEDGE, SECOND_REFERENCE, Direction, Need, NotComputed, PerRow, Score, Tables, metric
from efface.metrics.hidden_states import FAMILIES, shared_layers, states
from efface.metrics.probes import knn_accuracy
from efface.metrics.resampling import group

MIRAGE = "Are We Truly Forgetting? (arXiv 2503.06991)"
CODE = "yongwookim1/UUEF"
SHUFFLES, BLOCKS, BATCH, ROUNDING = 10, 20, 512, 1e-12
LEAST_ROWS = 4  # the unbiased HSIC is a mean over quadruples of distinct rows
ANSWER = "mean_answer"
OVER_ANSWER = (
    "{} of hidden states averaged over the tokens of the gold answer instead of those at the last token of the prompt."
)
ANSWER_DERIVED = "the mean over the answer, for text"
ANSWER_READ = "the model is given the gold answer: states tell its words whether or not the model would say them"
Pair = tuple[str, str]


def _off_diagonal(x: np.ndarray) -> np.ndarray:
    """Gram matrix Float64[rows, rows] of the centred rows of ``x``, diagonal zero; all zero where ``x`` is constant up
    to float32 rounding."""
    centred = x - x.mean(0)
    if np.sum(centred**2) <= ROUNDING * np.sum(x**2):
        return np.zeros((len(x), len(x)))
    kernel = centred @ centred.T
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Unbiased HSIC of two zero-diagonal Gram matrices (Song et al. 2012)."""
    n = len(k)
    ones = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
    return float((np.sum(k * m) + ones) / (n * (n - 3)))


def _cka(k: np.ndarray, m: np.ndarray) -> float:
    own = _hsic(k, k), _hsic(m, m)
    return _hsic(k, m) / np.sqrt(own[0] * own[1]) if min(own) > 0 else float("nan")


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of Float[rows, d1] and Float[rows, d2] with the unbiased U-statistic of HSIC.

    About 0 for independent features whatever the width, 1 for equal ones; may fall a little below 0. NaN if a side is
    constant, and under 4 rows.
    """
    if len(x) < LEAST_ROWS:
        return float("nan")
    return _cka(_off_diagonal(x), _off_diagonal(y))


def linear_cka_biased(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA with the biased HSIC (Kornblith et al. 2019): for parity only; about .11 for independent gaussians at
    512 rows and width 64, .53 at width 576."""
    x, y = x - x.mean(0), y - y.mean(0)
    k, m = x @ x.T, y @ y.T
    scale = np.sqrt(np.sum(k * k) * np.sum(m * m))
    return float(np.sum(k * m) / scale) if scale > 0 else float("nan")


def _layer(tables: Tables, layer: int, roles: Pair) -> dict[str, Any]:
    """CKA of one layer, its shuffled-row floor (mean over permutations) and its leave-one-block-out values."""
    found = states(tables, layer, *roles)
    if len(found.rows) < LEAST_ROWS:
        raise NotComputed(f"unbiased CKA needs at least {LEAST_ROWS} rows, and {len(found.rows)} have hidden states")
    k, m = (_off_diagonal(x) for x in found.vectors)
    rng = np.random.default_rng([tables.seed, layer])
    orders = [rng.permutation(len(m)) for _ in range(SHUFFLES)]
    blocks = _blocks(found.entities)
    kept = [np.flatnonzero(blocks != b) for b in range(blocks.max() + 1)]
    return {
        "cka": _cka(k, m),
        "floor": float(np.mean([_cka(k, m[np.ix_(p, p)]) for p in orders])),
        "n": len(found.rows),
        "unit": group(found.entities).unit,
        "without": [_cka(k[np.ix_(i, i)], m[np.ix_(i, i)]) for i in kept] if min(map(len, kept)) >= LEAST_ROWS else [],
    }


def _blocks(entities: Sequence[str]) -> np.ndarray:
    """Int[rows]: at most ``BLOCKS`` blocks of whole entities (of rows below ``FEW_ENTITIES`` entities)."""
    groups = group(entities)
    return groups.place * min(BLOCKS, groups.count) // groups.count


def _similarity(tables: Tables, other: str, ceiling: Pair | None) -> Score:
    """Mean CKA over layers, with a delete-one-block jackknife interval, floor, ceiling and the normalised value."""
    roles = ("subject", other)
    layers = shared_layers(tables, *roles)
    found = [_layer(tables, layer, roles) for layer in layers]
    curve, floor = np.array([f["cka"] for f in found]), np.array([f["floor"] for f in found])
    if np.isnan(curve).all():
        raise NotComputed("the hidden states of one model are the same for every row")
    value = float(np.nanmean(curve))
    low, high = _jackknife(value, [f["without"] for f in found])
    extra: dict[str, Any] = {
        "layers": layers,
        "curve": _plain(curve),
        "floor": float(np.nanmean(floor)),
        "floor_curve": _plain(floor),
        "interval_over": found[0]["unit"],
    }
    if ceiling and (tops := _ceiling(tables, layers, ceiling)) is not None:
        top = float(np.nanmean(tops))
        extra |= {
            "ceiling": top,
            "ceiling_curve": _plain(tops),
            "normalised": _between(value, extra["floor"], top),
            "normalised_curve": [_between(*layer) for layer in zip(curve, floor, tops, strict=True)],
        }
    return Score("", "", value, low, high, found[0]["n"], extra=extra)


def _plain(curve: Sequence[float] | np.ndarray) -> list[float | None]:
    """A curve for JSON: None where a layer has no value."""
    return [float(v) if np.isfinite(v) else None for v in curve]


def _ceiling(tables: Tables, layers: Sequence[int], roles: Pair) -> np.ndarray | None:
    """CKA by layer of two references of different seeds: what seed noise leaves. None without a second reference, or
    where no layer has a value."""
    try:
        tops = np.array([linear_cka(*states(tables, layer, *roles).vectors) for layer in layers])
    except NotComputed:
        return None
    return None if np.isnan(tops).all() else tops


def _between(value: float, floor: float, ceiling: float) -> float | None:
    """(value - floor) / (ceiling - floor); None where the ceiling is not above the floor, or one is unknown."""
    return float((value - floor) / (ceiling - floor)) if ceiling > floor and np.isfinite(value) else None


def _jackknife(value: float, without: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """Student's 95% interval from leave-one-block-out values per layer and block: resampling would duplicate rows,
    which a U-statistic reads as similarity."""
    from scipy.special import stdtrit

    blocks = len(without[0])
    if blocks < 2 or any(len(layer) != blocks for layer in without):
        return None, None
    means = np.nanmean(np.array(without), axis=0)
    error = float(np.sqrt((blocks - 1) / blocks * np.sum((means - means.mean()) ** 2)))
    width = float(stdtrit(blocks - 1, 0.975)) * error
    return value - width, value + width


def answer_span(tables: Tables) -> Tables:
    """``tables`` whose hidden states are means over the tokens of the gold answer, not those at the last prompt
    token."""

    def fetch(role: str, need: Need) -> Any:
        return tables.table(replace(need, role=role, pooling=ANSWER))

    return Tables(fetch, tables.default_rows, tables.subject, tables.seed, tables.resamples)


def _register(
    name: str,
    title: str,
    summary: str,
    other: str,
    directions: Mapping[str, Direction],
    ceiling: Pair | None,
    fooled_by: tuple[str, ...],
) -> None:
    card = Card(
        title,
        MIRAGE,
        CODE,
        summary,
        fooled_by=fooled_by,
        differs=("unbiased instead of batches of 512, which read .53 for independent features of width 576",),
        derived=("mean over all layers as the headline", "the interval: a jackknife over blocks of entities"),
        tested=(
            "tiny ladder, seed 0, 25 forget rows: HeadOnly to the target 1, 1, .90 by layer; to the reference -.09 "
            "against a ceiling (R1, R2) of .86 and a floor of 0",
        ),
    )
    needs = (Need("hidden"), Need("hidden", role=other))
    options: dict[str, Any] = {"directions": directions, "orientation": "none"}
    metric(name, needs=needs, card=card, families=FAMILIES, **options)(
        lambda tables: _similarity(tables, other, ceiling)
    )
    over = replace(
        card,
        title=f"{title}, over the answer",
        summary=f"{OVER_ANSWER.format(name)} {summary}",
        derived=(*card.derived, ANSWER_DERIVED),
        tested=(),
        fooled_by=(*fooled_by, ANSWER_READ),
    )
    metric(f"{name}_answer", needs=[replace(need, pooling=ANSWER) for need in needs], card=over, **options)(
        lambda tables: _similarity(answer_span(tables), other, ceiling)
    )


_register(
    "cka_reference",
    "CKA to the reference",
    "Linear CKA (unbiased) between hidden states of the model and of the reference on the same rows, mean "
    "over layers; `curve` per layer. `floor`: rows shuffled. With a second reference (role reference_2) "
    "`ceiling` is the CKA of the two and `normalised` = (value - floor) / (ceiling - floor); each also by layer.",
    "reference",
    {"*": "higher"},
    ("reference", SECOND_REFERENCE),
    (
        "seed noise: two references differ as well, so read `normalised`",
        "few rows: below 2,000 the value is noisy",
        "a few directions of huge variance dominate it",
    ),
)
_register(
    "cka_target",
    "CKA to the target",
    "Linear CKA (unbiased) between hidden states of the model and of the target, mean over layers; exactly 1 "
    "in every layer below the first one that changed. High where outputs have changed: only the last layers "
    "hide it.",
    "target",
    KNOWLEDGE,
    None,
    ("a rotation of all states leaves it at 1", "small effective updates also keep it near 1"),
)


@metric(
    "knn_accuracy_answer",
    needs=[Need("hidden", pooling=ANSWER)],
    card=Card(
        "k-NN probe, over the answer",
        MIRAGE,
        CODE,
        f"{OVER_ANSWER.format('knn_accuracy')} The entity of a row is named by its 5 nearest neighbours.",
        derived=("entities as classes for text", "the headline: mean over layers", ANSWER_DERIVED),
        fooled_by=(
            "a gold answer that holds the entity's name names it to any model; compare with the reference",
            ANSWER_READ,
            "few test rows: a fifth of the set",
        ),
    ),
)
def knn_accuracy_answer(tables: Tables) -> PerRow:
    """``knn_accuracy`` from states over the answer."""
    return knn_accuracy(answer_span(tables))


def _by_layer(tables: Tables, function: Callable[[np.ndarray, np.ndarray], dict[str, float]], key: str) -> Score:
    """Mean over layers of ``function(subject, target)[key]``; the other entries, averaged, and the curve in
    ``extra``."""
    layers = shared_layers(tables, "subject", "target")
    found, rows = [], 0
    for layer in layers:
        pair = states(tables, layer, "subject", "target")
        if (rows := len(pair.rows)) < 3:
            raise NotComputed(f"a principal plane needs at least 3 rows, and {rows} have hidden states")
        found.append(function(*pair.vectors))
    means = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
    if not np.isfinite(means[key]):
        raise NotComputed("the hidden states of the target are the same for every row")
    extra = {name: value for name, value in means.items() if name != key}
    return Score("", "", means[key], n=rows, extra=extra | {"layers": layers, "curve": _plain([f[key] for f in found])})


def principal_shift(x: np.ndarray, origin: np.ndarray) -> dict[str, float]:
    """How far the centroid of ``x`` Float[rows, d] moved from that of ``origin`` Float[rows, d], in units of
    ``origin``'s spread (root mean squared distance to its centroid): ``shift`` inside the plane of ``origin``'s first
    two principal components, ``shift_full`` in all directions, ``cosine`` |cos| between the two first components."""
    centre, moved = origin.mean(0), x.mean(0) - origin.mean(0)
    plane = np.linalg.svd(origin - centre, full_matrices=False)[2][:2]
    first = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][0]
    spread = np.sqrt(np.mean(np.sum((origin - centre) ** 2, axis=1)))
    spread_plane = np.sqrt(np.mean(np.sum(((origin - centre) @ plane.T) ** 2, axis=1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "shift": float(np.linalg.norm(plane @ moved) / spread_plane),
            "shift_full": float(np.linalg.norm(moved) / spread),
            "cosine": float(abs(plane[0] @ first)),
        }


@metric(
    "pca_shift",
    needs=(Need("hidden"), Need("hidden", role="target")),
    directions={"*": "match"},
    orientation="none",
    families=FAMILIES,
    card=Card(
        "PCA shift",
        "Unlearning Isn't Deletion (arXiv 2505.16831)",
        "",
        "Distance between the centroids of the model's and the target's hidden states in the plane of the target's "
        "first two principal components, in units of the target's spread there; mean over layers. `shift_full` uses "
        "all directions, `cosine` compares the first components.",
        derived=("the unit (spread of the target) and the mean over layers",),
        fooled_by=(
            "a common offset of all states, which no later layer need read",
            "needs models of one lineage: another seed has other axes",
        ),
    ),
)
def pca_shift(tables: Tables) -> Score:
    """Centroid shift from the target, mean over layers."""
    return _by_layer(tables, principal_shift, "shift")
