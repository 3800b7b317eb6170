"""YAML of anybody's: plain values only. A small file cannot unfold to a large one, and every failure is one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LIMIT = 2**20
OBJECTS = ("binary", "omap", "pairs", "set")  # tags whose values JSON does not know


class BadYaml(ValueError):
    """The text or file is no plain YAML; the message is one line and says why."""


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, which let a small file unfold to any size; a date stays the text that it was written as."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            at = self.peek_event().start_mark
            raise yaml.YAMLError(f"line {at.line + 1}: aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def date(self, node: Any) -> str:
        self.construct_yaml_timestamp(node)  # one that cannot be is refused
        return node.value


_PlainLoader.add_constructor("tag:yaml.org,2002:timestamp", _PlainLoader.date)
for tag in OBJECTS:
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{tag}", yaml.SafeLoader.construct_undefined)


def parse_plain(text: str) -> Any:
    """The value of a YAML document: mappings, lists, texts, numbers, booleans, null."""
    if len(text) > LIMIT:
        raise BadYaml(f"it has {len(text)} characters; at most {LIMIT} are read")
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise BadYaml("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:  # ValueError: 2024-13-45, a number of 5,000 digits
        raise BadYaml(_why(error)) from None


def read_plain(path: Path) -> Any:
    """The value of a YAML file in UTF-8."""
    if (size := path.stat().st_size) > LIMIT:
        raise BadYaml(f"it has {size} bytes; at most {LIMIT} are read")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadYaml("it is not UTF-8") from None
    return parse_plain(text)


def _why(error: Exception) -> str:
    """What is wrong, and in which line, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    said = f"line {mark.line + 1}: {problem}" if mark and problem else str(error)
    return (said.splitlines() or [type(error).__name__])[0][:200]
