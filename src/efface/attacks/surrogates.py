"""Surrogates: other texts that only somebody who knows a forgotten fact finds likely, in place of its question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.proximal import Filter, Judged, SurrogateSettings, acceptance, as_texts, draw
from efface.attacks.wording import known_objects
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows
from efface.data.telling import tells
from efface.data.worlds.surrogates import KINDS, Surrogate, hand_made
from efface.errors import NeedsError
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
        "the model that never knew is the reference, the base model where there is none",
        "drawing searches candidates of a mixed sampler in place of greedy coordinate gradients",
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
    needs_original = True
    needs_naive = True

    def check(self, data: Bundle) -> str:
        """There must be questions, and a kind that they can have."""
        rows = _questions(data)
        if not rows:
            return "the rows to forget are documents: there is no question to stand in for"
        return "" if "drawn" in self.settings.kinds or self._made(data, rows) else "no row has a surrogate"

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
        knows, naive, rows = context.original(), context.naive(), _questions(context.data)
        tested = 0
        for kind in self.settings.kinds:
            found, rates = self._chosen(kind, knows, naive, rows, context)
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

    def _made(self, data: Bundle, rows: Sequence[Row]) -> bool:
        return any(r.paraphrase for r in rows) if data.world is None else bool(hand_made(rows, data.world))

    def _chosen(
        self, kind: str, knows: object, naive: object, rows: Sequence[Row], context: AttackContext
    ) -> tuple[dict[str, Row], dict[str, float]]:
        """({row id: its surrogate}, share of candidates that passed each check)."""
        settings, world = self.settings.drawn, context.data.world
        if kind == "drawn":
            given = Filter(knows, naive, as_texts(rows), settings, world)  # type: ignore[arg-type]
            best, rates = draw(given, context.seed)
            return _by_source(best), _named(rates)
        if world is None:
            made = [s for s in _reworded(rows) if kind == "paraphrase"]
        else:
            made = hand_made(rows, world, (kind,))
        objects = known_objects(world)  # turned round, the person is what is asked for
        wanted = {s.row.id: s.row.entity if kind == "reversed" else objects.get(s.row.fact, "") for s in made}
        made = [s for s in made if not tells(s.row.prompt, s.row, wanted[s.row.id])]
        judged = Filter(knows, naive, rows, settings, world).judge(made)  # type: ignore[arg-type]
        return _by_source([j for j in judged if j.checks["derived"]]), _named(acceptance(judged))


def _questions(data: Bundle) -> list[Row]:
    return [r for r in data.eval.get("forget", ()) if isinstance(r, Row) and r.prompt]


def _reworded(rows: Sequence[Row]) -> list[Surrogate]:
    return [Surrogate(replace(r, prompt=r.paraphrase), r.id, "paraphrase") for r in rows if r.paraphrase]


def _by_source(judged: Sequence[Judged]) -> dict[str, Row]:
    return {j.surrogate.source: replace(j.surrogate.row, id=j.surrogate.source) for j in judged}


def _named(rates: dict[str, float]) -> dict[str, float]:
    return {"candidates": rates["candidates"], **{f"passed_{k}": v for k, v in rates.items() if k != "candidates"}}
