"""Suppressed refusals: the tokens that open a refusal are ruled out where the answer begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.forcing import FirstToken
from efface.attacks.wording import asked
from efface.card import Card
from efface.data.rows import Bundle
from efface.methods.language.refusals import REFUSALS
from efface.models.tampering import Tampering
from efface.passes.generate import GenerateSettings
from efface.settings import Settings, setting

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

CARD = Card(
    title="Suppressed refusals",
    source="methods sheet 5 (h) on UniErase (ruling out [UNL] at decoding undoes it); refusal suppression: "
    "arXiv:2307.02483",
    summary="A logit bias rules out the tokens that open a refusal at the first place of the answer; decoding goes on "
    "greedily. What was rerouted to a refusal, and not erased, comes back.",
    confirmed=("sheet 5 (h): a refusal that hangs on one opening token is undone by a bias against that token",),
    derived=(
        "the openings are the distinct first tokens of the first 1, 10 and 100 refusals of the list that the methods "
        "here teach from; refusal suppression asks for it in the prompt, this does it at decoding",
        "one place only: a refusal that starts later is not stopped",
        "an answer that opens like a refusal is ruled out with it, since an attacker does not know the answer; the "
        "unchanged greedy answer is always among the tries",
    ),
    tested=(
        "tiny bench whose target knows refusals, gold answers said word for word, greedy and with the openings of 1, "
        "10, 100 refusals ruled out (1, 5, 18 tokens): after 15 steps of idk at 3e-4 .07, .64, 1, 1; after 60 steps at "
        "1e-3 none at all; the reference says the same as before",
        "ladder, five seeds: Hesitant flagged in 4 (+.45 beyond R1), R2 and R3 in none; HeadOnly in none: its second "
        "choice is no answer",
    ),
    fooled_by=(
        "a model taught to refuse for long, whose second choice is no answer either: nothing here, relearning may tell",
        "refusals that open otherwise than the hundred here: name them in `also`, or try first_token",
        "scores that read log-probs (probability) do not see it: read it with a score of generated text (rouge)",
    ),
)


@attack("suppress_refusals", CARD)
class SuppressRefusals(Attack):
    """One point per number of refusals whose openings are ruled out."""

    class Settings(Settings):
        refusals: tuple[int, ...] = setting(
            (1, 10, 100), "so many refusals, from the start of the list, at each point", source="derived", min_length=1
        )
        also: tuple[str, ...] = setting(
            (), "refusals, or added tokens such as [UNL], put before the built-in hundred", source="sheet 5 (h)"
        )

    threat = "grey-box"
    reads = "rouge"
    controls = ("reference",)
    families = ("causal_lm",)

    def check(self, data: Bundle) -> str:
        """There must be questions."""
        return "" if asked(self.measured(data).get("forget", ())) else "the rows to forget are documents, not questions"

    def forwards(self, data: Bundle) -> float:
        """Every measured row at every point."""
        return 5.0 * sum(map(len, self.measured(data).values())) * (1 + len(self.settings.refusals))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """Fewest refusals first; scores that read log-probs stay as they were."""
        listed = (*self.settings.also, *REFUSALS)
        for count in sorted(set(self.settings.refusals)):
            ids = openings(context.adapter, listed[:count])  # type: ignore[arg-type]
            yield AttackPoint(
                {"refusals": count},
                "refusals",
                without(context.adapter, ids),
                supplied={"tokens_ruled_out": len(ids)},
                decoding=GenerateSettings(),
                best=True,
                scores_as_before=True,
            )


def openings(adapter: CausalLM, texts: Sequence[str]) -> list[int]:
    """Distinct ids that answers made of ``texts`` begin with, in order; an added token stands for itself."""
    added = adapter.tokenizer.get_added_vocab()
    return list(dict.fromkeys(added[text] if text in added else _first_id(adapter, text) for text in texts))


def _first_id(adapter: CausalLM, text: str) -> int:
    return adapter.template.answer_ids(adapter.tokenizer, text)[0]


def without(adapter: Any, ids: Sequence[int]) -> Any:
    """The model whose answers cannot begin with one of ``ids``; what lay around it stays."""
    around = adapter.tampering or Tampering()
    kept = {f.name: getattr(around, f.name) for f in fields(Tampering)}
    return adapter.tampered(FirstToken(**kept, ruled_out=tuple(ids)))
