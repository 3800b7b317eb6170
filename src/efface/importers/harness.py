"""Logs of the common harness (locuslab/open-unlearning): {metric: {agg_value, value_by_index}}.

Read at d3d7cf9. Each metric is recomputed from the rows of the metric or of those it is made from, as the harness does
it (1e-10 in ratios); rows that are None or NaN are kept, counted and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efface.importers.log import Log, Value, averaged, other_version, read_json, rows_of, split
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
    reference: Mapping[str, Any] | None = None

    def rows(self, name: str, key: str, log: Mapping[str, Any] | None = None) -> np.ndarray | None:
        """Float[rows] of one column of a metric; None if the log has no such metric."""
        entry = (self.log if log is None else log).get(name)
        if entry is None:
            return None
        if not isinstance(entry, Mapping) or "value_by_index" not in entry:
            raise other_version(self.path, f"{name} has no value_by_index")
        return averaged(rows_of(self.path, name, entry["value_by_index"], key).values())

    def lists(self, name: str, key: str) -> list[Any] | None:
        """The column as it stands, a list per row where the row has variants."""
        entry = self.log.get(name)
        return None if entry is None else list(rows_of(self.path, name, entry["value_by_index"], key).values())


def read(path: Path, reference: Path | None = None) -> Log:
    """Every metric of the log, recomputed. ``reference``: the retain model's log, for forget quality and privleak."""
    files = Harness(path, read_json(path), read_json(reference) if reference else None)
    values, findings = [], list(_text_findings(files))
    for name, entry in files.log.items():
        if not isinstance(entry, Mapping):
            raise other_version(path, f"{name} is a {type(entry).__name__}, not an object")
        printed = entry.get("agg_value")
        again = _recompute(files, name)
        values.append(Value(name, None if printed is None else float(printed), **again))
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
    if values is None:
        return {"reason": "the log holds no rows of it"}
    kept, lost = split(values)
    return {"again": float(kept.mean()) if kept.size else None, "n": len(kept), "unscored": lost}


def ratios(files: Harness, name: str, log: Mapping[str, Any] | None = None) -> np.ndarray | None:
    """r = P(wrong) / (P(correct) + 1e-10) per row, P(wrong) the geometric mean; None without both rows."""
    correct, wrong = (files.rows(part, "avg_loss", log) for part in RATIOS[name])
    if correct is None or wrong is None:
        return None
    if len(correct) != len(wrong):
        raise other_version(files.path, f"{' and '.join(RATIOS[name])} have {len(correct)} and {len(wrong)} rows")
    return np.exp(-wrong) / (np.exp(-correct) + TINY)


def _truth_ratio(files: Harness, name: str) -> dict[str, Any]:
    """In the form that the printed number was made in: by name, and prob_mean where the rows say so (all below 1 and
    equal to c / (c + w))."""
    key = "forget_truth_ratio" if name in FORGET_RATIO else name
    r = ratios(files, key)
    if r is None:
        return _mean(files.rows(name, "score")) | {"note": "mean of the stored rows: those it is made from are missing"}
    kept, lost = split(r)
    if not kept.size:
        return {"reason": "none of its rows could be scored", "unscored": lost}
    forms = {
        "closer to 1": float(np.mean(np.minimum(kept, 1 / (kept + TINY)))),
        "true better": float(np.mean(np.maximum(0, 1 - kept))),
        "prob mean": float(np.mean(1 / (1 + kept))),
    }
    usual = "closer to 1" if key == "forget_truth_ratio" else "true better"
    stored = files.rows(name, "score")
    mean_form = stored is not None and len(stored) == len(r) and np.allclose(stored, 1 / (1 + r), rtol=1e-4)
    form = "prob mean" if mean_form else usual
    return {"again": forms[form], "n": len(kept), "unscored": lost, "note": "" if form == usual else f"form: {form}"}


def _normalised(files: Harness, name: str) -> dict[str, Any]:
    own, wrong = files.rows(name, "prob"), files.lists(name.replace("_Prob", "_PERT_Prob"), "prob")
    if own is None or wrong is None:
        return {"reason": f"the log holds no rows of {name} and its wrong answers"}
    sums = np.array([np.nan if w is None else np.sum(w) for w in wrong], dtype=np.float64)
    return _mean(own / (own + sums + TINY))


def _forget_quality(files: Harness) -> dict[str, Any]:
    """Two-sided KS p-value; ``corrected`` is its log10, which does not underflow."""
    if files.reference is None:
        return {"reason": "give the reference model's log with --reference"}
    mine, theirs = ratios(files, "forget_truth_ratio"), ratios(files, "forget_truth_ratio", files.reference)
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


def _membership(files: Harness, name: str, log: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """AUC of the stored scores (larger: less familiar): P(a holdout row scores above a forget row)."""
    entry = (files.log if log is None else log).get(name)
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
    b = None if files.reference is None else _membership(files, "mia_min_k", files.reference).get("again")
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
        rows = [r for r in (entry.get("value_by_index") or {}).values() if isinstance(r, Mapping)]
        for part, score in scores.items():
            texts = [r for r in rows if {"ground_truth", "generation", part} <= set(r)]
            wrong = [r for r in texts if abs(score(r["ground_truth"], r["generation"]) - r[part]) > 1e-6]
            if wrong:
                yield f"{name}: {len(wrong)} of {len(texts)} rows have texts that do not give their {part}"
