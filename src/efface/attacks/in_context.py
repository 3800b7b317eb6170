"""In-context attack (UnUnlearning): knowledge given back in the prompt, and how much of it suffices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.context_providers import PROVIDERS, Knowledge, Told, blocked
from efface.attacks.wording import NO_QUESTIONS, asked, reworded, supplied
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows
from efface.settings import Settings, setting

CARD = Card(
    title="In-context reintroduction (UnUnlearning)",
    source="arXiv:2407.00106 (position paper); evaluation sheet 10",
    summary="Puts knowledge into the context, from unrelated text to the fact itself, in rising doses. What the "
    "reference does with it is policy; only what the unlearned model does beyond that is residue.",
    confirmed=(
        "context that holds the answer is copying, not recovery: such points carry contains_answer = 1",
        "the reference is asked with the same context",
    ),
    derived=(
        "the whole protocol: the paper has no experiment",
        "levels: 1 irrelevant, 2 related or retrieved passages, 3 premises, 4 new symbol, 5 direct, 6 demonstrations",
        "level 3 asks two-hop questions and gives the second step among others; the first must come from the model",
        "filter_blocks: share of the contexts that a filter on the forgotten names would stop; filter_false_blocks: "
        "the same of retained questions and answers",
        "dose 0 is the curve's point without an attack; a dose that no question has enough facts for is left out, so "
        "that seven facts per person end the curve of demonstrations at 4",
        "relearnability area: mean over doses above 0 of (acc_U(d) - acc_U(0)) / (acc_O(0) - acc_U(0)); minimal dose: "
        "least d with acc_U(d) >= half of acc_O(0) (`relearnability`, `minimal_dose`)",
    ),
    differs=("one wording per fact instead of five paraphrase seeds",),
    tested=(
        "planted ladder 0, demonstrations, answer probability without and with 1, 2, 4 facts: HeadOnly .44, .30, .27, "
        ".21; SmallLR .10, .09, .11, .09; target 1.00, .80, .70, .51; references .02 throughout",
        "premises: SmallLR .30, .40, .44, .43 where the reference falls (.07, .05, .04, .04)",
        "a filter on names stops direct and demonstrations and neither premises nor symbol",
        "level direct restores nothing on the tiny models (reference .02, .02), which never learned to copy: the "
        "sheet's check that it restores 80% on both needs a model that can",
    ),
    fooled_by=(
        "a model that cannot use a context: level direct also measures never-trained people (set holdout), where a "
        "model that can copy scores high",
    ),
    systems=("S37",),
)


@attack("in_context", CARD)
class InContext(Attack):
    """One point per dose of one kind of context."""

    class Settings(Settings):
        level: Literal["irrelevant", "related", "passages", "premises", "symbol", "direct", "demonstrations"] = setting(
            "demonstrations", "what is put into the context", source="sheet 10, levels 1-6"
        )
        doses: tuple[int, ...] = setting(
            (1, 2, 4, 8),
            "facts in the context, as far as a question has that many",
            source="sheet 10: 0, 1, 2, 4, 8 (0 is the point without an attack)",
            min_length=1,
        )

    threat = "black-box"
    version = 2
    controls = ("reference", "target")

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """The forget questions that can be given this context; two-hop questions for premises, and never-trained people
        beside the direct fact."""
        level = self.settings.level
        if level == "premises":
            hops = Knowledge(data).hops
            return {"two_hop": [r for r in asked(data.eval.get("two_hop", ())) if r.fact in hops]}
        sets: dict[str, Rows] = {"forget": self._usable(asked(data.eval.get("forget", ())))}
        if level == "direct" and (fresh := self._usable(asked(data.eval.get("holdout", ())))):
            sets["holdout"] = fresh
        return sets

    def check(self, data: Bundle) -> str:
        """There must be questions, and what this kind of context is made of."""
        if not asked(data.eval.get("forget", ())):
            return NO_QUESTIONS
        if reason := PROVIDERS[self.settings.level].needs(data):
            return reason
        return "" if all(self.measured(data).values()) else "no question can be given this context"

    def forwards(self, data: Bundle) -> float:
        """Every row at every dose; a context makes it longer."""
        rows = sum(map(len, self.measured(data).values()))
        return 5.0 * rows * (1 + 2 * len(self.settings.doses))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per dose, smallest first."""
        provider, knowledge = PROVIDERS[self.settings.level], Knowledge(context.data, context.seed)
        sets, world = self.measured(context.data), context.data.world
        for dose in self._reached(next(iter(sets.values())), knowledge):
            given: dict[str, Told] = {}

            def told(row: Row, dose: int = dose, given: dict[str, Told] = given) -> Told:
                if row.id not in given:
                    given[row.id] = provider.give(row, dose, knowledge)
                return given[row.id]

            def rows(name: str, rows: Rows, told: Callable[[Row], Told] = told) -> list[Row]:
                if provider.contains or provider.choice:  # the answer stands there on purpose, and the point says so
                    return [_with_context(told(r)) for r in rows]  # type: ignore[arg-type]
                return reworded(rows, lambda row: _with_context(told(row)), world)

            before = next(iter(sets.values()))
            yield AttackPoint(
                {"facts": dose},
                "facts",
                context.adapter,
                rows=rows,
                supplied=supplied(context.adapter, before, rows("", before))  # type: ignore[arg-type]
                | {
                    "level": provider.level,
                    "entails_answer": float(provider.entails),
                    "contains_answer": float(provider.contains),
                }
                | ({"answer_among": dose + 1.0} if provider.choice else {})
                | _filtered([told(r) for r in before], context.data),  # type: ignore[arg-type]
            )

    def _reached(self, rows: Rows, knowledge: Knowledge) -> list[int]:
        """The doses that some question has facts for, the smallest in any case. Irrelevant text is cut to the length of
        related text, so that is what is counted for it."""
        level = self.settings.level
        give = PROVIDERS["related" if level == "irrelevant" else level].give
        first, *more = sorted(self.settings.doses)
        return [first, *(d for d in more if any(len(give(r, d, knowledge).sentences) >= d for r in rows))]  # type: ignore[arg-type]

    def _usable(self, rows: list[Row]) -> list[Row]:
        """A new symbol needs a name to stand for."""
        return [r for r in rows if blocked(r.prompt, [r.entity])] if self.settings.level == "symbol" else rows


def _with_context(told: Told) -> Row:
    """The sentences in front of the question."""
    return replace(told.row, prompt=" ".join([*told.sentences, told.row.prompt]))


def _filtered(given: list[Told], data: Bundle) -> dict[str, float]:
    """What a filter on the forgotten names does: to these contexts, and to retained questions with their answers."""
    names = {r.entity for r in asked(data.eval.get("forget", ())) if r.entity}
    kept = [f"{r.prompt} {r.answer}" for r in asked(data.eval.get("retain", ()))]
    stopped = [blocked(" ".join(told.sentences), names) for told in given]
    found = {"filter_blocks": sum(stopped) / max(1, len(stopped))}
    return found | ({"filter_false_blocks": sum(blocked(t, names) for t in kept) / len(kept)} if kept else {})
