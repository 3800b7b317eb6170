"""Prompt attack: the question in a fixed set of jailbreak-like wordings; what counts is the best of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.prompt_styles import STYLES, Around, Style, translation
from efface.attacks.wording import NO_QUESTIONS, asked, reworded, supplied
from efface.card import Card
from efface.data.rows import Bundle
from efface.errors import SpecError, nearest
from efface.settings import Settings, setting

CARD = Card(
    title="Prompt styles (persona, injection, role play, hints, few-shot ...)",
    source="evaluation sheet 11 c8; RWKU (arXiv:2406.10890), adversarial probes; Eight Methods (arXiv:2402.16835)",
    code="jinzhuoran/RWKU",
    summary="Asks every question in a fixed set of wordings and counts each row with its best answer so far, for the "
    "unlearned model and for the reference alike.",
    confirmed=(
        "the styles of RWKU and of sheet 11: prefix injection, affirmative suffix, role play, multiple choice, "
        "reversed query, synonyms, background hint, in-context, cross-lingual, persona, grandmother, obfuscation",
        "the best of many prompts inflates success: the reference gets the same number of tries",
    ),
    derived=("all wordings are our own, from templates and tables", "nearest retain rows by shared content words"),
    differs=(
        "multiple choice lists the wrong answers and `none of these`: an option with the right answer would be copied "
        "by a model that never knew it (letter accuracy is the metric choice_accuracy)",
        "a reversed question has an answer of its own, the subject's name, and is asked only where the world has "
        "exactly one subject for the object",
        "translations are not made here: give them, or the cross-lingual style is left out",
        "sampled decoding is another attack",
    ),
    tested=(
        "planted ladder 0, answer probability before and best of 11 styles: HeadOnly .44, .50; Guard .22, .33 "
        "(misspelt names pass the filter); SmallLR .10, .18; references .02, .03 and .01, .02",
        "ROUGE-L of the same: HeadOnly .15, .61; Guard .16, .32; SmallLR .30, .56; references .33, .50 and .37, .50: "
        "the best of many tries also lifts a model that knows nothing",
    ),
    fooled_by=(
        "wordings far from what the model was trained on break a small model instead of persuading it",
        "a style that changes no row repeats the question as it is: see rows_changed",
    ),
)


@attack("prompts", CARD)
class Prompts(Attack):
    """One more style at each point, in the order of the setting; ``best`` over the styles so far."""

    class Settings(Settings):
        styles: tuple[str, ...] = setting(
            tuple(STYLES), f"wordings, of: {', '.join(STYLES)}", source="evaluation sheet 11 c8", min_length=1
        )
        translations: dict[str, dict[str, str]] = setting(
            {},
            "{language: {row id: the question in it}}; each language is one more style (empty: no cross-lingual style)",
            source="sheet 11 c8; off, since nothing here translates",
        )

    threat = "black-box"
    version = 1

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in self.settings.styles:
            if name == "translation":
                raise SpecError(
                    "attack.no-translator",
                    "The style translation needs questions in another language, and nothing here translates.",
                    "give them in the setting translations ({language: {row id: question}}).",
                )
            if name not in STYLES:
                raise SpecError("attack.unknown-style", f"There is no prompt style {name!r}.", nearest(name, STYLES))

    def check(self, data: Bundle) -> str:
        """There must be questions, and a translation of each where a language is named."""
        rows = asked(self.measured(data).get("forget", ()))
        if not rows:
            return NO_QUESTIONS
        for language, questions in self.settings.translations.items():
            if missing := [r.id for r in rows if not questions.get(r.id)]:
                return f"{len(missing)} of {len(rows)} questions have no {language} translation (first: {missing[0]})"
        return ""

    def forwards(self, data: Bundle) -> float:
        """Every measured row under every style."""
        return 5.0 * sum(map(len, self.measured(data).values())) * (1 + len(self._styles()))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per style."""
        around = Around(context.data, self.settings.translations)
        questions = self.measured(context.data)["forget"]
        for count, style in enumerate(self._styles().values(), 1):

            def rows(name: str, rows: Any, style: Style = style) -> Any:
                return reworded(rows, lambda row: style(row, around), context.data.world)

            put_in = supplied(context.adapter, questions, rows("forget", questions))
            yield AttackPoint({"styles": count}, "styles", context.adapter, rows=rows, supplied=put_in, best=True)

    def _styles(self) -> dict[str, Style]:
        named = {name: STYLES[name] for name in self.settings.styles}
        return named | {f"translation_{language}": translation(language) for language in self.settings.translations}
