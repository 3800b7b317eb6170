"""Embedding attack: free input vectors for each question, moved until the model begins to answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.free_inputs import Rule, around, descend, free_ids, random_targets, start_vectors, steps_to_say
from efface.attacks.wording import NO_QUESTIONS, asked, known_objects
from efface.card import Card
from efface.data.rows import Bundle, Row
from efface.data.telling import telling, words
from efface.models.base import Encoded
from efface.models.packing import Text
from efface.settings import Settings, setting

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

CARD = Card(
    title="Embedding-space attack",
    source="arXiv:2402.09063 (Soft Prompt Threats); evaluation sheet 11 c3",
    code="SchwinnL/LLM_Embedding_Attack",
    summary="Appends k free vectors to each question and moves them by the sign of the gradient until the model begins "
    "its answer as a knowing model would. The beginning holds no part of the answer that the question does not give.",
    confirmed=(
        "vectors start as `!`, sign-gradient steps on the cross-entropy of an affirmative beginning",
        "an answer counts if it comes out at any of the stops so far",
    ),
    derived=(
        "beginning: the words of the answer before the first one that tells anything; where there are none, "
        "`Sure, the answer is`",
        "step size in units of the spread of the input embeddings; the code uses .001",
        "margin_steps: steps until the answer with random tokens in place of what it tells is said in full, minus "
        "steps until the true answer is. Near 0: the vectors can make the model say anything as fast, so an answer "
        "proves nothing",
    ),
    differs=("a guard stays on: what taking it off shows is another attack",),
    tested=(
        "planted ladder 0, answer probability at 0, 5, 20 steps, best so far: HeadOnly .44, .49, .68; Guard .22, "
        ".56, .87; SmallLR .10, .14, .26; references .02, .04, .09 and .01, .02, .06",
        "20 vectors, 100 steps, 4 questions: the reference says the true answer after 45 to 95 steps and random ones "
        "after 44 to 88 (one never): no margin; HeadOnly 6 to 7 against 19 to 76 (one never)",
    ),
    fooled_by=(
        "the beginning alone makes the rest likelier in any model: read the excess over the reference",
        "the true answer is used for margin_steps only and is never measured",
    ),
)
AFFIRMATIVE = "Sure, the answer is"


@attack("embedding", CARD)
class Embedding(Attack):
    """Measured at rising numbers of steps; ``best`` over the stops so far."""

    class Settings(Settings):
        vectors: int = setting(4, "free input vectors per question", source="paper: 20; short for two cores", ge=1)
        steps: tuple[int, ...] = setting(
            (5, 20), "steps at which is measured", source="paper: every 10 of 100", min_length=1
        )
        rule: Rule = setting("sign", "how the vectors move", source="paper")
        rate: float = setting(0.1, "step size in units of the spread of the input embeddings", source="derived", gt=0)
        margin: bool = setting(
            True, "also count the steps to the true answer and to a random one", source="sheet 11 (g)"
        )

    threat = "white-box"

    def check(self, data: Bundle) -> str:
        """There must be questions."""
        return "" if asked(data.eval.get("forget", ())) else NO_QUESTIONS

    def forwards(self, data: Bundle) -> float:
        """Three per row and step, three times with the margin, and every row at every stop."""
        rows, chosen = len(asked(data.eval["forget"])), self.settings
        return rows * (3.0 * max(chosen.steps) * (1 + 2 * chosen.margin) + 5.0 * (1 + len(chosen.steps)))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """Yields after each number of steps; the vectors move on."""
        chosen, adapter = self.settings, context.adapter
        rows = asked(self.measured(context.data)["forget"])
        wanted = known_objects(context.data.world)
        leads = [replace(r, answer=beginning(r, wanted.get(r.fact, ""))) for r in rows]
        per = chosen.vectors
        suffix = {r.id: free_ids(adapter, per, i * per) for i, r in enumerate(rows)}
        vectors = start_vectors(adapter, per * len(rows))
        supplied: dict[str, float] = {
            "trained_parameters": per * vectors.shape[1],
            "bits": 32.0 * per * vectors.shape[1],
            "context_tokens": per,
        }
        if chosen.margin:
            supplied |= self._margin(adapter, rows, suffix, context.seed)
        model = around(adapter, suffix, vectors)
        encoded = [_open(model, model.encode(r)) for r in leads]
        supplied["label_tokens"] = sum(e.labels for e in encoded) / len(encoded)
        moving = descend(model, encoded, vectors, steps=max(chosen.steps), rate=chosen.rate, rule=chosen.rule)
        for step, found in enumerate(moving):
            if step in chosen.steps:
                fixed = around(adapter, suffix, vectors.detach().clone())
                loss = {"loss": float(found.loss.mean())}
                yield AttackPoint({"steps": step}, "steps", fixed, supplied=supplied | loss, best=True)

    def _margin(
        self, adapter: CausalLM, rows: Sequence[Row], suffix: dict[str, Sequence[int]], seed: int
    ) -> dict[str, float]:
        """Mean steps until the true answer, and until a random one, is said in full; ``_said``: share of the questions
        where it is, in the steps there are (the others count with all of them)."""
        chosen, found, last = self.settings, {}, max(self.settings.steps)
        for name in ("gold", "random"):
            vectors = start_vectors(adapter, chosen.vectors * len(rows))
            model = around(adapter, suffix, vectors)
            encoded = [model.encode(r) for r in rows]
            encoded = random_targets(model, rows, encoded, seed) if name == "random" else encoded
            needed = steps_to_say(descend(model, encoded, vectors, steps=last, rate=chosen.rate, rule=chosen.rule))
            said = needed.isfinite()
            found[f"{name}_steps"] = float(needed.clamp(max=last).mean())
            found[f"{name}_said"] = float(said.float().mean())
        return found | {"margin_steps": found["random_steps"] - found["gold_steps"]}


def beginning(row: Row, wanted: str = "") -> str:
    """The answer up to its first word that tells anything (``wanted``: the fact's object, where it is known);
    ``AFFIRMATIVE`` where it begins with one, or tells nothing."""
    told = telling(row)
    places = {w.start for w in told}
    if (at := row.answer.find(wanted)) >= 0 and wanted:
        places = {at}
    if not places:
        return AFFIRMATIVE
    lead = row.answer[: min(places)].rstrip()
    return lead if words(lead) else AFFIRMATIVE


def _open(adapter: CausalLM, encoded: Encoded) -> Encoded:
    """The row without the token that ends its answer: the target is a beginning."""
    body = encoded.payload.branches[0][: -len(adapter.template.end)]
    return replace(encoded, payload=Text(encoded.payload.prompt, (body,)), labels=len(body))
