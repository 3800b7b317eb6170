"""Pathway passes: how far each part of the target carries an answer, and how far unlearning moved that part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efface.attacks.lead_in import LeadIn
from efface.data.rows import Bundle, Row
from efface.errors import NeedsError
from efface.metrics.base import NotComputed
from efface.passes.pathways import Component, Query, components, corrupted, disruption, importance
from efface.passes.registry import PassInput, table_pass

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

PATHWAYS = pa.schema(
    [
        ("row", pa.string()),
        ("entity", pa.string()),
        ("layer", pa.int32()),
        ("part", pa.string()),  # "attention" or "mlp"
        ("place", pa.string()),  # "subject", "relation" (the question's other tokens) or "last"
        ("value", pa.float32()),  # importance I_c (pass pathways) or disruption D_c (pass pathway_disruption)
    ]
)


@table_pass("pathways")
def pathways(given: PassInput) -> pa.Table:
    """I_c of every part for every question, in the wording the need names. Questions without a stand-in of as many
    tokens, and those whose answer does not hang on the subject, are left out."""
    model = _parted(given.adapter)
    lines: list[dict[str, Any]] = []
    for row, query, lead in _questions(given, model):
        lines += _lines(row, importance(lead.put_on(model), query))
    if not lines:
        raise NotComputed("no question was found whose answer hangs on whom it is about")
    return pa.Table.from_pylist(lines, schema=PATHWAYS)


@table_pass("pathway_disruption")
def pathway_disruption(given: PassInput) -> pa.Table:
    """D_c of every part for the same questions: the model against the target, both asked the question as it is."""
    target, model = _parted(given.role("target")), _parted(given.adapter)
    lines: list[dict[str, Any]] = []
    for row, query, lead in _questions(given, target):
        sides = [lead.put_on(side) for side in (target, model)]
        asked = [side.encode(query.clean, answers=()).payload.prompt for side in sides]
        if asked[0] != asked[1]:
            raise NotComputed("something before the model changes the questions, so no part sees the same words")
        lines += _lines(row, _moved(*sides, query))
    if not lines:
        raise NotComputed("no question names somebody who can be swapped for another")
    return pa.Table.from_pylist(lines, schema=PATHWAYS)


def _questions(given: PassInput, model: CausalLM) -> Iterator[tuple[Row, Query, LeadIn]]:
    """The rows that can be corrupted, in the wording wanted. Stand-ins are chosen on ``model``, the target."""
    wording, rows = given.need.prompt, [r for r in given.rows if isinstance(r, Row)]
    data = Bundle("", "text", {}, {"forget": rows}, given.world)
    for row in rows:
        asked = replace(row, prompt=getattr(row, wording))
        if asked.prompt and (found := corrupted(model, asked, data)) is not None:
            yield row, *found


def _parted(model: Any) -> CausalLM:
    if model.family != "causal_lm":
        raise NotComputed(f"a {model.family} has no tokens to patch")
    try:
        components(model)
    except NeedsError as error:
        raise NotComputed(f"[{error.code}] {error.cause}") from None
    return model


def _moved(target: CausalLM, model: CausalLM, query: Query) -> dict[Component, float]:
    try:
        return disruption(target, model, query)
    except (KeyError, RuntimeError):
        raise NotComputed("the model and the target do not have the same layers") from None


def _lines(row: Row, values: Mapping[Component, float]) -> list[dict[str, Any]]:
    return [
        {"row": row.id, "entity": row.entity, "layer": layer, "part": part, "place": place, "value": value}
        for (layer, part, place), value in values.items()
    ]
