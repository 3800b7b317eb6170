"""The model hub: its cache on this machine, and fetching a model, without a long wait where there is no network."""

from __future__ import annotations

import os
import queue
import re
import threading
from pathlib import Path
from typing import Any

from efface.errors import ModelError
from efface.models.cachedir import disk_full, is_disk_full, size
from efface.models.folder_check import check_folder, pickle_only, pickles
from efface.progress import Progress

MOVE_HUB_CACHE = "free some space, or set HF_HOME to a folder on a larger disk."
ASK_SECONDS = 4.0  # the whole wait for an answer, name look-up included; the client's own limit does not cover that
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model", "spiece.model"]
UNWANTED = ["*/*", "consolidated*"]


class Unavailable(Exception):
    """A model cannot be had from one place; the message completes "<place>: ...". The next place is tried."""


def cached(hub_id: str) -> Path:
    """The complete copy of ``hub_id`` in the hub's cache on this machine; otherwise ``Unavailable``."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except LocalEntryNotFoundError:
        raise Unavailable("no copy") from None
    try:
        check_folder(folder)
    except ModelError as error:
        raise Unavailable(f"the copy is not complete ({error.cause})") from error
    return folder


def download(hub_id: str, progress: Progress) -> Path:
    """Fetch ``hub_id`` into the hub's cache: safetensors, JSON and tokenizer files only, of one commit.

    Raises ``Unavailable`` where the hub is off, out of reach or does not have it; ``ModelError`` ``model.pickle-only``
    or ``model.no-weights`` before anything is fetched; ``RunFailed`` ``disk.full``.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise Unavailable("HF_HUB_OFFLINE is set")
    info = _ask(hub_id)
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
    _check_listing(hub_id, list(sizes))
    total = sum(amount for name, amount in sizes.items() if name.endswith(".safetensors") and "/" not in name)
    progress.note(f"Fetching {hub_id} from the hub ({size(total)}).")
    try:
        with progress.step(f"fetching {hub_id}"), _without_bars():
            return Path(snapshot_download(hub_id, revision=info.sha, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except Exception as error:  # the HTTP library behind the client is not the same in all its versions
        if is_disk_full(error):
            raise disk_full(Path(HF_HUB_CACHE), total, MOVE_HUB_CACHE) from error
        raise Unavailable(f"the download broke off ({_line(error)})") from error


def _ask(hub_id: str) -> Any:
    """What the hub knows of ``hub_id``. In a thread of its own, because nothing else limits a slow name look-up."""
    from huggingface_hub import HfApi

    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(HfApi().model_info(hub_id, timeout=ASK_SECONDS, files_metadata=True))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="efface-hub").start()
    try:
        answer = answers.get(timeout=ASK_SECONDS)
    except queue.Empty:
        raise Unavailable(f"no answer within {ASK_SECONDS:.0f} s") from None
    if isinstance(answer, Exception):
        raise Unavailable(_line(answer)) from answer
    return answer


def _check_listing(hub_id: str, names: list[str]) -> None:
    top = [name for name in names if "/" not in name]
    if any(name.endswith(".safetensors") for name in top):
        return
    if pickles(top):
        raise pickle_only(hub_id, pickles(top)[0])
    raise ModelError(
        "model.no-weights",
        f"{hub_id} has no safetensors files.",
        "give another model, or fetch a GGUF file and give its path.",
    )


class _without_bars:
    """The hub client's own progress bars off, as they were afterwards."""

    def __enter__(self) -> None:
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

        self.were_off = are_progress_bars_disabled()
        if not self.were_off:
            disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        from huggingface_hub.utils import enable_progress_bars

        if not self.were_off:
            enable_progress_bars()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
