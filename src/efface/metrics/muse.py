"""MUSE's text scores at the lengths its protocol fixes. C3 is ``privleak`` on passages; C5 and C6 are schedules."""

from __future__ import annotations

from efface.card import Card
from efface.metrics.base import Need, PerRow, Tables, metric
from efface.metrics.generation import MUSE, SILENT, STOPS, rouge_l
from efface.metrics.protocols import DIRECTIONS, continued, in_full, score_texts

MUSE_CODE = "jaechan-repo/muse_bench (read at 54719c5)"
SHORT, LONG = continued(32), continued(128)


@metric(
    "muse_knowmem",
    needs=[SHORT, Need("score")],
    directions=DIRECTIONS,
    card=Card(
        "Knowledge memorisation (MUSE C2 on forget, C4 on retain)",
        MUSE,
        MUSE_CODE,
        "ROUGE-L F1, not stemmed, of at most 32 greedy tokens, cut at the first blank line or next question. The rows "
        "carry the prompt, few-shot block included.",
        confirmed=("32 new tokens, greedy, no stemmer, the three stop strings",),
        differs=(
            "0 to 1 rather than 0 to 100",
            "full precision; the published runs generated in int8",
        ),
        fooled_by=(
            SILENT,
            "a refusal",
            "an answer that comes after 32 tokens of politeness",
            "gold answers longer than 32 tokens, which no text of 32 reaches: MUSE's are shorter",
        ),
    ),
)
def muse_knowmem(tables: Tables) -> PerRow:
    """MUSE's answer score per row."""
    score = rouge_l(part="fmeasure", stemmer=False)
    return score_texts(tables, SHORT, lambda gold, text: score(gold, STOPS.split(text, maxsplit=1)[0]), in_full(tables))


@metric(
    "muse_verbmem",
    needs=[LONG],
    directions=DIRECTIONS,
    card=Card(
        "Verbatim memorisation (MUSE C1)",
        MUSE,
        MUSE_CODE,
        "ROUGE-L F1, not stemmed, of 128 greedy tokens after the opening of a forget passage, against its true "
        "continuation cut to its first 128 tokens.",
        confirmed=("128 new tokens, greedy, no stemmer, gold cut by the model's own tokenizer",),
        differs=(
            "0 to 1 rather than 0 to 100",
            "the published code counts the start token among the 128 of the gold text; here 128 are text",
        ),
        fooled_by=(SILENT, "a passage that anyone would continue like this: compare with the reference"),
    ),
)
def muse_verbmem(tables: Tables) -> PerRow:
    """MUSE's continuation score per row."""
    return score_texts(tables, LONG, rouge_l(part="fmeasure", stemmer=False))
