"""PCH's axis: one request a person, fulfilled one after another; a text and questions for each."""

from __future__ import annotations

from efface.data.axes.ground import Ground, Parts


def build(ground: Ground) -> Parts:
    """Requests ``since`` to ``upto`` go in this step. Forget side: all asked for so far; retain side: all others."""
    since, upto = ground.settings.since, ground.settings.upto or len(ground.forget)
    now, so_far, kept = ground.forget[since:upto], ground.forget[:upto], (*ground.forget[upto:], *ground.retain)
    return Parts(
        {side: ground.taught(names) + ground.documents(names) for side, names in (("forget", now), ("retain", kept))},
        {
            "forget": ground.asked(so_far),
            "retain": ground.asked(kept),
            "text_forget": ground.documents(so_far),
            "text_retain": ground.documents(kept),
        },
        {"requests": len(so_far)},
    )
