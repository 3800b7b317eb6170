"""``doctor``: versions, hardware, cache and the environment variables Efface reads."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "gguf",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "rouge-score",
)
EXTRAS = {"datasets": "hub", "huggingface-hub": "hub", "bitsandbytes": "quant", "optuna": "tune", "lm-eval": "harness"}

BF16 = {
    "amx": "_is_amx_tile_supported",
    "avx512-bf16": "_is_avx512_bf16_supported",
}  # private to torch; may be gone one day


def diagnose() -> list[dict[str, str]]:
    """Rows {what, value, note}."""
    rows = [
        _row("efface", _version("efface"), ""),
        _row("python", platform.python_version(), "3.11 or newer is needed"),
    ]
    rows += [_row(name, _version(name), "") for name in PACKAGES]
    rows += [_row(name, _version(name), f"extra {extra}") for name, extra in EXTRAS.items()]
    return [*rows, *_hardware(), *_places()]


def _hardware() -> list[dict[str, str]]:
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if cuda else "none"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    bf16 = next((name for name, ask in BF16.items() if getattr(torch.cpu, ask, lambda: False)()), "emulated")
    return [
        _row("cores", str(os.cpu_count()), f"torch uses {torch.get_num_threads()} threads"),
        _row("memory", f"{memory:.0f} GiB", ""),
        _row("bf16 on this CPU", bf16, "compute=auto uses bf16 above 20 M parameters"),
        _row("GPU", device, ""),
    ]


def _places() -> list[dict[str, str]]:
    from efface.models.cachedir import cache_root

    root = cache_root()
    near = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(near).free / 2**30
    tofu = os.environ.get("EFFACE_TOFU", "")
    return [
        _row("cache", str(root), f"{free:.0f} GiB free; move it with EFFACE_CACHE"),
        _row("EFFACE_TOFU", tofu or "not set", "folder of the TOFU files"),
        _row("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "not set"), "1 keeps Efface off the hub"),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _row(what: str, value: str, note: str) -> dict[str, str]:
    return {"what": what, "value": value, "note": note}
