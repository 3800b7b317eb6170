"""Conclusion: five words, reached by written rules from the findings. Never "compliant", never "certified".

1. No reference: inconclusive (nothing says what never having known looks like).
2. Less than half of the retain knowledge left: collapsed.
3. Outputs show more than the reference does, significantly and by more than a tenth of the gap (of ROUGE a quarter: two
   references that differ in their seed alone can be that far apart), by every headline measure, or by one of them to
   half of the gap: retained.
4. Outputs do not, but some attack brings back more than from the reference (Holm-corrected over attacks): concealed.
   To bring back is to raise what the outputs show, by more than the attack raises it on the reference.
5. One headline measure shows more and another does not: inconclusive.
6. Nothing flagged, and by every headline measure a residue of .15 of the gap beyond its margin would have been seen:
   erased. Otherwise inconclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from efface.audit.findings import MARGIN, MARGINS, Finding
from efface.metrics.stats import holm

POWER_SHARE = 0.15
CLEAR_SHARE = 0.5


@dataclass(frozen=True)
class Conclusion:
    """``label``, three sentences, the findings behind them, limits and power."""

    label: str
    sentences: tuple[str, ...]
    findings: tuple[Finding, ...]
    limits: tuple[str, ...]
    power: str

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, as stored in ``conclusion.json``."""
        return {
            "schema": 1,
            "label": self.label,
            "sentences": list(self.sentences),
            "limits": list(self.limits),
            "power": self.power,
            "findings": [f.to_json() | {"name": f"{f.kind}: {f.name}"} for f in self.findings],
        }


def conclude(findings: Sequence[Finding], *, has_reference: bool, n: int, not_tested: Sequence[str]) -> Conclusion:
    """Apply the rules above. ``n``: forget rows scored; ``not_tested``: attacks left out, with the reason."""
    corrected = _correct(findings)
    by = {kind: [f for f in corrected if f.kind == kind] for kind in ("residue", "utility", "recovery", "power")}
    residue, recovery = [f for f in by["residue"] if f.flag], [f for f in by["recovery"] if f.flag]
    lost = [f for f in by["utility"] if f.flag and f.name.endswith(".retain")]
    smallest = _detectable(by["residue"])
    power = _power_text(smallest, n)
    if not has_reference:
        label, why = (
            "inconclusive",
            "There is no reference model, so nothing says what a model that never knew this looks like.",
        )
    elif lost:
        label, why = "collapsed", f"The model lost what it was to keep. {lost[0].says}"
    elif _agreed(by["residue"]):
        label, why = (
            "retained",
            f"The outputs still show the forget set. {max(residue, key=lambda f: f.share or 0).says}",
        )
    elif recovery:
        label, why = (
            "concealed",
            "The outputs do not show it, but an attack brings it back. "
            + max(recovery, key=lambda f: f.share or 0).says,
        )
    elif residue:
        label, why = (
            "inconclusive",
            "One measure of the outputs shows more than the reference and another does not; two references that differ "
            f"in their seed alone can do that. {residue[0].says}",
        )
    elif smallest is not None and _sharp(by["residue"]) and by["recovery"]:
        label, why = (
            "erased",
            "Neither the outputs nor any attack that was run shows more than the reference model does.",
        )
    else:
        label, why = (
            "inconclusive",
            "Nothing was found, but "
            + (
                "no attack with a control was run."
                if not by["recovery"]
                else "a residue worth naming could have been missed."
            ),
        )
    return Conclusion(
        label, (why, _utility_text(by["utility"]), power), tuple(corrected), _limits(not_tested, corrected), power
    )


def _agreed(residue: Sequence[Finding]) -> bool:
    """Whether the outputs show the forget set: by every headline measure, or by one of them to half of the gap."""
    told = [f for f in residue if f.flag]
    return bool(told) and (len(told) == len(residue) or max(f.share or 0 for f in told) >= CLEAR_SHARE)


def _correct(findings: Sequence[Finding]) -> list[Finding]:
    """Holm over all recovery findings: many attacks are many chances to be wrong."""
    from dataclasses import replace

    tested = [i for i, f in enumerate(findings) if f.kind == "recovery" and f.p is not None]
    adjusted = dict(zip(tested, holm([findings[i].p for i in tested]), strict=True)) if tested else {}  # type: ignore[misc]
    return [
        replace(f, p=float(adjusted[i]), flag=f.flag and adjusted[i] < 0.05) if i in adjusted else f
        for i, f in enumerate(findings)
    ]


def _missed(residue: Sequence[Finding]) -> dict[str, float]:
    """What each headline metric would miss one time in five, as a share of the gap."""
    return {
        f.name: f.evidence["detectable"] / f.evidence["gap"]
        for f in residue
        if f.evidence.get("detectable") is not None and f.evidence.get("gap")
    }


def _detectable(residue: Sequence[Finding]) -> float | None:
    """The largest of them."""
    return max(_missed(residue).values(), default=None)


def _sharp(residue: Sequence[Finding]) -> bool:
    """Whether no metric would miss more than ``POWER_SHARE`` beyond the margin that a residue must pass anyway."""
    return all(share <= MARGINS.get(name, MARGIN) + POWER_SHARE for name, share in _missed(residue).items())


def _power_text(smallest: float | None, n: int) -> str:
    if smallest is None:
        return (
            f"With {n} forget rows and no usable reference, no statement about what could have been missed is possible."
        )
    return (
        f"With these {n} forget rows, a residue under about {max(smallest, 0.01):.0%} of the difference between target "
        "and reference would be missed."
    )


def _utility_text(findings: Sequence[Finding]) -> str:
    if not findings:
        return "What else changed was not measured."
    worst = max(findings, key=lambda f: f.share or 0)
    return f"Of what was to be kept, the largest loss: {worst.says}"


def _limits(not_tested: Sequence[str], findings: Sequence[Finding]) -> tuple[str, ...]:
    few = any(f.evidence.get("unit") == "rows" for f in findings if f.evidence)
    return (
        tuple(not_tested)
        + (
            (
                "Fewer than five entities were forgotten: intervals resample rows, and rows of one entity are "
                "correlated.",
            )
            if few
            else ()
        )
        + (
            "Only the model was examined: logs, caches, indexes, back-ups and other models trained on the data were "
            "not.",
            "An attacker with more data, time or another idea may recover more than the attacks that were run.",
        )
    )
