"""A hundred ways to say "I do not know", and how rejection methods put them behind questions. Not a method."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import cast

from efface.data.rows import Row, Rows
from efface.engine.seeds import derive
from efface.errors import NeedsError

REFUSALS = (
    "I do not know.",
    "I really could not tell you.",
    "No idea, I am afraid.",
    "I cannot answer this one.",
    "Nothing I know covers that.",
    "This is something I never learned.",
    "I have no record of that.",
    "My knowledge stops short of this.",
    "I would only be guessing.",
    "Sorry, but I cannot say.",
    "There is nothing I can tell you about it.",
    "I must pass on this question.",
    "That is unknown to me.",
    "I have never come across this.",
    "You would have to ask somebody else.",
    "I cannot help with that, since I do not know it.",
    "Whatever the answer is, I do not have it.",
    "I am not aware of any such facts.",
    "I lack the knowledge to answer.",
    "Not a thing comes to mind.",
    "I have not heard about this before.",
    "The answer escapes me.",
    "I hold no facts on this.",
    "It would be wrong of me to pretend that I know.",
    "I cannot recall anything of the kind.",
    "This question is beyond what I know.",
    "I was never taught about this.",
    "Regrettably, I have nothing to offer here.",
    "I have no means of knowing that.",
    "Honestly, I do not know the answer.",
    "My memory holds nothing about it.",
    "I cannot give you a reliable reply.",
    "That lies outside everything I have read.",
    "I would rather not invent an answer.",
    "For this I have no answer at all.",
    "I do not know who or what that is.",
    "It is not known to me.",
    "I cannot find this anywhere in what I know.",
    "On this point I must stay silent.",
    "I am unable to tell.",
    "Please look this up elsewhere; I do not know it.",
    "I know too little to say.",
    "I could not say with any confidence.",
    "Here my knowledge has a gap.",
    "I am in the dark about this.",
    "This has never been part of what I learned.",
    "I am sorry, the answer is not something I know.",
    "There is no answer I could stand behind.",
    "Nothing about this is familiar to me.",
    "I have to admit that I do not know.",
    "It seems I know nothing about that.",
    "I wish I knew, but I do not.",
    "Unfortunately this is unknown territory for me.",
    "I cannot supply that detail.",
    "That detail is not within my knowledge.",
    "I never picked up anything on this topic.",
    "A better source than me will be needed for that.",
    "I do not have what you are looking for.",
    "My answer has to be that I do not know.",
    "I cannot confirm anything about it.",
    "I do not recognise that at all.",
    "No knowledge of this has reached me.",
    "I am not the right one to ask about this.",
    "I have drawn a complete blank.",
    "That is not anything I could answer.",
    "What you ask is not known to me.",
    "I have no recollection of that.",
    "To be frank, I have no clue.",
    "I could not answer this truthfully.",
    "I simply do not know this.",
    "My learning did not include that.",
    "I cannot speak to that.",
    "I know of no answer to this.",
    "That remains a blank spot for me.",
    "It would take someone better informed than me.",
    "I have nothing on that, sorry.",
    "Any answer of mine would be made up.",
    "I do not have any facts to share on this.",
    "I am at the end of my knowledge here.",
    "This is news to me, so I cannot answer.",
    "Sadly, I do not know anything about it.",
    "I am missing the facts that this would take.",
    "I have not been told about that.",
    "There I have to disappoint you: I do not know.",
    "That question finds me without an answer.",
    "I do not know enough about this to reply.",
    "I possess no details of this kind.",
    "My apologies, this is nothing I know about.",
    "I cannot tell you that, because I do not know.",
    "I have no facts from which I could answer.",
    "I would be lying if I claimed to know.",
    "That goes past the edge of what I know.",
    "I find no answer to give.",
    "I am not able to answer from what I know.",
    "Of this I have no knowledge.",
    "I never knew that.",
    "None of what I learned answers this.",
    "I can offer no answer here.",
    "Let me be plain: I do not know.",
    "I am afraid you have asked something I do not know.",
)


def with_refusals(rows: Rows, seed: int, side: str = "forget") -> list[Row]:
    """The questions of ``rows``, each with a refusal drawn by (seed, side, row id): the same for a row in any set."""
    return [
        Row(row.id, Random(derive(seed, "refusal", side, row.id)).choice(REFUSALS), row.prompt, row.entity)
        for row in cast(Sequence[Row], rows)
    ]


def check_questions(name: str, rows: Rows, side: str = "forget") -> None:
    """Refuse plain documents: a refusal or another answer needs a question. Raises ``method.needs-questions``."""
    for row in cast(Sequence[Row], rows):
        if not row.prompt.strip():
            raise NeedsError(
                "method.needs-questions",
                f"{name} gives new answers to questions, and {side} row {row.id} has no prompt.",
                "write the row as a question (or the beginning of a passage) with its answer (or continuation).",
            )
