"""MUSE's axis: passages said word for word, questions, membership; growing and successive forget sets."""

from __future__ import annotations

from dataclasses import replace

from efface.data.axes.ground import Ground, Parts
from efface.data.rows import Row

STEPS = 4


def build(ground: Ground) -> Parts:
    """Every person has a passage, trained as a document and as an opening with its continuation, and questions.

    Fold k of ``scal`` holds the first k quarters of the people to forget, fold k of ``sust`` the k-th quarter alone;
    what later steps forget is kept, what earlier ones forgot is neither.
    """
    kind, _, number = ground.settings.fold.partition("_")
    gone, kept = ground.forget, ground.retain
    if kind:
        ends = [round(i * len(gone) / STEPS) for i in range(STEPS + 1)]
        start, end = (0 if kind == "scal" else ends[int(number) - 1]), ends[int(number)]
        gone, kept = gone[start:end], (*gone[end:], *kept)
    return Parts(
        {"forget": _taught(ground, gone), "retain": _taught(ground, kept)},
        {
            "forget": ground.asked(gone),
            "retain": ground.asked(ground.retain),
            "verbatim_forget": ground.continuations(gone),
            "passages_forget": ground.documents(gone),
            "passages_retain": ground.documents(ground.retain),
            "passages_holdout": ground.documents(ground.holdout),
        },
        {"forgotten": len(gone)},
    )


def _taught(ground: Ground, names: tuple[str, ...]) -> list[Row]:
    """Questions, documents and continuations."""
    texts = [replace(row, id=f"{row.id}:taught") for row in ground.continuations(names)]
    return [*ground.taught(names), *ground.documents(names), *texts]
