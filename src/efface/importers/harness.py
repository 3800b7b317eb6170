"""Logs of the common harness (locuslab/open-unlearning): {metric: {agg_value, value_by_index}}.

Read at d3d7cf9. Each metric is recomputed from the rows of the metric or of those it is made from, as the harness does
it (1e-10 in ratios); rows that are None or NaN are kept, counted and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efface.importers.log import (
    Log,
    Value,
    averaged,
    mean_of,
    number,
    other_version,
    read_json,
    rows_of,
    same_length,
    split,
    summed,
)
from efface.metrics.generation import rouge_l
from efface.metrics.stats import auc, harmonic_mean, ks_floor, ks_two_sample

NAME = "common harness"
TINY = 1e-10
SETS = ("retain", "ra", "wf")
UTILITY = (
    "retain_Q_A_Prob",
    "retain_Q_A_ROUGE",
    "retain_Truth_Ratio",
    *(f"{rows}_{part}" for rows in ("ra", "wf") for part in ("Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")),
)
RATIOS = {
    "forget_truth_ratio": ("forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob"),
    "retain_Truth_Ratio": ("retain_Q_A_PARA_Prob", "retain_Q_A_PERT_Prob"),
    "ra_Truth_Ratio": ("ra_Q_A_Prob", "ra_Q_A_PERT_Prob"),
    "wf_Truth_Ratio": ("wf_Q_A_Prob", "wf_Q_A_PERT_Prob"),
}
FORGET_RATIO = ("forget_truth_ratio", "forget_Truth_Ratio")


@dataclass(frozen=True)
class Harness:
    """One log, and the log of its reference model where one is given."""

    path: Path
    log: Mapping[str, Any]
    reference: Harness | None = None

    def column(self, name: str, key: str) -> Collection[float | list[float]] | None:
        """One column of a metric as it stands, a list per row where the row has variants; None if the log has no such
        metric."""
        entry = self.log.get(name)
        if entry is None:
            return None
        if not isinstance(entry, Mapping) or "value_by_index" not in entry:
            raise other_version(self.path, f"{name} has no value_by_index")
        return rows_of(self.path, name, entry["value_by_index"], key).values()

    def rows(self, name: str, key: str) -> np.ndarray | None:
        """Float[rows]: the column with the mean of each row's variants."""
        found = self.column(name, key)
        return None if found is None else averaged(found)


def read(path: Path, reference: Path | None = None) -> Log:
    """Every metric of the log, recomputed. ``reference``: the retain model's log, for forget quality and privleak."""
    files = Harness(path, read_json(path), Harness(reference, read_json(reference)) if reference else None)
    values, findings = [], list(_text_findings(files))
    for name, entry in files.log.items():
        if not isinstance(entry, Mapping):
            raise other_version(path, f"{name} is a {type(entry).__name__}, not an object")
        printed = entry.get("agg_value")
        again = _recompute(files, name)
        values.append(Value(name, None if printed is None else number(path, f"agg_value of {name}", printed), **again))
    return Log(str(path), NAME, tuple(values), tuple(findings))


def _recompute(files: Harness, name: str) -> dict[str, Any]:
    """{again, corrected, n, unscored, reason, note} of one metric."""
    special: dict[str, Callable[[Harness], dict[str, Any]]] = {
        "forget_quality": _forget_quality,
        "model_utility": _model_utility,
        "privleak": _privleak,
    }
    if name in special:
        return special[name](files)
    if name in RATIOS or name in FORGET_RATIO:
        return _truth_ratio(files, name)
    if name.endswith("_Prob_normalised"):
        return _normalised(files, name.removesuffix("_normalised"))
    if name.endswith("_Prob"):
        return _mean(files.rows(name, "prob"))
    if name.endswith("_ROUGE"):
        return _mean(files.rows(name, "rougeL_f1" if "mem_" in name else "rougeL_recall"))
    if name in ("extraction_strength", "exact_memorization"):
        return _mean(files.rows(name, "score"))
    return _membership(files, name) if name.startswith("mia_") else {"reason": "it is not known how it was made"}


def _mean(values: np.ndarray | None) -> dict[str, Any]:
    return {"reason": "the log holds no rows of it"} if values is None else mean_of(values)


def answers(files: Harness, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(P(correct), P(wrong)) Float[rows] of a truth ratio, P(wrong) the geometric mean; None without both rows."""
    correct, wrong = (files.rows(part, "avg_loss") for part in RATIOS[name])
    if correct is None or wrong is None:
        return None
    same_length(files.path, dict(zip(RATIOS[name], (correct, wrong), strict=True)))
    return np.exp(-correct), np.exp(-wrong)


def ratios(files: Harness, name: str) -> np.ndarray | None:
    """r = P(wrong) / (P(correct) + 1e-10) per row; None without both rows."""
    found = answers(files, name)
    return None if found is None else found[1] / (found[0] + TINY)


def _truth_ratio(files: Harness, name: str) -> dict[str, Any]:
    """In the form that the printed number was made in: by name, and prob_mean where the rows are c / (c + w + 1e-10)
    with c = P(correct), w = P(wrong)."""
    key = "forget_truth_ratio" if name in FORGET_RATIO else name
    found = answers(files, key)
    if found is None:
        return _mean(files.rows(name, "score")) | {"note": "mean of the stored rows: those it is made from are missing"}
    c, w = found
    r, share = w / (c + TINY), c / (c + w + TINY)
    usual = "closer to 1" if key == "forget_truth_ratio" else "true better"
    form = "prob mean" if _equal(files.rows(name, "score"), share) else usual
    rows = {"closer to 1": np.minimum(r, 1 / (r + TINY)), "true better": np.maximum(0, 1 - r), "prob mean": share}
    return _mean(rows[form]) | ({} if form == usual else {"note": f"form: {form}"})


def _equal(stored: np.ndarray | None, made: np.ndarray) -> bool:
    """Whether stored rows are ``made`` up to rounding. Numpy's own absolute tolerance would take rows of 1e-9 for equal
    whatever they are."""
    return (
        stored is not None
        and len(stored) == len(made)
        and np.allclose(stored, made, rtol=1e-4, atol=1e-12, equal_nan=True)
    )


def _normalised(files: Harness, name: str) -> dict[str, Any]:
    other = name.replace("_Prob", "_PERT_Prob")
    own, wrong = files.rows(name, "prob"), files.column(other, "prob")
    if own is None or wrong is None:
        return {"reason": f"the log holds no rows of {name} and its wrong answers"}
    same_length(files.path, {name: own, other: wrong})
    return _mean(own / (own + summed(wrong) + TINY))


def _forget_quality(files: Harness) -> dict[str, Any]:
    """Two-sided KS p-value; ``corrected`` is its log10, which does not underflow."""
    if files.reference is None:
        return {"reason": "give the reference model's log with --reference"}
    mine, theirs = (ratios(log, "forget_truth_ratio") for log in (files, files.reference))
    if mine is None or theirs is None:
        return {"reason": "one of the logs holds no rows of the truth ratio"}
    (a, lost), (b, _) = split(mine), split(theirs)
    if not a.size or not b.size:
        return {"reason": "none of the rows could be scored", "unscored": lost}
    ks = ks_two_sample(a, b)
    side = "above" if ks.above > ks.below else "below" if ks.below > ks.above else "neither side of"
    note = f"log10 p {ks.log10_p:.2f} of at least {ks_floor(len(a), len(b)):.2f}; ratios lie {side} the reference's"
    return {"again": float(ks.p), "corrected": float(ks.log10_p), "n": len(a), "unscored": lost, "note": note}


def _model_utility(files: Harness) -> dict[str, Any]:
    parts = {name: _recompute(files, name) for name in UTILITY}
    if lacking := [name for name, part in parts.items() if part.get("again") is None]:
        return {"reason": f"no rows give {', '.join(lacking)}"}
    value = harmonic_mean([part["again"] for part in parts.values()])
    return {
        "again": value,
        "n": sum(part["n"] for name, part in parts.items() if name.endswith("ROUGE")),
        "unscored": sum(part["unscored"] for part in parts.values()),
    }


def _membership(files: Harness, name: str) -> dict[str, Any]:
    """AUC of the stored scores (larger: less familiar): P(a holdout row scores above a forget row)."""
    entry = files.log.get(name)
    if not isinstance(entry, Mapping) or not {"forget", "holdout"} <= set(entry):
        return {"reason": f"the log holds no rows of {name}"}
    sides = []
    for side in ("forget", "holdout"):
        if not isinstance(entry[side], Mapping):
            raise other_version(files.path, f"{name}.{side} is not an object")
        sides.append(
            averaged(rows_of(files.path, f"{name}.{side}", entry[side].get("value_by_index"), "score").values())
        )
    (forget, lost), (holdout, more) = map(split, sides)
    if not forget.size or not holdout.size:
        return {"reason": "one side has no scored row", "unscored": lost + more}
    return {"again": float(auc(-forget, -holdout)), "n": len(forget), "unscored": lost + more}


def _privleak(files: Harness) -> dict[str, Any]:
    """As the harness prints it, a reference AUC of .5 assumed where there is no log; ``corrected`` only with one."""
    a = _membership(files, "mia_min_k").get("again")
    if a is None:
        return {"reason": "the log holds no rows of mia_min_k"}
    b = None if files.reference is None else _membership(files.reference, "mia_min_k").get("again")
    ref = 1 - (0.5 if b is None else b)
    note = "reference AUC .5 assumed" if b is None else f"A {a:.3f}, reference {b:.3f}"
    exact = None if b is None or b >= 1 else float((b - a) / (1 - b) * 100)
    return {"again": float(((1 - a) - ref) / (ref + TINY) * 100), "corrected": exact, "note": note}


def _text_findings(files: Harness) -> Iterator[str]:
    """ROUGE of the stored texts against the stored ROUGE, per metric."""
    scores = {
        part: rouge_l(part=form, stemmer=True)
        for part, form in (("rougeL_recall", "recall"), ("rougeL_f1", "fmeasure"))
    }
    for name, entry in files.log.items():
        if not (name.endswith("_ROUGE") and isinstance(entry, Mapping)):
            continue
        rows = entry.get("value_by_index")
        held = {i: r for i, r in rows.items() if isinstance(r, Mapping)} if isinstance(rows, Mapping) else {}
        for part, score in scores.items():
            texts = {i: r for i, r in held.items() if part in r and _has_texts(r)}
            said = {i: number(files.path, f"{part!r} in row {i} of {name}", r[part]) for i, r in texts.items()}
            wrong = [i for i, r in texts.items() if abs(score(r["ground_truth"], r["generation"]) - said[i]) > 1e-6]
            if wrong:
                yield f"{name}: {len(wrong)} of {len(texts)} rows have texts that do not give their {part}"


def _has_texts(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(key), str) for key in ("ground_truth", "generation"))
