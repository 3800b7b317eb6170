"""A forget corpus that the target itself writes: RWKU's setting, in which only a name is given.

Two steps, both to be seen: this one makes the target (and the reference), lets the target speak about each name, and
writes what it said with a spec that unlearns from exactly that; ``efface unlearn`` then runs the spec.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from efface import build, pipeline
from efface.data.rows import Row
from efface.engine.seeds import derive
from efface.errors import NeedsError
from efface.loading import load_data
from efface.models.base import ModelAdapter
from efface.passes.generate import GenerateSettings, generate
from efface.progress import SILENT, Progress
from efface.runs.files import write_text
from efface.settings import Settings, setting
from efface.spec import Resolved

PROMPTS = ("Please write a short biography of {name}.",)
FILE, SPEC = "corpus.jsonl", "spec.yaml"


class CorpusSettings(Settings):
    """How the target is asked about a name."""

    samples: int = setting(20, "answers per name and prompt", source="derived; RWKU published some dozens a name", ge=1)
    temperature: float = setting(1.0, "of sampling", source="RWKU's generation script", gt=0)
    max_new_tokens: int = setting(512, "longest answer in tokens", source="RWKU's generation script", ge=1)
    prompts: tuple[str, ...] = setting(
        (), "prompts with {name} (none: those of the benchmark, else RWKU's biography)", source="RWKU"
    )


def prepare(
    resolved: Resolved, out: Path, settings: CorpusSettings | None = None, progress: Progress = SILENT
) -> dict[str, Any]:
    """Write ``out/corpus.jsonl`` and ``out/spec.yaml``; {corpus, spec, names, rows, repeated}.

    The names are the ``targets`` of the benchmark. Empty answers and repeats are left out and counted. Raises
    ``NeedsError`` corpus.no-names, corpus.nothing-said.
    """
    chosen, spec = settings or CorpusSettings(), resolved.spec
    pipeline.threads(spec)
    data, _ = load_data(spec)
    names = [str(name) for name in data.facts.get("targets", ())]
    if not names:
        raise NeedsError(
            "corpus.no-names",
            f"Benchmark {data.name} with these settings names nobody to forget.",
            "use rwku, or people_axis with axis: rwku.",
        )
    base = build.base(spec, data, progress)
    made = {role: build.made(role, spec, data, base, progress) for role in ("target", "reference")}
    prompts = chosen.prompts or tuple(data.facts.get("corpus_prompts", ())) or PROMPTS
    lines, repeated = said(
        (made["target"] or base).open(spec.model), names, prompts, chosen, derive(spec.seed, "corpus"), progress
    )
    write_text(out / FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    values = spec.model_dump(mode="json")
    values["data"]["settings"] |= {"corpus": str((out / FILE).absolute())}
    if base.origin == "initialised":
        values["model"]["name"] = str(base.folder)
    for role, model in made.items():
        if model:
            values[role] |= {"kind": "folder", "path": str(model.folder.absolute())}
    write_text(out / SPEC, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    counts = {"names": len(names), "rows": len(lines), "repeated": repeated}
    return {"corpus": str(out / FILE), "spec": str(out / SPEC), **counts}


def said(
    adapter: ModelAdapter,
    names: Sequence[str],
    prompts: Sequence[str],
    settings: CorpusSettings,
    seed: int,
    progress: Progress = SILENT,
) -> tuple[list[Mapping[str, str]], int]:
    """({prompt, answer, entity} of every different answer, how many repeated an earlier one)."""
    rows = [
        Row(f"corpus:{n}:{p}", "", prompt.format(name=name), name)
        for n, name in enumerate(names)
        for p, prompt in enumerate(prompts)
    ]
    how = GenerateSettings(
        max_new_tokens=settings.max_new_tokens, samples=settings.samples, temperature=settings.temperature, seed=seed
    )
    with progress.step("the target writes the forget corpus"):
        table = generate(adapter, rows, settings=how)
    asked = {row.id: row for row in rows}
    found: dict[tuple[str, str], Mapping[str, str]] = {}
    spoken = 0
    for row, answer in zip(table["row"].to_pylist(), table["text"].to_pylist(), strict=True):
        if answer.strip():
            spoken += 1
            line = {"prompt": asked[row].prompt, "answer": answer.strip(), "entity": asked[row].entity}
            found.setdefault((line["prompt"], line["answer"]), line)
    if not found:
        raise NeedsError("corpus.nothing-said", "The target says nothing about these names.", "check the model.")
    return list(found.values()), spoken - len(found)
