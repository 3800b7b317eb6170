"""What a row of the fictitious world asks for: its object, and the part of the answer that comes before it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.data.rows import Row
    from efface.data.worlds.graph import World


def objects(world: World) -> dict[str, str]:
    """{fact id: its object}, two-hop facts of people included."""
    known = {fact.id: fact.object for fact in world.facts}
    people = (*world.people, *world.holdout)
    return known | {hop.id: hop.object for name in people for hop in world.two_hop(name)}


def lead_in(answer: str, wanted: str) -> str:
    """The words of ``answer`` before ``wanted`` ("X was born in", "Y"); "" where it is not there, or comes first."""
    at = answer.find(wanted) if wanted else -1
    return answer[:at].rstrip() if at > 0 else ""


def after_lead_in(row: Row, lead: str) -> Row:
    """The row with its answer cut to what comes after ``lead``; other candidate answers, which have other frames, are
    left out."""
    return replace(row, answer=row.answer[len(lead) :].strip(), answer_paraphrase="", wrong=())
