"""Words and numbers of a report: what every format shares. Whatever comes from data or models passes ``visible``."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping

LONGEST = 1200
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
JOINERS = "\u200c\u200d"  # needed to write Persian, Hindi and many emoji
ROLE_TITLES = {
    "target": "Before",
    "unlearned": "After",
    "reference": "Never saw it",
    "reference_2": "Never saw it (2)",
    "base": "Base model",
}
ROLE_NOTES = {
    "target": "target model",
    "unlearned": "unlearned model",
    "reference": "reference model",
    "reference_2": "reference model of another seed",
    "base": "before any fine-tuning",
}
SET_TITLES = {
    "forget": "Forget set",
    "retain": "Retain set",
    "neighbour": "Neighbours",
    "holdout": "Holdout set",
    "world_facts": "World facts",
    "real_authors": "Real authors",
    "forget_test": "Forgotten class, test images",
    "test": "Test set",
}
SET_NOTES = {
    "forget": "what was to go",
    "retain": "what was to stay",
    "neighbour": "not to be forgotten, but close in meaning",
    "holdout": "the same kind of rows, never trained on",
    "world_facts": "general knowledge",
    "real_authors": "general knowledge about real people",
}


def visible(text: object, longest: int = LONGEST) -> str:
    """``text`` with every control, direction-changing and invisible character shown by its code, shortened if need be.

    Such characters can make a page read differently from what it holds. Line breaks and tabs become spaces.
    """
    plain = "".join(_seen(c) for c in str(text)[:longest])
    rest = len(str(text)) - longest
    return plain if rest <= 0 else f"{plain} … ({rest:,} more characters)"


def _seen(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in JOINERS:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def number(value: float | None) -> str:
    """As many places as say something: 0.310, 12.5, 1,204, 1.2×10⁻⁸."""
    if value is None:
        return "–"
    size = abs(value)
    if size == float("inf"):
        text = "∞"
    elif size == 0:
        text = "0"
    elif size < 0.0005:
        digits, power = f"{size:.1e}".split("e")
        text = f"{digits}×10{str(int(power)).translate(RAISED)}"
    elif size < 10:
        text = f"{size:.3f}"
    else:
        text = f"{size:.1f}" if size < 1000 and size % 1 else f"{size:,.0f}"
    return ("−" if value < 0 else "") + text


def signed(value: float | None) -> str:
    """A difference, always with its sign."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """``0.250 to 0.380``; empty without one."""
    show = signed if sign else number
    return "" if low is None or high is None else f"{show(low)} to {show(high)}"


def duration(seconds: float | None) -> str:
    """``43 s``, ``2 min 05 s``, ``1 h 10 min``; a dash for what is no time."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(mib: float | None) -> str:
    """MiB for a person."""
    return (
        "–" if mib is None or not math.isfinite(mib) else f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
    )


def amount(value: float) -> str:
    """A count or a setting as it is: 1,328,448, 0.0006."""
    return f"{value:,.0f}" if value == round(value, 0) and abs(value) < 1e15 else f"{value:.6g}"


def words(name: str) -> str:
    """``relearn_in_domain`` as ``Relearn in domain``."""
    text = visible(name, 80).replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def role_title(role: str) -> str:
    """Column head of a role."""
    return ROLE_TITLES.get(role, words(role))


def set_title(rows: str) -> str:
    """Heading of an evaluation set."""
    return SET_TITLES.get(rows, words(rows) or "All sets")


def direction(way: str, target: float | None) -> str:
    """Which way is good, in words."""
    if way == "higher":
        return "higher is better"
    if way == "lower":
        return "lower is better"
    return "should match the reference" + (f": {number(target)}" if target is not None else " (there is none)")


def budget(at: Mapping[str, float]) -> str:
    """``16 steps``, ``4 bits``; ``no attack`` at zero."""
    used = {key: value for key, value in at.items() if value}
    return ", ".join(f"{amount(value)} {_unit(key, value)}" for key, value in used.items()) or "no attack"


def _unit(name: str, value: float) -> str:
    unit = visible(name, 40).replace("_", " ")
    return unit[:-1] if value == 1 and unit.endswith("s") else unit
