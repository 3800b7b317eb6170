"""Let the target write the forget corpus itself, from names alone, and a spec that unlearns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.console import Console, emit
from efface.cli.options import DryRun, Json, Set, resolved


def command(
    spec: Annotated[Path | None, typer.Argument(help="Spec file (YAML) of the run that is to follow.")] = None,
    to: Annotated[Path, typer.Option(help="Folder for corpus.jsonl and spec.yaml.")] = Path("corpus"),
    model: Annotated[str | None, typer.Option(help="Base model.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="rwku, or people_axis with --set data.axis=rwku.")] = None,
    suite: Annotated[str | None, typer.Option(help="Suite of the audit.")] = None,
    samples: Annotated[int | None, typer.Option(help="Answers per name and prompt.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompt with {name}; may be given several times.")] = None,
    sets: Set = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> int:
    from efface import api

    given = {"samples": samples, "max_new_tokens": max_new_tokens, "prompts": tuple(prompt) if prompt else None}
    settings = {k: v for k, v in given.items() if v is not None}
    one = resolved(spec, sets, model__name=model, data__benchmark=benchmark, audit__suite=suite)
    if dry_run:
        plan = api.check(one)
        emit(plan, as_json, "\n".join(plan["lines"]))
        return 0
    found = api.corpus(one, to, settings=settings, progress=Console(quiet=as_json))
    text = (
        f"{found['rows']} answers about {found['names']} names: {found['corpus']}\nnext: efface unlearn {found['spec']}"
    )
    emit(found, as_json, text)
    return 0
