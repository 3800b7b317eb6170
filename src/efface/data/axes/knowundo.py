"""KnowUnDo's axis: of the same people some attributes are to be unlearnt and others must be kept."""

from __future__ import annotations

from efface.data.axes.ground import Ground, Parts

PRIVATE = ("birth_year", "dish")


def build(ground: Ground) -> Parts:
    """Private attributes of the people to forget go; their others (set neighbour) and all of other people stay."""
    private = [r for r in ground.relations if r in PRIVATE]
    public = [r for r in ground.relations if r not in PRIVATE]
    return Parts(
        {
            "forget": ground.taught(ground.forget, private),
            "retain": ground.taught(ground.forget, public) + ground.taught(ground.retain),
        },
        {
            "forget": ground.asked(ground.forget, private),
            "neighbour": ground.asked(ground.forget, public),
            "retain": ground.asked(ground.forget, public) + ground.asked(ground.retain),
            "holdout": ground.asked(ground.holdout, private),
        },
        {"private": private, "public": public},
    )
