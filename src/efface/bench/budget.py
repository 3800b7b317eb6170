"""Equal budgets: every method that trains takes the same number of steps over the same number of rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from efface.loading import load_data
from efface.methods.base import METHODS, LossMethod
from efface.spec import Resolved

EQUAL = "equal budget"
Kind = Literal["equal", "recipe"]


def budgeted(specs: Sequence[Resolved], kind: Kind) -> tuple[list[Resolved], dict[str, Any]]:
    """(specs under the budget, what it is). ``recipe`` leaves every spec as it is.

    ``equal``: the steps and the batch size that most of the methods' recipes take, the larger ones on a tie. What the
    user has set stays, for all methods alike. Methods without a loss (retraining, closed forms) have no such budget and
    are named in ``exempt``.
    """
    free = [one for one in specs if issubclass(METHODS.get(one.spec.method.name), LossMethod)]
    exempt = sorted({one.spec.method.name for one in specs} - {one.spec.method.name for one in free})
    if kind == "recipe" or not free:
        return list(specs), {"kind": "recipe", "exempt": exempt}
    rows = len(load_data(free[0].spec)[0].train.get("forget", ()))
    steps = _most([_steps(one, rows) for one in free])
    batch = _most([one.spec.train.batch_size for one in free])
    names = {one.spec.method.name for one in free}
    changed = [_with(one, steps, batch) if one.spec.method.name in names else one for one in specs]
    own = {key for one in free for key in ("train.steps", "train.batch_size", "train.epochs") if _chosen(one, key)}
    return changed, {
        "kind": "equal",
        "steps": sorted({_steps(one, rows) for one in changed if one.spec.method.name in names}),
        "batch_size": sorted({one.spec.train.batch_size for one in changed if one.spec.method.name in names}),
        "user": sorted(own),
        "exempt": exempt,
    }


def _with(resolved: Resolved, steps: int, batch: int) -> Resolved:
    """The spec with the common values wherever a recipe or a default, and not the user, had the say."""
    values: dict[str, int] = {}
    if not (_chosen(resolved, "train.steps") or _chosen(resolved, "train.epochs")):
        values["steps"] = steps
    if not _chosen(resolved, "train.batch_size"):
        values["batch_size"] = batch
    train = resolved.spec.train.model_copy(update=values)
    origins = resolved.origins | {f"train.{name}": EQUAL for name in values}
    return replace(resolved, spec=resolved.spec.model_copy(update={"train": train}), origins=origins)


def _chosen(resolved: Resolved, path: str) -> bool:
    origin = resolved.origins.get(path, "")
    return bool(origin) and origin != EQUAL and not origin.startswith("recipe ")


def _steps(resolved: Resolved, rows: int) -> int:
    """Optimizer steps of a spec, as ``engine.loop`` counts them."""
    train = resolved.spec.train
    return train.steps if train.steps is not None else math.ceil(train.epochs * rows / min(train.batch_size, rows))


def _most(values: Sequence[int]) -> int:
    """The value that occurs most often, the largest of those on a tie."""
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], value))
