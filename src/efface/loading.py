"""From a resolved spec to rows: the benchmark or the forget request it names, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.data.rows import Bundle
from efface.spec import RunSpec


def load_data(spec: RunSpec) -> tuple[Bundle, Any]:
    """(rows, the request behind them, with the hash of every file). A benchmark run gets a request that names it."""
    from efface.data.benchmarks.base import BENCHMARKS
    from efface.request import DataRef, ForgetRequest

    if spec.request:
        request = ForgetRequest.load(Path(spec.request))
        return request.bundle(), request.sealed()
    bundle = BENCHMARKS.get(spec.data.benchmark)(**spec.data.settings).load()
    source = DataRef(benchmark=spec.data.benchmark, settings=spec.data.settings, sha256=bundle.digest())
    return bundle, ForgetRequest(
        id=f"{spec.data.benchmark}-{source.sha256[:12]}", modality=bundle.modality, forget=source
    )
