"""MUSE's selection rule (Shi et al. 2024, arXiv 2407.06460) as a pure function of a path, and the path as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from efface.methods.base import METHODS, LossMethod
from efface.settings import Settings, setting
from efface.spec import Resolved, resolve

RULE = "the earliest whose forget score is at most the reference's; otherwise the last"
CAVEAT = (
    "The choice is made on the forget rows that the audit scores too, as published: the forget score is close to the "
    "reference's by construction. `efface tune` chooses on other rows."
)
EPOCHS = {"train": {"steps": None, "epochs": 10.0, "schedule": "constant", "warmup": 0.0}}
ORIGIN = "rule of MUSE"


class SelectSettings(Settings):
    """What the rule looks at. How many epochs there are at most says ``train.epochs``."""

    metric: str = setting("muse_knowmem", "metric that must come down to the reference's value", source="MUSE: C2")
    rows: str = setting("forget", "evaluation set it is measured on", source="MUSE")
    beside: tuple[str, ...] = setting(
        ("privleak",), "metrics that are measured along the path and decide nothing", source="sheet 5: C3"
    )
    strengths: tuple[float, ...] = setting(
        tuple(2.0**k for k in range(10)),
        "strengths that are tried in this order, for a method without epochs of its own",
        source="MUSE: 1, 2, 4, 8, ...; where it ends is derived (256 was the largest chosen)",
        min_length=1,
    )


def under_rule(*layers: tuple[str, Mapping[str, Any]]) -> Resolved:
    """``layers`` resolved with what the rule asks for, which is stronger than a recipe and weaker than the user: ten
    epochs at a constant rate, so that k epochs are the beginning of ten. A method with a strength keeps its recipe."""
    method = METHODS.get(resolve(*layers).spec.method.name)
    epochs = issubclass(method, LossMethod) and not method.strength
    return resolve((ORIGIN, EPOCHS if epochs else {}), *layers)


def passes(value: float | None, limit: float) -> bool:
    """Whether the rule is content: at most the reference's value. What could not be computed does not count."""
    return value is not None and value <= limit


def choose(path: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first point that ``passes``, otherwise the last."""
    return next((point for point in path if point["passes"]), path[-1])


def markdown(found: Mapping[str, Any]) -> str:
    """The path: a row a point, target and reference first."""
    from efface.report.markdown import table

    names = list(found["reference"])
    path = [(f"{point['value']:g}", point["scores"], point is choose(found["path"])) for point in found["path"]]
    rows = [("target", found["target"], False), ("reference", found["reference"], False), *path]
    reached = "" if found["reached"] else f" None of {len(path)} came down to {found['limit']:.3f}: the last is taken."
    return "\n".join(
        [
            f"# {found['method']}: {found['setting']} {found['chosen']:g}",
            "",
            f"Rule: {found['rule']}.{reached} {CAVEAT}",
            "",
            *table(
                [found["setting"], *names],
                [[label + " (chosen)" * taken, *(_shown(s[n]) for n in names)] for label, s, taken in rows],
            ),
            *(f"- {name}: not computed, because {why}" for name, why in found["not_computed"].items()),
        ]
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
