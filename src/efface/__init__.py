"""Efface makes trained models forget, then tries hard to get the memory back.

Importing is instant: nothing heavy is loaded until a verb runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_WHERE = {
    "unlearn": "efface.api",
    "audit": "efface.api",
    "compare": "efface.api",
    "check": "efface.api",
    "load_run": "efface.runs.record",
    "ForgetRequest": "efface.request",
    "RunSpec": "efface.spec",
    "EffaceError": "efface.errors",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'efface' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
