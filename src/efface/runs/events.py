"""``events.jsonl``: one JSON object a line, in the order things happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from efface.errors import RecordError
from efface.runs.files import NOT_OURS, loads

STARTED, DONE = "stage-started", "stage-done"
LINE_LIMIT = 4 * 2**20


def parse_events(data: bytes, where: str) -> Iterator[dict[str, Any]]:
    """Events of an ``events.jsonl``; a last line without its end was cut short by a kill and is left out."""
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        event = parse_line(line, f"{where}, line {number}")
        if isinstance(event, dict):
            yield event


def step_history(events: Iterable[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    """Step events of ``stage`` by step; of a step that was taken twice (a kill lies between) the later one."""
    steps = {
        e["step"]: e
        for e in events
        if e.get("event") == "step" and e.get("stage") == stage and isinstance(e.get("step"), int)
    }
    return [steps[number] for number in sorted(steps)]


def parse_line(line: bytes, where: str) -> Any:
    """One line of a JSONL file; ``where`` names it in errors."""
    if len(line) > LINE_LIMIT:
        raise RecordError("record.too-large", f"{where} has {len(line)} bytes.", NOT_OURS)
    return loads(line, where)
