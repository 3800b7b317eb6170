"""Provenance: what ran, on what machine, from which seeds and files. Holds no host name, user name or path."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "accelerate",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "gguf",
    "pydantic",
    "rouge-score",
    "jinja2",
    "pyyaml",
    "datasets",
    "huggingface-hub",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")
MIB = 2**20


def collect(
    *,
    seeds: Mapping[str, Any],
    models: Mapping[str, Any] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Everything that ``provenance.json`` holds.

    ``models``: by role, where each came from and what made it. ``fingerprints``: weight hash by role. ``data``: name
    and content hash of the rows. ``command``: what was typed, without private paths. torch is asked about threads and
    GPUs only if it is already loaded.
    """
    from efface import __version__

    return {
        "schema": 1,
        "efface": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "git": git_state(Path(__file__).parents[1]),
        "seeds": dict(seeds),
        "models": _without_paths(models or {}),
        "fingerprints": dict(fingerprints or {}),
        "data": dict(data or {}),
        "hardware": hardware(),
        "threads": threads(),
        "memory": peak_memory(),
        "command": command,
    }


def _without_paths(value: Any) -> Any:
    """Absolute paths cut to their last part: where files lie on somebody's machine is nobody's business."""
    if isinstance(value, Mapping):
        return {key: _without_paths(item) for key, item in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def packages() -> dict[str, str]:
    """Versions of what is installed of the packages that can change a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """{commit, dirty} of the checkout that the code in ``folder`` belongs to; None if it is an installed copy, if git
    is not there, or if the checkout is somebody else's (``folder`` is not tracked in it)."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "--", "."):
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=normal", "--", ".")
    return None if changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command that only reads; None if it fails."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and GPUs if torch is loaded and sees some."""
    found: dict[str, Any] = {"machine": platform.machine(), "processor": _processor(), "cores": os.cpu_count()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def threads() -> dict[str, Any]:
    """Threads in use, and the variables that set them."""
    found: dict[str, Any] = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = torch.get_num_threads()
        found["deterministic"] = torch.are_deterministic_algorithms_enabled()
    return found


def peak_memory() -> dict[str, float]:
    """Highest memory of this process so far, MiB: ``ram`` (where the system tells) and ``gpu`` (allocated by torch)."""
    found: dict[str, float] = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        found["ram"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu"] = round(max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / MIB, 1)
    return found
