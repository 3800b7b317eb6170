"""Surrogates: other texts that only somebody who knows a forgotten fact finds likely, in place of its question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.proximal import Filter, Judged, SurrogateSettings, acceptance, as_texts, draw
from efface.attacks.wording import known_objects
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows
from efface.data.telling import tells
from efface.data.worlds.surrogates import KINDS, Surrogate, hand_made
from efface.errors import NeedsError
from efface.models.base import ModelAdapter
from efface.passes.cache import fingerprint
from efface.settings import Settings, setting

Kind = Literal["paraphrase", "reversed", "two_hop", "alias", "drawn"]

CARD = Card(
    title="Proximal surrogates (PSG)",
    source="arXiv:2512.19025",
    summary="Asks for what was forgotten through rows that lie far from the forget set and still hang on it: the "
    "question turned round, a chain that goes on from the fact, another name, other words, or rephrases drawn from "
    "both models. What comes back there and not on the forget set itself was muted, not removed.",
    confirmed=(
        "a surrogate counts if the model before unlearning finds it likelier than a model that never knew, by at least "
        "the lower quartile of what it does on the forget set (G1); drawn ones also pass distance, fluency and "
        "relevance (G2, G3)",
        "the same comparison says how far each metric can be trusted: its fall on surrogates beside its fall on the "
        "forget set (`audit.consistency`)",
    ),
    derived=(
        "one surrogate of each kind per row, under the row's id, so that models compare row by row",
        "the model that never knew is a second reference, which is no control. Without one it is the reference, so the "
        "rows are chosen with the control itself; without both it is the base model",
        "drawing searches candidates of a mixed sampler in place of greedy coordinate gradients",
    ),
    tested=(
        "ladder, five seeds: OneHop flagged in 5 (+.98 beyond R1), R2 and R3 in none. Of the metrics on forget rows 14 "
        "of 72 comparisons say that they follow sentences on OneHop, 0 of 144 on R2 and R3 (median rho 1.00)",
    ),
    fooled_by=(
        "drawn surrogates are plain texts: their probability says something, their ROUGE does not",
        "a world's own surrogates may be far easier than the question: the reference is the control",
    ),
    systems=("S19",),
)


@attack("surrogates", CARD)
class Surrogates(Attack):
    """One point per kind of surrogate; kinds that no row has, or of which none passes the checks, are left out."""

    class Settings(Settings):
        kinds: tuple[Kind, ...] = setting(
            ("paraphrase", "reversed", "two_hop", "alias"), "kinds of surrogates, in this order", source="sheet E6"
        )
        drawn: SurrogateSettings = setting(SurrogateSettings(), "how rephrases are drawn and checked")

    threat = "black-box"
    controls = ("reference", "target")
    reads_all = True
    needs_original = True
    needs_naive = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._made: tuple[tuple, Choices] | None = None  # what it depends on, and what was made

    def check(self, data: Bundle) -> str:
        """There must be questions, and a kind that they can have."""
        rows, drawn = _questions(data), "drawn" in self.settings.kinds
        if not rows:
            return "the rows to forget are documents: there is no question to stand in for"
        if drawn and self.settings.drawn.seconds is not None:
            return "drawn.seconds would give every model other surrogates: limit drawn.rounds instead"
        return "" if drawn or _has_any(rows, data) else "no row has a surrogate"

    def forwards(self, data: Bundle) -> float:
        """Both models on every surrogate, every surrogate measured; drawing reads each candidate token by token."""
        rows, drawn = len(_questions(data)), self.settings.drawn
        own = sum(kind in KINDS for kind in self.settings.kinds) * rows * 8.0
        words = drawn.candidates * drawn.rounds * (drawn.max_new_tokens / 4 + 4)
        return own + (rows * words if "drawn" in self.settings.kinds else 0.0)

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """The forget rows' surrogates, kind by kind."""
        assert context.original is not None
        if context.naive is None:
            raise NeedsError(
                "attack.needs-naive",
                "Surrogates are told by a model that never knew the forget set, and there is neither a reference nor a "
                "base model.",
                "name one with --reference.",
            )
        choices = self._choices(context.original(), context.naive(), context)
        tested = 0
        for kind in self.settings.kinds:
            found, rates = choices.of(kind)
            if not found:
                continue
            tested += 1

            def attacked(name: str, rows: Rows, found: dict[str, Row] = found) -> Rows:
                return [found[r.id] for r in rows if r.id in found]

            supplied = {f"{kind}_rows": float(len(found)), **rates}
            yield AttackPoint({"kinds": tested}, "kinds", context.adapter, rows=attacked, supplied=supplied)
        if not tested:
            raise NeedsError(
                "attack.not-testable",
                "The model before unlearning finds no surrogate likelier than one that never knew.",
                "add kinds (`drawn` works on any data), or test a target that knows its facts in other forms.",
            )

    def _choices(self, knows: ModelAdapter, naive: ModelAdapter, context: AttackContext) -> Choices:
        """Made once for all models that are attacked with these settings, and again for other models or data."""
        place = (_whole(knows), _whole(naive), context.data.digest(), id(context.data.world), context.seed)
        if self._made is None or self._made[0] != place:
            self._made = place, Choices(knows, naive, context.data, self.settings.drawn, context.seed)
        return self._made[1]


class Choices:
    """The surrogates of the forget rows, kind by kind, as a model that ``knows`` and a ``naive`` one tell them."""

    def __init__(
        self, knows: ModelAdapter, naive: ModelAdapter, data: Bundle, settings: SurrogateSettings, seed: int
    ) -> None:
        self.knows, self.naive, self.settings, self.seed = knows, naive, settings, seed
        self.rows, self.world = _questions(data), data.world
        self._found: dict[str, tuple[dict[str, Row], dict[str, float]]] = {}

    def of(self, kind: str) -> tuple[dict[str, Row], dict[str, float]]:
        """({row id: its surrogate}, share of candidates that passed each check)."""
        if kind not in self._found:
            self._found[kind] = self._drawn() if kind == "drawn" else self._hand_made(kind)
        return self._found[kind]

    def _drawn(self) -> tuple[dict[str, Row], dict[str, float]]:
        best, rates = draw(self._filter(as_texts(self.rows)), self.seed)
        return _by_source(best), _named(rates)

    def _hand_made(self, kind: str) -> tuple[dict[str, Row], dict[str, float]]:
        if self.world is None:
            made = _reworded(self.rows) if kind == "paraphrase" else []
        else:
            made = hand_made(self.rows, self.world, (kind,))
        objects = known_objects(self.world)  # turned round, the person is what is asked for
        wanted = {s.row.id: s.row.entity if kind == "reversed" else objects.get(s.row.fact, "") for s in made}
        made = [s for s in made if not tells(s.row.prompt, s.row, wanted[s.row.id])]
        judged = self._of_questions.judge(made)
        return _by_source([j for j in judged if j.checks["derived"]]), _named(acceptance(judged))

    @cached_property
    def _of_questions(self) -> Filter:
        return self._filter(self.rows)

    def _filter(self, rows: Sequence[Row]) -> Filter:
        return Filter(self.knows, self.naive, rows, self.settings, self.world)  # type: ignore[arg-type]


def _whole(model: ModelAdapter) -> str:
    """Everything that a model's outputs depend on."""
    return fingerprint(model) + json.dumps(model.identity(), sort_keys=True, default=str)


def _has_any(rows: Sequence[Row], data: Bundle) -> bool:
    return any(r.paraphrase for r in rows) if data.world is None else bool(hand_made(rows, data.world))


def _questions(data: Bundle) -> list[Row]:
    return [r for r in data.eval.get("forget", ()) if isinstance(r, Row) and r.prompt]


def _reworded(rows: Sequence[Row]) -> list[Surrogate]:
    return [Surrogate(replace(r, prompt=r.paraphrase), r.id, "paraphrase") for r in rows if r.paraphrase]


def _by_source(judged: Sequence[Judged]) -> dict[str, Row]:
    return {j.surrogate.source: replace(j.surrogate.row, id=j.surrogate.source) for j in judged}


def _named(rates: dict[str, float]) -> dict[str, float]:
    return {"candidates": rates["candidates"], **{f"passed_{k}": v for k, v in rates.items() if k != "candidates"}}
