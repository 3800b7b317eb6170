"""How many runs fit onto this machine at once, and how many threads each gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from efface.errors import SpecError
from efface.estimating import memory_gib, parameters
from efface.spec import Resolved, RunSpec

GIB = 2**30


def check_jobs(jobs: int, specs: Sequence[Resolved]) -> None:
    """Refuse a number of processes that this machine cannot hold; the error says why."""
    if jobs < 1:
        raise SpecError("bench.bad-jobs", f"--jobs is {jobs}.", "give a number from 1 on.")
    if jobs == 1:
        return
    if jobs > (cores := core_count()):
        raise SpecError(
            "bench.too-many-jobs",
            f"--jobs {jobs}: there are {cores} cores, and each process needs one.",
            f"use --jobs {cores}." if cores > 1 else "leave --jobs out.",
        )
    for one in specs:
        _check_memory(jobs, one.spec)


def _check_memory(jobs: int, spec: RunSpec) -> None:
    needed, (free, what) = memory_gib(parameters(spec)), free_memory(spec.model.device)
    if needed is None:
        raise SpecError(
            "bench.unknown-size",
            f"--jobs {jobs}: the size of model {spec.model.name!r} is not known before it is loaded, so nobody can say "
            "whether several of them fit.",
            "leave --jobs out, or name the model by its local folder.",
        )
    if free is not None and jobs * needed > free:
        fits = max(1, int(free // needed))
        raise SpecError(
            "bench.too-many-jobs",
            f"--jobs {jobs}: {jobs} runs of {spec.model.name} need about {jobs} x {needed:.1f} GiB, and {free:.1f} GiB "
            f"of {what} are free.",
            f"use --jobs {fits}." if fits > 1 else "leave --jobs out.",
        )


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(jobs: int, model: str) -> int:
    """Threads of each process: its share of the cores (an explicit OMP_NUM_THREADS is the wish to use no more), one for
    models too small to gain from two."""
    wish = os.environ.get("OMP_NUM_THREADS", "")
    total = min(core_count(), int(wish)) if wish.isdigit() and int(wish) else core_count()
    return 1 if model in ("tiny", "cnn") else max(1, total // jobs)


def free_memory(device: str) -> tuple[float | None, str]:
    """(GiB that can be had, of what); None where the system does not tell."""
    if device.startswith("cuda") or (device == "auto" and _cuda()):
        import torch

        free, _ = torch.cuda.mem_get_info(device if ":" in device else None)
        return free / GIB, "GPU memory"
    found = [value for value in (_available(), _cgroup()) if value is not None]
    return (min(found) / GIB if found else None), "memory"


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _available() -> int | None:
    """MemAvailable of Linux in bytes."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _cgroup() -> int | None:
    """What a container may still take, in bytes."""
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if not (limit.is_file() and used.is_file()) or not (text := limit.read_text().strip()).isdigit():
        return None
    return max(0, int(text) - int(used.read_text()))
