"""Small files in the published formats (field names and nesting as published), made up here; for tests of loaders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def put(path: Path, rows: Any) -> None:
    """JSON by the ending: ``.jsonl`` one object a line, ``.json`` one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows, indent=1)
    path.write_text(text, encoding="utf-8")


def muse(folder: Path) -> Path:
    """As the authors' repository: lists of strings for documents, lists of objects for questions."""
    for k, n in ((1, 2), (2, 3)):
        put(folder / f"scal/forget_{k}.json", [f"Story {i} about a ferry and a fog horn." for i in range(n)])
        put(
            folder / f"sust/forget_{k}.json",
            [f"Story {i} about a ferry and a fog horn." for i in range(2 * k - 2, 2 * k)],
        )
    put(folder / "raw/forget.json", [f"Story {i} about a ferry and a fog horn." for i in range(2)])
    put(folder / "raw/retain1.json", [f"Report {i} about a mill and a drought." for i in range(3)])
    for side, split in (("forget", "forget_qa"), ("retain", "retain2_qa")):
        put(
            folder / f"knowmem/{split}.json",
            [{"question": f"What is {side} {i}?", "answer": f"{side} {i}"} for i in range(4)],
        )
        put(folder / f"knowmem/{split}_icl.json", [{"question": f"Shot {i}?", "answer": f"shot {i}"} for i in range(2)])
    put(
        folder / "verbmem/forget.json",
        [{"prompt": f"Story {i} about", "gt": "a ferry and a fog horn."} for i in range(3)],
    )
    for split in ("forget", "holdout", "retain2"):
        put(folder / f"privleak/{split}.json", [f"{split} text {i}" for i in range(3)])
    return folder


def rwku(folder: Path) -> Path:
    """As the authors' process step names its files, all people in one."""
    people = ("Stephen King", "Confucius")

    def probes(level: str, kind: str, **more: str) -> list[dict[str, str]]:
        return [
            {
                "query": f"{kind} about {p} {i}?",
                "answer": f"{kind} {i}",
                "subject": p,
                "level": level,
                "type": kind,
                **more,
            }
            for p in people
            for i in range(2)
        ]

    put(folder / "intro.json", [{"target": p, "intro": f"{p} is known."} for p in people])
    put(folder / "forget_level1.json", probes("1", "simple question"))
    put(folder / "forget_level2.json", probes("2", "direct question"))
    styles = ("affirmative suffix", "incontext learning", "role play")
    put(folder / "forget_level3.json", [row for style in styles for row in probes("3", style)])
    put(folder / "neighbor_level1.json", probes("1", "simple question", neighbor="Peter Straub"))
    put(folder / "neighbor_level2.json", probes("2", "direct question", neighbor="Peter Straub"))
    for side in ("forget", "retain"):
        put(folder / f"{side}_mia.json", [{"text": f"{side} text about {p}", "subject": p} for p in people])
    put(
        folder / "positive.json",
        [{"id": f"{p} 0", "text": f"{p} wrote a lot.", "subject": p, "intro": ""} for p in people],
    )
    put(folder / "retain_mmlu.json", [_mmlu(p) for p in people])
    put(folder / "triviaqa.json", [{"question": "Who?", "answers": ["Ann", "Ann Lee"], "subject": p} for p in people])
    mc1 = {"choices": ["true one", "false one", "false two"], "labels": [1, 0, 0]}
    put(
        folder / "truthful.json", [{"question": "Is it?", "mc1_targets": mc1, "mc2_targets": mc1, "subject": people[0]}]
    )
    return folder


def _mmlu(person: str) -> dict[str, Any]:
    solved = {"question": "One?", "choices": ["a", "b", "c", "d"], "answer": 2}
    asked = {"question": "Two?", "choices": ["e", "f", "g", "h"], "answer": 1, "task": "college_law"}
    return {**asked, "examples": [solved], "subject": person}


def wmdp(folder: Path) -> Path:
    """Questions as the hub's configurations, corpora as the unpacked archive."""
    questions = [{"question": f"Q{i}?", "choices": ["w", "x", "y", "z"], "answer": i % 4} for i in range(3)]
    put(folder / "wmdp-cyber/test.json", questions)
    for side in ("forget", "retain"):
        lines = [{"text": f"{side} line {i} " + "with enough words to count as a line " * 2} for i in range(3)]
        put(folder / f"cyber-{side}-corpus.jsonl", [*lines, {"text": "short"}])
    put(
        folder / "mmlu.json",
        [{"question": "M?", "choices": ["a", "b", "c", "d"], "answer": 3, "subject": "high_school_law"}],
    )
    return folder


def knowundo(folder: Path) -> Path:
    """One object a file, with the lists train and val."""
    for split in ("unlearn", "retention"):
        parts = {
            p: [{"text": f"{split} {p} {i}?", "labels": f"{split} answer {i}."} for i in range(2)]
            for p in ("train", "val")
        }
        put(folder / f"privacy/{split}.json", parts)
    return folder


def lume(folder: Path) -> Path:
    """The repository's two files, and membership documents as the challenge has them."""
    for half in ("forget", "retain"):
        rows = []
        for task in ("Task1", "Task2", "Task3"):
            rows += [
                {
                    "id": f"{half}{task}sc1",
                    "input": f"The {half} {task}",
                    "output": "went on to the end.",
                    "task": task,
                },
                {"id": f"{half}{task}qa0", "input": f"Who is {half} {task}?", "output": "Nobody", "task": task},
            ]
        put(folder / f"{half}.jsonl", rows)
    for name in ("member", "nonmember"):
        put(folder / f"mia_data/{name}.jsonl", [{"id": str(i), "document": f"{name} document {i}"} for i in range(2)])
    return folder


def pistol(folder: Path) -> Path:
    """Edges A_B, A_C, B_D and E_F, two questions each; general knowledge beside them."""
    rows = [
        {"question": f"What {i} of {edge}?", "answer": f"{edge} {i}.", "edge": edge}
        for edge in ("A_B", "A_C", "B_D", "E_F")
        for i in range(2)
    ]
    put(folder / "sample_data_1.json", rows)
    put(folder / "factual_data.json", [{"question": "Who wrote it?", "answer": "Somebody"}])
    return folder


def pch(folder: Path) -> Path:
    """Four texts to forget, two to keep, a question to each."""
    put(folder / "PCH.jsonl", [{"text": f"Text {i} about somebody."} for i in range(6)])
    put(folder / "PCH_QA.jsonl", [{"question": f"Who is {i}?", "answer": f"Somebody {i}."} for i in range(6)])
    return folder


def whp(folder: Path) -> Path:
    """The layout the loader asks for; nothing of the kind was published."""
    put(
        folder / "familiarity.jsonl",
        [{"prompt": "He went to", "told": ["Hogwarts", "Azkaban"], "generic": ["school", "bed"]}],
    )
    put(folder / "completions.jsonl", [{"prompt": "Tell of him.", "references": ["A wizard with a scar.", "A boy."]}])
    put(folder / "forget.jsonl", [{"text": "The boy who lived."}])
    put(folder / "retain.jsonl", [{"text": "Another book."}])
    return folder
