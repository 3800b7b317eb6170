"""Shared by all tests: one thread per process, a cache of their own, the tiny world and its models."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all test processes of a run: models are built once, under the cache's own lock.
    ``EFFACE_TEST_CACHE`` keeps it from one run to the next (models are cached by content)."""
    if kept := os.environ.get("EFFACE_TEST_CACHE"):
        return Path(kept)
    base = tmp_path_factory.getbasetemp()
    root = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    return root / "efface-cache"


@pytest.fixture(autouse=True)
def _cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(shared_cache))


@pytest.fixture(scope="session")
def tofu() -> Path:
    """Folder of the TOFU files, or a skip with the reason."""
    for place in (os.environ.get("EFFACE_TOFU", ""), str(HERE.parent.parent / "shared" / "data" / "tofu")):
        if place and (Path(place) / "full.json").is_file():
            return Path(place)
    pytest.skip("the TOFU files are not here: set EFFACE_TOFU to their folder")
