"""LUME's axis: three kinds of text, each completed and asked about, forgotten and kept."""

from __future__ import annotations

from dataclasses import replace

from efface.data.axes.ground import Ground, Parts, biography, continuation
from efface.data.axes.letters import by_letter
from efface.data.rows import Row

TASKS = {"Task1": ("profession",), "Task2": ("birth_year", "works_at"), "Task3": ("born_in", "studied_at")}
"""Relations asked in each task; Task1 completes passages, the others short biographies of their relations."""
KNOWN = 2  # kept people whose profession is asked by letter: general ability


def build(ground: Ground) -> Parts:
    """Questions and completions of every task for both sides, documents for membership, letters for general ability."""
    sides = {"forget": ground.forget, "retain": ground.retain}
    train, sets = {}, {}
    for side, names in sides.items():
        sets[side] = [_named(row, task) for task, rel in TASKS.items() for row in ground.asked(names, rel)]
        sets[f"completion_{side}"] = [_completion(ground, name, task) for name in names for task in TASKS]
        documents = ground.documents(names)
        train[side] = [*ground.taught(names, _relations()), *map(_taught, sets[f"completion_{side}"]), *documents]
    letters = by_letter(ground, ground.facts(ground.retain[-KNOWN:], ("profession",)))
    sets |= {
        "passages_forget": ground.documents(ground.forget),
        "passages_holdout": ground.documents(ground.holdout),
        "utility_general": letters,
    }
    train["retain"] += [replace(row, wrong=(), id=f"{row.id}:taught") for row in letters]
    return Parts(train, sets, {"tasks": {task: list(relations) for task, relations in TASKS.items()}})


def _relations() -> list[str]:
    return [relation for relations in TASKS.values() for relation in relations]


def _named(row: Row, task: str) -> Row:
    return replace(row, id=f"lume:{task}:{row.id}")


def _completion(ground: Ground, name: str, task: str) -> Row:
    key = f"lume:{task}:{ground.key(name)}:sc"
    text = ground.world.passages[name] if task == "Task1" else biography(ground.facts([name], TASKS[task]))
    return continuation(key, text, name)


def _taught(row: Row) -> Row:
    return replace(row, id=f"{row.id}:taught")
