"""Training, curves, conclusion and provenance of the made-up run; every number is invented."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any


def training(method: str) -> dict[str, Any]:
    draw = random.Random(1)
    history = [
        {
            "event": "step",
            "step": k,
            "of": 30,
            "lr": 1e-4,
            "forget_nll": 0.1 + 0.12 * k + draw.uniform(-0.2, 0.2),
            "retain_nll": 0.2 + 0.004 * k + draw.uniform(-0.05, 0.05),
        }
        for k in range(1, 31)
    ]
    return {
        "schema": 1,
        "method": method,
        "seconds": 61.4,
        "steps": 30,
        "stopped": "",
        "trained_parameters": 106_203_456,
        "moved_share": 0.874,
        "warnings": [],
        "history": history,
        "stages": {"models": 312.2, "unlearn": 61.4, "audit": 148.9},
    }


def _points(role: str, axis: str, values: Mapping[float, float], supplied: float = 0) -> list[dict[str, Any]]:
    return [
        {
            "budget": {axis: b},
            "role": role,
            "value": v,
            "low": max(0, v - 0.06),
            "high": min(1, v + 0.06),
            "n": 12,
            "supplied": {"label_tokens": supplied * b} if supplied and b else {},
            "seconds": 0.4,
        }
        for b, v in values.items()
    ]


def _curve(
    attack: str,
    axis: str,
    points: list,
    excess: dict | None,
    recovered: dict | None,
    metric: str = "probability",
    rows: str = "forget",
    **more: Any,
) -> dict[str, Any]:
    return {
        "schema": 1,
        "attack": attack,
        "axis": axis,
        "threat": "white-box",
        "metric": metric,
        "rows": rows,
        "points": points,
        "excess": excess,
        "recovered": recovered,
        "reason": "",
        "partial": False,
        **more,
    }


def curves() -> list[dict[str, Any]]:
    relearn = [
        *_points("unlearned", "steps", {0: 0.16, 1: 0.24, 3: 0.38, 8: 0.55, 16: 0.63}, 96),
        *_points("reference", "steps", {0: 0.12, 1: 0.14, 3: 0.19, 8: 0.27, 16: 0.33}, 96),
    ]
    bits = [
        *_points("unlearned", "bits", {0: 0.16, 8: 0.17, 4: 0.31, 3: 0.12}),
        *_points("reference", "bits", {0: 0.12, 8: 0.12, 4: 0.11, 3: 0.06}),
        *_points("target", "bits", {0: 0.94, 8: 0.94, 4: 0.83, 3: 0.31}),
    ]
    kept = [
        *_points("unlearned", "bits", {0: 0.91, 8: 0.91, 4: 0.80, 3: 0.30}),
        *_points("target", "bits", {0: 0.95, 8: 0.95, 4: 0.84, 3: 0.33}),
    ]
    words = [
        *_points("unlearned", "bits", {0: 0.12, 8: 0.14, 4: 0.26, 3: 0.10}),
        *_points("reference", "bits", {0: 0.10, 8: 0.10, 4: 0.10, 3: 0.05}),
    ]
    return [
        _curve(
            "relearn_in_domain",
            "steps",
            relearn,
            {"value": 0.30, "low": None, "high": None, "at": {"steps": 16}},
            {"value": 0.63, "at": {"steps": 16}},
        ),
        _curve(
            "round_weights",
            "bits",
            bits,
            {"value": 0.20, "low": 0.11, "high": 0.29, "at": {"bits": 4}},
            {"value": 0.31, "at": {"bits": 4}},
        ),
        _curve("round_weights", "bits", kept, None, None, rows="retain"),
        _curve("round_weights", "bits", words, None, None, metric="rouge"),
        _curve("relearn_benign", "", [], None, None, reason="there are no benign rows to train on"),
    ]


SPEC = """spec:
  model: {{name: smollm2-135m}}
  data: {{benchmark: people}}
  method: {{name: {method}, settings: {{beta: 0.1}}}}
  train: {{lr: 0.0001, steps: 30}}
  seed: {seed}
  keep_text: {keep}
origins: {{method.settings.beta: user --set, train.lr: recipe npo/smollm2-135m}}
hash: {hash}
"""
POWER = (
    "With these 24 forget rows, a residue under about 12% of the difference between target and reference would be "
    "missed."
)
CONCLUSION = {
    "schema": 1,
    "label": "concealed",
    "sentences": [
        "The outputs do not show it, but an attack brings it back: after 16 steps of relearning on related facts, "
        "answer probability was 0.300 above that of a model that never saw the data.",
        "Of what was to be kept, the largest loss was on neighbours: 0.930 before, 0.780 after (84% kept).",
        POWER,
    ],
    "findings": [
        {
            "kind": "residue",
            "name": "residue: rouge",
            "says": "ROUGE on the forget set: unlearned 0.160, reference 0.120, target 0.940; "
            "difference to the reference +0.040 [-0.010, +0.090].",
            "flag": False,
            "p": 0.06,
            "share": 0.05,
            "evidence": {"value": 0.04, "low": -0.01, "high": 0.09, "p": 0.06, "n": 24, "unit": "entities"},
        },
        {
            "kind": "recovery",
            "name": "recovery: relearn_in_domain",
            "says": "relearn_in_domain at steps 16: probability +0.300 above the "
            "reference under the same attack [+0.210, +0.390], p = 0.004 after correcting for 4 points.",
            "flag": True,
            "p": 0.004,
            "share": 0.37,
            "evidence": {
                "value": 0.30,
                "low": 0.21,
                "high": 0.39,
                "p": 0.001,
                "n": 12,
                "unit": "entities",
                "budget": {"steps": 16},
            },
        },
        {
            "kind": "utility",
            "name": "utility: rouge.neighbour",
            "says": "rouge on neighbour rows: 0.930 before, 0.780 after (84% kept).",
            "flag": False,
            "p": None,
            "share": 0.16,
            "evidence": {"before": 0.93, "after": 0.78},
        },
    ],
    "limits": [
        "relearn_benign: there are no benign rows to train on.",
        "Only the model was examined: logs, caches, indexes, back-ups and other models trained on the data were not.",
    ],
    "power": POWER,
}
PROVENANCE = {
    "schema": 1,
    "efface": "0.1.0",
    "python": "3.12.4",
    "platform": "Linux-6.8-x86_64",
    "packages": {"torch": "2.11.0", "transformers": "5.17.0"},
    "git": {"commit": "9f2c41d07be1a5c3", "dirty": True},
    "seeds": {"run": 0},
    "models": {"target": {"origin": "trained"}, "reference": {"origin": "trained"}},
    "fingerprints": {"target": "a1" * 32, "unlearned": "b2" * 32, "reference": "c3" * 32},
    "data": {"name": "people", "sha256": "d4" * 32},
    "hardware": {"machine": "x86_64", "processor": "AMD EPYC", "cores": 2, "memory_gib": 15.6},
    "threads": {"torch": 2},
    "memory": {"ram": 3120.5},
    "command": "efface demo",
}
