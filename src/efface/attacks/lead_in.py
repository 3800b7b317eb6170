"""Lead-in: start the answer with its words before what is asked for, so that the next token is one of the answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from efface.data.rows import Row, Rows
from efface.data.worlds.objects import after_lead_in, lead_in, objects
from efface.models.tampering import Tampering

if TYPE_CHECKING:
    from efface.data.rows import Bundle
    from efface.models.causal_lm import CausalLM


@dataclass(frozen=True)
class LeadIn:
    """``words`` {row id: the words its answer is made to start with}; rows without are asked as they are."""

    words: dict[str, str]

    @classmethod
    def of(cls, rows: Iterable[Row], data: Bundle, wanted: bool) -> LeadIn:
        """Lead-ins of ``rows``, where a world tells what is asked for; none at all unless ``wanted``."""
        if not wanted or data.world is None:
            return cls({})
        known = objects(data.world)
        found = {row.id: lead_in(row.answer, known.get(row.fact, "")) for row in rows}
        return cls({row: words for row, words in found.items() if words})

    def put_on(self, model: CausalLM) -> CausalLM:
        """The model whose answers start so; what else lies around it stays."""
        return model.tampered(replace(model.tampering or Tampering(), forced=self.words))

    def cut(self, name: str, rows: Rows) -> Rows:
        """The rows with what comes after the lead-in as their answer."""
        return [after_lead_in(r, self.words[r.id]) if r.id in self.words else r for r in rows]  # type: ignore[arg-type]

    def budget(self) -> dict[str, float]:
        """What it adds to a point's budget."""
        return {"lead_in": 1.0} if self.words else {}

    def tokens(self, model: CausalLM) -> float:
        """Tokens per row that it hands in (mean over rows that have one)."""
        counts = [len(model.template.forced_ids(model.tokenizer, text)) for text in self.words.values()]
        return sum(counts) / len(counts) if counts else 0.0


def with_edits(model: CausalLM, edits: Iterable[object]) -> CausalLM:
    """The model with edits of hidden states added to whatever lies around it already."""
    before = model.tampering or Tampering()
    return model.tampered(replace(before, edits=(*before.edits, *edits)))  # type: ignore[arg-type]
