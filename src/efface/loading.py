"""From a resolved spec to rows: the benchmark or the forget request it names, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.data.rows import Bundle
from efface.spec import RunSpec


def load_data(spec: RunSpec) -> tuple[Bundle, Any]:
    """(rows, the request behind them). A benchmark run gets a request that names the benchmark."""
    from efface.data.benchmarks.base import BENCHMARKS
    from efface.request import ForgetRequest

    if spec.request:
        request = ForgetRequest.load(Path(spec.request))
        return request.bundle(), request
    bundle = BENCHMARKS.get(spec.data.benchmark)(**spec.data.settings).load()
    return bundle, ForgetRequest.of_benchmark(spec.data.benchmark, dict(spec.data.settings), bundle)
