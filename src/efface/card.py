"""Card: where a component comes from, and what was checked about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Card:
    """Provenance of one published component.

    ``confirmed`` lists what was checked against the paper or the authors' code, ``derived`` what had to be designed
    here because no detail was found, ``differs`` where we deliberately depart from the released code and why,
    ``tested`` what our own tests and small runs show (with figures).
    """

    title: str
    source: str
    code: str = ""
    summary: str = ""
    confirmed: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    tested: tuple[str, ...] = ()
    fooled_by: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, tuples as lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
