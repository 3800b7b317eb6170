"""Which attacks fit into the time there is: cheapest first, and what did not fit is said."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from efface.attacks.base import ATTACKS, Attack
from efface.data.rows import Bundle
from efface.errors import SpecError, nearest
from efface.models.base import ModelAdapter
from efface.suites import AttackEntry, Suite

THREATS = ("black-box", "grey-box", "white-box")
ALL = "all"  # in audit.attacks: the suite's attacks, and every other one there is with its default settings
PROBE_ROWS = 8


@dataclass(frozen=True)
class Planned:
    """One attack that is to run. ``forwards``: row forwards on all roles together; ``curves``: roles it runs on;
    ``seconds``: the longest that the curve of the unlearned model may take (None: as long as it takes)."""

    entry: AttackEntry
    forwards: float
    curves: int = 1
    seconds: float | None = None


def label_of(entry: AttackEntry) -> str:
    """What an attack is called in the record."""
    return entry.label or entry.name


def with_asked(suite: Suite, asked: Sequence[str] | None) -> Suite:
    """``suite`` with the attacks that are asked for (audit.attacks) and that it does not hold, at their default
    settings. Nothing is added twice, so the suite of a record is the plan whatever is registered later.

    Raises ``SpecError`` ``audit.unknown-attack`` for what is neither in the suite nor registered.
    """
    labels, held = {label_of(e) for e in suite.attacks}, {e.name for e in suite.attacks}
    known = {*labels, *held, *ATTACKS.names(), ALL}
    for word in asked or ():
        if word not in known:
            raise SpecError(
                "audit.unknown-attack",
                f"There is no attack {word!r} (audit.attacks), neither in suite {suite.name} nor elsewhere.",
                nearest(word, known),
            )
    wanted = ATTACKS.names() if ALL in (asked or ()) else [w for w in dict.fromkeys(asked or ()) if w not in labels]
    added = [
        AttackEntry(name=name, label=f"{name}_default" if name in labels else "") for name in wanted if name not in held
    ]
    return suite.model_copy(update={"attacks": [*suite.attacks, *added]}) if added else suite


def not_in_suite(suite: Suite, threat: str, asked: Sequence[str] | None, data: Bundle) -> list[str]:
    """One sentence that names the attacks for such rows and this threat model that ``suite`` does not hold, where the
    plan is the suite's. No part of ``allowed``: what is registered may differ where a record is verified."""
    if asked is not None:
        return []
    held, family = {entry.name for entry in suite.attacks}, family_of(data)
    lacking = [
        name
        for name, kind in ATTACKS.items()
        if name not in held and family in kind.families and THREATS.index(kind.threat) <= THREATS.index(threat)
    ]
    return [f"Not in suite {suite.name}, so not run: {', '.join(lacking)}."] if lacking else []


def allowed(
    entries: Sequence[AttackEntry], threat: str, asked: Sequence[str] | None
) -> tuple[list[AttackEntry], list[str]]:
    """(entries that the threat model and the names asked for allow, why the others are not run). Looks at nothing but
    the entries: ``with_asked`` has added what the suite does not hold."""
    kept, left_out = [], []
    labels = {label_of(entry) for entry in entries}
    for entry in entries:
        label, needs = label_of(entry), ATTACKS.get(entry.name).threat
        if not _is_asked(entry, labels, asked):
            left_out.append(f"{label} was not asked for.")
        elif THREATS.index(needs) > THREATS.index(threat):
            left_out.append(f"{label} needs a {needs} attacker; the audit considers a {threat} one.")
        else:
            kept.append(entry)
    return kept, left_out


def _is_asked(entry: AttackEntry, labels: set[str], asked: Sequence[str] | None) -> bool:
    """By its label; by its name where no label is that word; by the word for all of them."""
    if asked is None or ALL in asked or label_of(entry) in asked:
        return True
    return entry.name in asked and entry.name not in labels


def family_of(data: Bundle) -> str:
    """The family of models that answer these rows."""
    return {"image": "classifier"}.get(data.modality, "causal_lm")


def cannot_run(entry: AttackEntry, data: Bundle, roles: Collection[str]) -> str:
    """Why an attack cannot run on this data and these models, as far as one can say with nothing loaded ("" if it
    can). The audit says the same of it."""
    attack: Attack = ATTACKS.get(entry.name)(**entry.settings)
    if (family := family_of(data)) not in attack.families:
        return f"it does not apply to a {family}"
    if reason := attack.check(data):
        return reason
    lacks = attack.needs_original and "target" not in roles
    return "it needs the model before unlearning, and there is none" if lacks else ""


def by_price(entries: Sequence[AttackEntry], data: Bundle, roles: Sequence[str]) -> list[Planned]:
    """Attacks with their price, cheapest information first; equal prices keep the suite's order."""
    planned = (Planned(e, price(e, data, roles), curves(e, roles)) for e in entries)
    return sorted(planned, key=lambda p: p.forwards)


def curves(entry: AttackEntry, roles: Sequence[str]) -> int:
    """On how many models the attack is run: the unlearned one and the controls that are there."""
    return 1 + sum(control in roles for control in ATTACKS.get(entry.name).controls)


def price(entry: AttackEntry, data: Bundle, roles: Sequence[str]) -> float:
    """Row forwards on the unlearned model and the controls that are there; 0 for an attack that cannot run."""
    if cannot_run(entry, data, roles):
        return 0.0
    attack: Attack = ATTACKS.get(entry.name)(**entry.settings)
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
                label = label_of(one.entry)
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
    """Seconds that scoring one forget row takes on this model and machine (median-length rows, one warm batch); 0 for a
    model that hides its logits, until the first attack has told."""
    from efface.errors import NeedsError
    from efface.passes.score import score

    rows = sorted(data.eval["forget"], key=lambda r: len(getattr(r, "answer", "")))
    middle = rows[max(0, len(rows) // 2 - PROBE_ROWS // 2) :][:PROBE_ROWS]
    try:
        score(adapter, middle[:1])
    except NeedsError:
        return 0.0
    started = time.monotonic()
    score(adapter, middle)
    return (time.monotonic() - started) / len(middle)
