"""Roles: the models of an audit, loaded when a table of theirs is missing, and what changes tables besides them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.metrics.base import SECOND_REFERENCE

if TYPE_CHECKING:
    from efface.models.base import ModelAdapter
    from efface.passes.generate import GenerateSettings
    from efface.spec import AuditSpec
    from efface.suites import Suite

ROLE_TEXT = {
    "reference": "there is no reference model (retrained without the forget set)",
    "base": "there is no base model",
    SECOND_REFERENCE: f"there is no second reference model (role {SECOND_REFERENCE}: retrained with another seed)",
    "target": "there is no target model",
    "unlearned": "there is no unlearned model",
}


@dataclass
class PassSettings:
    """What changes the tables besides model and rows."""

    max_new_tokens: int = 64
    token_budget: int = 4096
    seed: int = 0
    decoding: GenerateSettings | None = None  # how answers are drawn; None: greedy
    judge: str = ""  # folder of an NLI model that judges open answers; "": there is none

    @classmethod
    def of(cls, audit: AuditSpec, suite: Suite, seed: int) -> PassSettings:
        """As the spec and the suite say."""
        longest = audit.max_new_tokens or suite.max_new_tokens
        judge = str(Path(audit.judge).expanduser()) if audit.judge else ""
        return cls(longest, audit.token_budget, seed, judge=judge)

    def judge_key(self) -> list[str]:
        """What verdicts depend on: the judge's files."""
        from efface.models.nli import nli_digest

        return [nli_digest(Path(self.judge))] if self.judge else []


@dataclass
class Role:
    """One model of the audit, loaded when a table of it is missing."""

    load: Callable[[], ModelAdapter]
    fingerprint: str = ""
    _adapter: Any = field(default=None, repr=False)

    def adapter(self) -> ModelAdapter:
        """The model."""
        if self._adapter is None:
            self._adapter = self.load()
        return self._adapter

    def key(self) -> str:
        """Weights and everything else that changes outputs."""
        from efface.passes.cache import fingerprint

        adapter = self.adapter()
        if not self.fingerprint:
            self.fingerprint = fingerprint(adapter)
        return self.fingerprint + json.dumps(adapter.identity(), sort_keys=True, default=str)

    def drop(self) -> None:
        """Free the model."""
        self._adapter = None
