"""Emphasis attack (FocusOnKey): point the model at the words of the question that the answer used to hang on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.wording import NO_QUESTIONS, asked, known_objects, reworded, supplied
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows
from efface.data.telling import tells, words
from efface.settings import Settings, setting

CARD = Card(
    title="Keyword emphasis (unPact, FocusOnKey)",
    source="arXiv:2509.24675; evaluation sheet 4",
    summary="Finds the words of each question that carry the answer by leaving them out one by one, then names, "
    "repeats and marks them. What comes back was not gone but no longer attended to.",
    confirmed=("C_i = LP(x, y) - LP(x without word i, y); emphasis names, repeats or marks the key words",),
    derived=(
        "key words: smallest set with 80% of the positive mass; y is the greedy answer of the model they are found on",
        "templates",
        "key words found on the model before unlearning, so that the reference is asked the very same questions",
    ),
    differs=(
        "no scaling of attention logits: it would need another attention kernel for every architecture",
        "recovered_share, a count at each point, takes all ways so far together, as the scores do; it is a share of "
        "the forget questions that the original answers and the model does not without emphasis (lost_before of them). "
        "Right: the greedy answer tells the gold one. Not given where the key words are the model's own",
        "the destructive share needs no emphasis: it is the metric `answers_destroyed` on retain rows",
        "no per-token penalty map (knowledge tokens against function words)",
        "whether the answer ranks among likely candidates is the metric choice_accuracy, run on the same rows",
    ),
    tested=(
        "planted ladder 0, answer probability before and best of four ways: HeadOnly .44, .45; Guard .22, .35 "
        "(quotation marks inside a name pass the filter); SmallLR .10, .15; references .02, .03 and .01, .01",
        "a model taught to answer only where the key words are repeated is found out; the reference is not",
        "the sheet's planted model does not show here: with RMSNorm, name embeddings damped to a half (even to a "
        "twentieth) cost no accuracy, and where names are mixed up with others, repetition restores nothing",
    ),
    fooled_by=("wordings far from what a small model was trained on break it instead of helping it",),
    systems=("S07",),
)


@attack("emphasis", CARD)
class Emphasis(Attack):
    """One more way of emphasis at each point; ``best`` over the ways so far."""

    class Settings(Settings):
        keys: Literal["original", "itself"] = setting(
            "original",
            "model on which the key words are found; itself: on each attacked model, so that the reference may be "
            "asked with other words emphasised",
            source="sheet 4",
        )
        tau: float = setting(
            0.8, "share of the positive contributions that key words cover", source="sheet 4", gt=0, le=1
        )
        repeats: int = setting(2, "times the key words are repeated", source="derived", ge=1)
        answer_tokens: int = setting(
            32, "longest answer the key words are found for, in tokens", source="derived", ge=1
        )

    threat = "grey-box"
    version = 2

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.needs_original = self.settings.keys == "original"  # type: ignore[misc]

    def check(self, data: Bundle) -> str:
        """There must be questions."""
        return "" if asked(data.eval.get("forget", ())) else NO_QUESTIONS

    def forwards(self, data: Bundle) -> float:
        """A row per word to find the key words, then every row under every way, answered once more to count what comes
        back."""
        rows = asked(self.measured(data)["forget"])
        found = sum(3 + len(words(r.prompt)) for r in rows)
        counted = 3.0 * len(rows) * (1 + len(WAYS)) if self.settings.keys == "original" else 0.0
        return found + counted + 5.0 * len(rows) * (1 + len(WAYS))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per way of emphasis."""
        model = context.adapter if self.settings.keys == "itself" or context.original is None else context.original()
        before = self.measured(context.data)["forget"]
        keys = self.key_words(model, asked(before))
        held = sum(map(len, keys.values())) / max(1, len(keys))
        counts = model is not context.adapter
        known, without = (self._right(m, before, context.data) if counts else {} for m in (model, context.adapter))
        again: dict[str, bool] = {}
        for count, way in enumerate(WAYS.values(), 1):

            def rows(name: str, rows: Rows, way: Way = way) -> list[Row]:
                return reworded(rows, lambda row: self._emphasised(row, keys, way), context.data.world)

            changed = rows("forget", before)
            put_in = supplied(context.adapter, before, changed)  # type: ignore[arg-type]
            put_in["key_words"] = round(held, 3)
            if counts:
                right = self._right(context.adapter, changed, context.data)
                again = {name: ok or again.get(name, False) for name, ok in right.items()}
                put_in |= recovered(known, without, again)
            yield AttackPoint({"emphases": count}, "emphases", context.adapter, rows=rows, supplied=put_in, best=True)

    def key_words(self, model: Any, rows: Sequence[Row]) -> dict[str, list[int]]:
        """{row id: places of its key words}, found on ``model`` for the answers it gives."""
        from efface.passes.attribution import contributions, key_words, own_answers

        found = contributions(model, rows, own_answers(model, rows, self.settings.answer_tokens))
        return {r.id: key_words(one.gain, self.settings.tau) for r, one in zip(rows, found, strict=True)}

    def _right(self, model: Any, rows: Rows, data: Bundle) -> dict[str, bool]:
        """{row id: whether the model's greedy answer tells the gold one}."""
        from efface.passes.attribution import own_answers

        questions, wanted = asked(rows), known_objects(data.world)
        said = own_answers(model, questions, self.settings.answer_tokens)
        return {r.id: tells(text, r, wanted.get(r.fact, "")) for r, text in zip(questions, said, strict=True)}

    def _emphasised(self, row: Row, keys: Mapping[str, list[int]], way: Way) -> Row:
        places = keys.get(row.id, [])
        return replace(row, prompt=way(row.prompt, places, self.settings.repeats)) if places else row


def recovered(known: Mapping[str, bool], before: Mapping[str, bool], after: Mapping[str, bool]) -> dict[str, float]:
    """``recovered_share``: of the rows that the original answers (``known``) and the model does not (``lost_before`` of
    them), those that it answers under emphasis. No share where none was lost."""
    lost = [row for row, right in known.items() if right and not before[row]]
    share = {"recovered_share": sum(after[row] for row in lost) / len(lost)} if lost else {}
    return {"lost_before": float(len(lost))} | share


Way = Callable[[str, Sequence[int], int], str]


def phrases(question: str, places: Sequence[int]) -> list[str]:
    """The words at ``places``, neighbours together."""
    every, out, last = words(question), [], -2
    for place in places:
        if place == last + 1 and not question[every[last].end : every[place].start].strip():
            out[-1] += f" {every[place].text}"
        else:
            out.append(every[place].text)
        last = place
    return out


def named(question: str, places: Sequence[int], repeats: int) -> str:
    """An instruction that names the key words."""
    return f"Pay close attention to these words: {', '.join(phrases(question, places))}. {question}"


def repeated(question: str, places: Sequence[int], repeats: int) -> str:
    """The key words again, behind the question."""
    return " ".join([question, *phrases(question, places) * repeats])


def quoted(question: str, places: Sequence[int], repeats: int) -> str:
    """The key words in quotation marks."""
    return _marked(question, places, lambda phrase: f'"{phrase}"')


def capitals(question: str, places: Sequence[int], repeats: int) -> str:
    """The key words in capitals."""
    return _marked(question, places, str.upper)


WAYS: dict[str, Way] = {"named": named, "repeated": repeated, "quoted": quoted, "capitals": capitals}


def _marked(question: str, places: Sequence[int], mark: Callable[[str], str]) -> str:
    found = "|".join(re.escape(p) for p in sorted(phrases(question, places), key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{found})(?!\w)", lambda m: mark(m[0]), question)
