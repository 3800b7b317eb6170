"""What is searched: settings and their ranges, as in ``train.lr=log:1e-5:2e-4``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from efface.engine.rules.base import RULES
from efface.errors import SpecError, nearest
from efface.merging import merge_into, nested
from efface.methods.base import METHODS, LossMethod
from efface.settings import parse
from efface.spec import Resolved, RunSpec

KINDS = ("log", "lin", "int", "choice")
WIDE, NARROW = 5.0, 2.0  # default ranges: a fifth to five times, half to twice the value at hand
FORM = "write path=kind:low:high with kind log, lin or int, or path=choice:a,b, e.g. train.lr=log:1e-5:2e-4."


@dataclass(frozen=True)
class Range:
    """One setting. ``kind``: ``log`` and ``lin`` are real, ``int`` whole numbers, ``choice`` is one of ``options``."""

    path: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    options: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"{self.path}=choice:{','.join(map(str, self.options))}"
        return f"{self.path}={self.kind}:{self.low:g}:{self.high:g}"

    def distribution(self) -> Any:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.options)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.kind == "log")

    def edges(self) -> list[Any]:
        """Values that must be allowed if the whole range is."""
        if self.kind == "choice":
            return list(self.options)
        return [int(v) if self.kind == "int" else v for v in (self.low, self.high)]


def parse_space(texts: Sequence[str]) -> list[Range]:
    """Ranges from their texts. Raises ``SpecError`` "tune.bad-space"."""
    ranges = [_range(text) for text in texts]
    if len({r.path for r in ranges}) < len(ranges):
        raise SpecError("tune.bad-space", "--space names a setting twice.", "give each setting one range.")
    return ranges


def _range(text: str) -> Range:
    path, equals, rest = (part.strip() for part in text.partition("="))
    kind, _, values = rest.partition(":")
    if not equals or path.split(".")[0] not in ("train", "method") or path.count(".") < 1:
        raise SpecError("tune.bad-space", f"--space {text!r}: settings of train and method can be searched.", FORM)
    if kind not in KINDS:
        raise SpecError("tune.bad-space", f"--space {text!r}: no kind {kind!r}.", nearest(kind, KINDS))
    if kind == "choice":
        options = tuple(yaml.safe_load(v) for v in values.split(",") if v)
        if len(options) < 2:
            raise SpecError("tune.bad-space", f"--space {text!r}: fewer than two choices.", FORM)
        return Range(path, kind, options=options)
    try:
        low, high = (float(v) for v in values.split(":"))
    except ValueError:
        raise SpecError("tune.bad-space", f"--space {text!r}: not two numbers.", FORM) from None
    if not low < high or (kind == "log" and low <= 0) or (kind == "int" and (low % 1 or high % 1)):
        raise SpecError("tune.bad-space", f"--space {text!r}: not a range of that kind.", FORM)
    return Range(path, kind, low, high)


def default_space(resolved: Resolved) -> list[Range]:
    """Learning rate (a fifth to five times), steps (half to twice), retain weight where the method has a retain term,
    and the method's real-valued settings: those that the recipe or the user names, else all that are above 0.

    Raises ``SpecError`` "tune.no-default" for a method without a loss, which has nothing of this kind.
    """
    cls, train = METHODS.get(resolved.spec.method.name), resolved.spec.train
    if not issubclass(cls, LossMethod):
        raise SpecError(
            "tune.no-default",
            f"{resolved.spec.method.name} does not train with a loss, so there is no default space for it.",
            "name what is searched, e.g. --space method.alpha=log:1:100.",
        )
    method = cls(**resolved.spec.method.settings)
    space = [Range("train.lr", "log", train.lr / WIDE, train.lr * WIDE)]
    if train.steps:
        space.append(Range("train.steps", "int", max(1, round(train.steps / NARROW)), round(train.steps * NARROW)))
    if method.needs.retain and train.retain_weight > 0:
        space.append(Range("train.retain_weight", "log", train.retain_weight / WIDE, train.retain_weight * WIDE))
    values = {k: v for k, v in method.settings if isinstance(v, float) and v > 0}
    named = {k: v for k, v in values.items() if k in resolved.spec.method.settings} or values
    space += [Range(f"method.{k}", "log", v / WIDE, v * WIDE) for k, v in named.items()]
    return [r for r in space if _allowed(resolved.spec, r)]


def _allowed(spec: RunSpec, one: Range) -> bool:
    try:
        check_space(spec, [one])
    except SpecError:
        return False
    return True


def check_space(spec: RunSpec, space: Sequence[Range]) -> None:
    """Refuse settings that do not exist, and ranges that a setting does not allow at its ends."""
    for one in space:
        for value in one.edges():
            changed = applied(spec, {one.path: value})
            method = METHODS.get(spec.method.name)(**changed.method.settings)
            named = changed.train.rule or getattr(method, "update_rule", "sum")
            _check_rule(one, named, changed, [r for r in space if r.path == "train.rule"])


def _check_rule(one: Range, named: str, changed: RunSpec, rules: Sequence[Range]) -> None:
    """The rule must exist; a setting of the rule must be one of a rule that a trial may have."""
    RULES.get(named)
    if not one.path.startswith("train.rule_settings."):
        return
    tried = [str(value) for r in rules for value in r.edges()] or [named]
    for i, name in enumerate(tried):
        try:
            RULES.get(name)(**changed.train.rule_settings)
            return
        except SpecError:
            if i == len(tried) - 1:
                raise


def applied(spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
    """``spec`` with other values; ``method.X`` is ``method.settings.X``."""
    dumped = spec.model_dump(mode="json")
    for path, value in values.items():
        keys = path.split(".")
        if keys[0] == "method":
            keys.insert(1, "settings")
        merge_into(dumped, nested(keys, value))
    changed: RunSpec = parse(RunSpec, dumped, "")
    return changed
