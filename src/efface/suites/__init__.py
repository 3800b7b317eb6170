"""Suites: versioned lists of evaluation sets, metrics and attacks. YAML files; ``load`` reads one."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

from efface.errors import SpecError, nearest
from efface.plain_yaml import BadYaml, parse_plain, read_plain
from efface.settings import Settings, parse, setting

LABEL = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,80}")


class AttackEntry(Settings):
    """One attack of a suite. ``label`` tells two uses of the same attack apart."""

    name: str = setting(..., "attack (`efface list attacks`)")
    label: str = setting("", "name in the record, also of its folder (none: the attack's name)")
    settings: dict[str, Any] = setting({}, "settings of the attack")


class Suite(Settings):
    """What an audit computes. Two runs compare only under the same suite and version."""

    name: str = setting(..., "name of the suite")
    version: int = setting(1, "raised whenever numbers would change")
    modality: str = setting("text", "text or image")
    about: str = setting("", "one line")
    benchmark: str = setting("", "benchmark whose rows it is made for, taken where no data is named")
    methods: list[str] = setting([], "methods that `efface bench methods` compares where none are named")
    metrics: dict[str, list[str]] = setting(
        ..., "metrics by evaluation set; the set `all` holds metrics that name their own sets"
    )
    attacks: list[AttackEntry] = setting([], "attacks, cheapest information first")
    attack_metrics: list[str] = setting(
        ["probability"], "metrics measured along every recovery curve; the first is the headline"
    )
    max_new_tokens: int = setting(64, "longest greedy answer, in tokens", ge=1)


def names() -> list[str]:
    """Built-in suites."""
    return sorted(entry.name[:-5] for entry in resources.files(__package__).iterdir() if entry.name.endswith(".yaml"))


def load(name: str) -> Suite:
    """A built-in suite by name, or a YAML file.

    Raises ``SpecError``: suite.missing-file, suite.unknown, suite.bad-yaml, suite.bad-label, spec.unknown-setting,
    spec.bad-value.
    """
    suite = parse(Suite, _values(name), "suite")
    _check_labels(suite)
    return suite


def _values(name: str) -> Any:
    """What the file of a suite holds."""
    path = Path(name)
    own = path.suffix in (".yaml", ".yml")
    if own and not path.is_file():
        raise SpecError("suite.missing-file", f"There is no suite file {path}.", "check the path.")
    if not own and name not in names():
        raise SpecError("suite.unknown", f"There is no suite called {name!r}.", nearest(name, names()))
    try:
        if own:
            return read_plain(path)
        return parse_plain((resources.files(__package__) / f"{name}.yaml").read_text(encoding="utf-8"))
    except BadYaml as error:
        raise SpecError(
            "suite.bad-yaml", f"Suite {name} is not readable YAML: {error}.", "fix what is named above."
        ) from None


def _check_labels(suite: Suite) -> None:
    """Labels become folders of the record, one for each attack."""
    used: set[str] = set()
    for entry in suite.attacks:
        for label in filter(None, (entry.name, entry.label)):
            if not LABEL.fullmatch(label):
                raise SpecError(
                    "suite.bad-label",
                    f"Suite {suite.name}: {label[:100]!r} cannot name an attack in the record.",
                    "use letters, digits, `_`, `.` and `-`, no dot in front, at most 80 characters.",
                )
        label = (entry.label or entry.name).casefold()  # some disks take upper and lower case for the same
        if label in used:
            raise SpecError(
                "suite.bad-label",
                f"Suite {suite.name}: two attacks are called {entry.label or entry.name!r}.",
                "give one of them a label of its own.",
            )
        used.add(label)
