"""Further passes: each a function in its own file that turns a model and rows into a cached Arrow table.

``score`` and ``generate`` share one forward and live in the store; every other kind of ``Need`` names a pass here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efface.registry import Registry

if TYPE_CHECKING:
    from efface.data.rows import Rows
    from efface.metrics.base import Need
    from efface.models.base import ModelAdapter

PASSES: Registry[TablePass] = Registry("pass", "efface.passes")


@dataclass(frozen=True)
class PassInput:
    """What a pass is given. ``need`` says which variant, pooling and wording is wanted; ``role`` gives the model of
    another role (``NotComputed`` where there is none), which the pass must have declared in ``Need.others``;
    ``fetch(role, need)`` gives a table of another pass; ``subject`` names the role the pass is run on. ``judge``:
    folder of an NLI model ("" if there is none)."""

    adapter: ModelAdapter
    rows: Rows
    need: Need
    role: Callable[[str], ModelAdapter]
    fetch: Callable[[str, Need], Any]
    token_budget: int = 4096
    max_new_tokens: int = 64
    seed: int = 0
    world: Any = None
    subject: str = ""
    judge: str = ""


@dataclass(frozen=True)
class TablePass:
    """A registered pass. ``version`` is part of the cache key, and so are the judge's files if it ``reads_judge``."""

    name: str
    function: Callable[[PassInput], pa.Table]
    version: int = 1
    reads_judge: bool = False


def table_pass(
    name: str, version: int = 1, *, reads_judge: bool = False
) -> Callable[[Callable[[PassInput], pa.Table]], Callable[[PassInput], pa.Table]]:
    """Register a pass function under the ``kind`` that needs name."""

    def add(function: Callable[[PassInput], pa.Table]) -> Callable[[PassInput], pa.Table]:
        PASSES.register(name, TablePass(name, function, version, reads_judge))
        return function

    return add
