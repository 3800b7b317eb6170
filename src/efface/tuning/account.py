"""The account of a search: every trial, the best spec, and what must be known to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from efface.audit.calibrate import Calibration
from efface.runs.files import write_json, write_text
from efface.spec import RunSpec


@dataclass(frozen=True)
class Trial:
    """One trial. ``value``: forget ES at alpha* (None: not computed, ``error`` says why). ``retain``: retain ES there,
    on the split that did not decide alpha*; ``alone``: forget and retain ES of the unlearned model itself (alpha 1)."""

    number: int
    params: Mapping[str, Any]
    value: float | None = None
    interval: tuple[float | None, float | None] = (None, None)
    alpha: float | None = None
    retain: float | None = None
    alone: tuple[float | None, float | None] = (None, None)
    seconds: float = 0.0
    error: str = ""

    @classmethod
    def of(cls, number: int, params: Mapping[str, Any], found: Calibration | None, error: str, seconds: float) -> Trial:
        """From a calibration; without one, or where it was not computed, only the error is there."""
        if found is None or found.reason:
            return cls(number, dict(params), seconds=round(seconds, 2), error=error)
        place = found.scores["forget"]["mixed"]
        return cls(
            number,
            dict(params),
            found.value(),
            (place["low"], place["high"]),
            found.alpha,
            found.value("retain"),
            (found.value("forget", "unlearned"), found.value("retain", "unlearned")),
            round(seconds, 2),
        )

    @property
    def settings(self) -> str:
        """For a person."""
        return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.params.items())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trial:
        """What ``to_json`` gave."""
        return cls(**{k: tuple(v) if k in ("interval", "alone") else v for k, v in values.items()})


def write(out: Path, trials: Sequence[Trial], best: Trial | None, spec: RunSpec | None, about: dict[str, Any]) -> None:
    """``trials.json``, ``trials.md`` and, where there is one, ``best.yaml`` (a spec file)."""
    write_json(
        out / "trials.json",
        {"schema": 1, **about, "best": best.number if best else None, "trials": [t.to_json() for t in trials]},
    )
    write_text(out / "trials.md", as_markdown(trials, best, about))
    if best and spec:
        head = f"# Trial {best.number + 1} of {about['study']}: forget ES {best.value:.3f}, alpha* {best.alpha:.3f}\n"
        body = yaml.safe_dump(spec.model_dump(mode="json", exclude={"out"}), sort_keys=False, allow_unicode=True)
        write_text(out / "best.yaml", head + body)


def as_markdown(trials: Sequence[Trial], best: Trial | None, about: Mapping[str, Any]) -> str:
    """Trials, the best first."""
    from efface.report.markdown import table

    tau, rows = about["calibrate"]["tau"], about["rows"]
    lines = [
        f"# Tuning {about['method']} on {about['model']}, seed {about['seed']}",
        "",
        f"Objective: extraction strength (ES) on {rows['scored_forget']} forget rows once {tau:.0%} of the retain ES "
        f"is kept (UWC, tau {tau:g}); lower is better. Rows are held apart by {about['held_apart_by']}, and none of "
        "them is in an evaluation set. alpha* is how much of the unlearned model may be mixed in; below 1, the model "
        "itself keeps less than that (last columns).",
        "",
    ]
    order = sorted(trials, key=lambda t: (t.value is None, t.value or 0.0, -(t.alpha or 0.0), t.number))
    names = list(dict.fromkeys(name for t in trials for name in t.params))
    head = [
        "Trial",
        *names,
        "Forget ES at alpha*",
        "alpha*",
        "Retain ES",
        "Forget ES at 1",
        "Retain ES at 1",
        "Seconds",
    ]
    body = [
        [
            f"{t.number + 1}{' (best)' if best and t.number == best.number else ''}",
            *(_shown(t.params.get(name)) for name in names),
            _shown(t.value) + (f" [{_shown(t.interval[0])}, {_shown(t.interval[1])}]" if t.value is not None else ""),
            *(_shown(v) for v in (t.alpha, t.retain, *t.alone)),
            f"{t.seconds:.0f}",
        ]
        for t in order
    ]
    failed = [f"- trial {t.number + 1}: not computed, because {t.error}" for t in order if t.value is None]
    return "\n".join([*lines, *table(head, body), *failed]).rstrip() + "\n"


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
