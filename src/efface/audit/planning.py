"""Which attacks fit into the time there is: cheapest first, and what did not fit is said."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from efface.attacks.base import ATTACKS, Attack
from efface.data.rows import Bundle
from efface.models.base import ModelAdapter
from efface.suites import AttackEntry

THREATS = ("black-box", "grey-box", "white-box")
PROBE_ROWS = 8


@dataclass(frozen=True)
class Planned:
    """One attack that is to run. ``forwards``: row forwards on all roles together; ``curves``: roles it runs on;
    ``seconds``: the longest that the curve of the unlearned model may take (None: as long as it takes)."""

    entry: AttackEntry
    forwards: float
    curves: int = 1
    seconds: float | None = None


def allowed(
    entries: Sequence[AttackEntry], threat: str, asked: Sequence[str] | None
) -> tuple[list[AttackEntry], list[str]]:
    """(entries that the threat model and the names asked for allow, why the others are not run)."""
    kept, left_out = [], []
    for entry in entries:
        label, needs = entry.label or entry.name, ATTACKS.get(entry.name).threat
        if asked is not None and label not in asked:
            left_out.append(f"{label} was not asked for.")
        elif THREATS.index(needs) > THREATS.index(threat):
            left_out.append(f"{label} needs a {needs} attacker; the audit considers a {threat} one.")
        else:
            kept.append(entry)
    return kept, left_out


def by_price(entries: Sequence[AttackEntry], data: Bundle, roles: Sequence[str]) -> list[Planned]:
    """Attacks with their price, cheapest information first; equal prices keep the suite's order."""
    planned = (Planned(e, price(e, data, roles), curves(e, roles)) for e in entries)
    return sorted(planned, key=lambda p: p.forwards)


def curves(entry: AttackEntry, roles: Sequence[str]) -> int:
    """On how many models the attack is run: the unlearned one and the controls that are there."""
    return 1 + sum(control in roles for control in ATTACKS.get(entry.name).controls)


def price(entry: AttackEntry, data: Bundle, roles: Sequence[str]) -> float:
    """Row forwards on the unlearned model and the controls that are there; 0 for an attack that cannot run."""
    attack: Attack = ATTACKS.get(entry.name)(**entry.settings)
    if attack.check(data):
        return 0.0
    return attack.forwards(data) * curves(entry, roles)


class Budget:
    """A time budget that is spent as attacks run; ``minutes`` None is no limit. The price of a row forward is measured
    once and corrected by what the attacks really took."""

    def __init__(self, minutes: float | None, adapter: ModelAdapter | None = None, data: Bundle | None = None) -> None:
        self.limit = None if minutes is None else 60 * minutes
        self.started = time.monotonic()
        self.rate = 0.0 if self.limit is None or adapter is None or data is None else seconds_per_forward(adapter, data)

    def fitting(self, planned: Sequence[Planned], left_out: list[str]) -> Iterator[Planned]:
        """Attacks in order, each with the time it may take; one that does not fit is named in ``left_out``. A control
        takes about as long as the unlearned model, so each curve gets an equal part of what is left."""
        for one in planned:
            if self.limit is None:
                yield one
                continue
            left = self.limit - (time.monotonic() - self.started)
            wanted = one.forwards * self.rate
            if wanted > left:
                label = one.entry.label or one.entry.name
                left_out.append(
                    f"{label} needs about {wanted / 60:.1f} minutes and {max(0.0, left) / 60:.1f} of the "
                    f"{self.limit / 60:g} allowed were left (audit.minutes)."
                )
                continue
            before = time.monotonic()
            yield replace(one, seconds=left / one.curves)
            took = time.monotonic() - before
            if one.forwards:
                self.rate = max(self.rate, 0.5 * (self.rate + took / one.forwards))


def seconds_per_forward(adapter: ModelAdapter, data: Bundle) -> float:
    """Seconds that scoring one forget row takes on this model and machine (median-length rows, one warm batch)."""
    from efface.passes.score import score

    rows = sorted(data.eval["forget"], key=lambda r: len(getattr(r, "answer", "")))
    middle = rows[max(0, len(rows) // 2 - PROBE_ROWS // 2) :][:PROBE_ROWS]
    score(adapter, middle[:1])
    started = time.monotonic()
    score(adapter, middle)
    return (time.monotonic() - started) / len(middle)
