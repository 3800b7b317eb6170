"""Base, target and reference models: found or made once, and kept in the cache under what they were made from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.data.rows import Bundle, Rows, digest_rows
from efface.engine.distribution import world
from efface.errors import NeedsError
from efface.models.base import ModelAdapter
from efface.models.cachedir import cache_root, publish
from efface.models.open import open_model
from efface.progress import SILENT, Progress
from efface.spec import ModelSpec, RunSpec, SourceSpec

RECIPE_VERSION = 1  # raised when the same settings would no longer give the same weights


@dataclass(frozen=True)
class Made:
    """A model on disk. ``origin`` says where it came from; ``key`` names what it was made from; ``revision`` is the
    hub's commit or the hash of the GGUF file, where there is one."""

    folder: Path
    origin: str
    key: str
    built: bool = False
    summary: dict[str, Any] | None = None
    revision: str = ""

    def to_json(self) -> dict[str, Any]:
        """What the provenance of a run says of it."""
        known = {"origin": self.origin, "key": self.key, "made": self.summary}
        return known | ({"revision": self.revision} if self.revision else {})

    def open(self, model: ModelSpec) -> ModelAdapter:
        """Load it."""
        return open_model(
            self.folder, template=model.template, compute=model.compute, device=model.device, context=model.context
        )


def base_is_target(spec: RunSpec) -> bool:
    """Whether the "base" model is the very one to be unlearned: no target is named, or the target is its folder. Then
    nothing is at hand that never saw the forget rows."""
    target = spec.target
    if target.kind == "folder" and target.path:
        return Path(target.path).expanduser().resolve() == Path(spec.model.name).expanduser().resolve()
    return target.kind == "none"


def base(spec: RunSpec, data: Bundle, progress: Progress = SILENT) -> Made:
    """The model before any fine-tuning. ``tiny`` and ``cnn`` are initialised from the seed; others are resolved."""
    name = spec.model.name
    if name in ("tiny", "cnn"):
        return _initialised(spec, data)
    from efface.models.sources import resolve

    found = resolve(name, progress=progress)
    return Made(found.folder, found.origin, found.sha256, revision=found.revision)


def made(
    role: str,
    spec: RunSpec,
    data: Bundle,
    start: Made,
    progress: Progress = SILENT,
    log: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Made | None:
    """The target ("target": trained on forget and retain rows) or a reference ("reference", "reference_2": on retain
    rows only).

    None if the spec says there is none (``refusing.refuse_early`` has looked at the spec). Made once: the folder's name
    is a hash of the base model, the rows, the training settings and the seed. A build that was killed goes on from its
    last checkpoint.
    """
    source: SourceSpec = _second(spec) if role == "reference_2" else getattr(spec, role)
    if source.kind == "none":
        return None
    if source.kind == "folder":
        folder = Path(str(source.path)).expanduser()
        return Made(folder, "folder", str(folder.absolute()))
    rows: Rows = (
        [*data.train.get("forget", ()), *data.train["retain"]] if role == "target" else list(data.train["retain"])
    )  # type: ignore[list-item]
    return trained(role, spec, rows, source, start, progress, log)


def _second(spec: RunSpec) -> SourceSpec:
    """The second reference: trained as the first, with another seed."""
    own, first = spec.reference_2, spec.reference
    seed = (spec.seed if first.seed is None else first.seed) + 1 if own.seed is None else own.seed
    return first.model_copy(update={"kind": own.kind, "path": own.path, "seed": seed})


def trained(
    label: str,
    spec: RunSpec,
    rows: Rows,
    source: SourceSpec,
    start: Made,
    progress: Progress = SILENT,
    log: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Made:
    """``start`` fine-tuned on ``rows``, from the cache if it is there."""
    seed = spec.seed if source.seed is None else source.seed
    parts = [
        RECIPE_VERSION,
        start.key,
        digest_rows(rows),
        source.train.model_dump(mode="json", exclude={"token_budget", "checkpoint_every"})
        | {"rule": source.train.rule or "sum"},
        source.train.token_budget,
        seed,
        spec.model.model_dump(mode="json", exclude={"name", "device"}),
    ]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    folder, work = cache_root() / "models" / key[:32], cache_root() / "work" / key[:32]
    built = not folder.is_dir()
    if built and world()[1] > 1:  # they would wait for the lock and for each other's gradients
        raise NeedsError(
            "models.one-process",
            f"The {label} model is not in the cache, and several processes cannot build it together.",
            "make it first with one process, e.g. run the same command without a launcher, or name a folder.",
        )

    def make(empty: Path) -> None:
        from efface.engine.finetune import fit

        adapter = start.open(spec.model)
        summary = fit(
            adapter, rows, source.train, seed=seed, label=f"train {label}", progress=progress, checkpoints=work, log=log
        )
        adapter.save(empty)
        (empty / "made.json").write_text(json.dumps({"rows": len(rows), "seed": seed, **summary}))

    publish(folder, make)
    shutil.rmtree(work, ignore_errors=True)
    return Made(folder, "trained", key, built, json.loads((folder / "made.json").read_text()))


def _initialised(spec: RunSpec, data: Bundle) -> Made:
    size = spec.model.tiny.model_dump()
    parts = [RECIPE_VERSION, spec.model.name, size, spec.seed, data.digest()]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def make(empty: Path) -> None:
        if spec.model.name == "cnn":
            from efface.models.classifier import initialise

            initialise(data, empty, seed=spec.seed)
            return
        from efface.models.tiny import tiny_folder

        # evaluation rows too: a name that the tokenizer never saw falls to pieces, and looks unfamiliar for that alone
        texts = [
            text
            for half in (data.train, data.eval)
            for _, rows in sorted(half.items())
            for row in rows
            for text in (row.prompt, row.answer)
        ]
        tiny_folder(texts, empty, spec.seed, **size)

    return Made(publish(cache_root() / "models" / key[:32], make), "initialised", key)
