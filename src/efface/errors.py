"""Errors that teach: each has a stable code, a cause and a fix.

The command line shows them without a traceback; a Python caller catches ``EffaceError``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EffaceError(Exception):
    """Base of every error Efface raises on purpose.

    ``code`` is stable and documented (``docs/errors.md``); ``cause`` says what is wrong, naming the file, line or
    setting; ``fix`` says what to do about it.
    """

    exit_code = 1

    def __init__(self, code: str, cause: str, fix: str = "") -> None:
        self.code, self.cause, self.fix = code, cause, fix
        super().__init__(f"[{code}] {cause}" + (f" Fix: {fix}" if fix else ""))

    def to_json(self) -> dict[str, str]:
        """The error as the ``--json`` output of a verb."""
        return {"error": self.code, "cause": self.cause, "fix": self.fix}


class SpecError(EffaceError):
    """A setting, name or spec file is wrong."""


class DataError(EffaceError):
    """A data file or forget request is wrong."""


class ModelError(EffaceError):
    """A model folder, tokenizer or download is wrong."""


class NeedsError(EffaceError):
    """A component was handed something it cannot work on (missing retain set, wrong family, ...)."""


class RecordError(EffaceError):
    """A run directory is incomplete, foreign or was changed."""


class RunFailed(EffaceError):
    """The run itself failed (non-finite loss, no disk space); what was good is kept."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that follows an unknown name: the near miss if there is one, then the full list."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(options) or 'none'}."
