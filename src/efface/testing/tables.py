"""Tables from hand-made numbers: for tests of metrics, here and in plug-ins. No model and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from efface.errors import SpecError
from efface.metrics.base import Need, NotComputed, Tables
from efface.passes.tables import GENERATIONS, GRADIENTS, HIDDEN, TOKENS, WEIGHTS

LISTS = (list, tuple, np.ndarray)


def hand_tables(
    sets: Mapping[str, Any], *, rows: str = "forget", subject: str = "unlearned", seed: int = 0, resamples: int = 200
) -> Tables:
    """Tables of one subject and, if wanted, of other roles.

    ``sets`` maps ``"<evaluation set>"`` (the subject's) or ``"<role>/<evaluation set>"`` to a dictionary of

    - any candidate answer (``"answer"``, ``"answer_paraphrase"``, ...; ``"answer@paraphrase"`` for another prompt
      wording): a list of log-prob lists, or columns {"lp", "hit", "rank", "mu", "sigma", "eos", "text", "problem"};
    - ``"wrong"``: per row, the log-prob lists of its wrong answers;
    - ``"generations"`` (or ``"generations@paraphrase"``): columns {"text", "gold", "ids", "finish", "problem"};
    - ``"hidden"``: {layer: Float[rows, width]}; ``"gradients"``: one norm per row (NaN: not scored);
    - ``"rows"`` and ``"entities"``: one string per row (default ``"r0"``, ``"r1"``, ... and none).

    ``"subject/..."`` and ``"<name of the subject>/..."`` mean the subject too. The keys ``"weights"`` and
    ``"<role>/weights"`` hold rows of the weight table. What is not given is "not computed". Columns of unequal length
    are a ``SpecError``.
    """
    held = {}
    for key, value in sets.items():
        role, _, name = key.rpartition("/")
        held[f"{'subject' if role in ('', subject) else role}/{name}"] = value

    def fetch(role: str, need: Need) -> Any:
        role = "subject" if role == subject else role
        if not any(key.startswith(f"{role}/") for key in held):
            raise NotComputed(f"there is no {role} model")
        name = need.rows or "weights"
        if f"{role}/{name}" not in held:
            raise NotComputed(f"the data has no {name} rows" if need.rows else f"there is no weight table of {role}")
        return _table(held[f"{role}/{name}"], need, name)

    return Tables(fetch, rows, subject, seed, resamples)


def _table(content: Any, need: Need, name: str) -> Any:
    if need.kind == "weight":
        return pa.Table.from_pylist([{f.name: row.get(f.name) for f in WEIGHTS} for row in content], schema=WEIGHTS)
    if need.kind == "hidden":
        return _hidden(content, need, name)
    wording = "" if need.prompt == "prompt" else f"@{need.prompt}"
    stem = {"generate": "generations", "gradient": "gradients"}.get(need.kind) or need.variants[0]
    column = stem + wording
    if column not in content:
        raise NotComputed(f"the {name} rows carry no {column}")
    if need.kind == "gradient":
        norms = [float(n) for n in content[column]]
        return _rows(
            content,
            {"norm": norms, "problem": ["" if np.isfinite(n) else "no gradient" for n in norms]},
            GRADIENTS,
            need,
        )
    if column.startswith("wrong"):
        return [[np.asarray(lp, dtype=np.float64) for lp in row] for row in content[column]]
    given = content[column] if isinstance(content[column], Mapping) else {"lp": content[column]}
    return _rows(content, dict(given), TOKENS if need.kind == "score" else GENERATIONS, need)


def _rows(content: Mapping[str, Any], columns: dict[str, Any], schema: pa.Schema, need: Need) -> pa.Table:
    """One table row per data row; missing columns get neutral values of the right length."""
    count = len(next(value for value in columns.values() if isinstance(value, LISTS)))
    lists = columns.get("lp", columns.get("hit", [[]] * count))
    blank = {"lp": 0.0, "hit": False, "rank": 0, "mu": 0.0, "sigma": 1.0}
    for name, value in blank.items():
        columns.setdefault(name, [[value] * len(item) for item in lists])
    columns |= {
        "row": _names(content, count),
        "entity": list(content.get("entities", [""] * count)),
        "prompt": [need.prompt] * count,
        "variant": [*need.variants, ""][:1] * count,
    }
    for name, value in {"eos": False, "text": "", "gold": "", "sample": 0, "finish": "stop", "problem": ""}.items():
        given = columns.get(name, value)
        columns[name] = list(given) if isinstance(given, LISTS) else [given] * count
    columns.setdefault("ids", [[]] * count)
    if wrong := [name for name in schema.names if len(columns[name]) != count]:
        raise SpecError(
            "tables.lengths",
            f"hand-made table: {', '.join(wrong)} should have {count} entries.",
            "give every column one entry per row.",
        )
    return pa.table(
        {name: pa.array([_plain(v) for v in columns[name]], schema.field(name).type) for name in schema.names},
        schema=schema,
    )


def _hidden(content: Mapping[str, Any], need: Need, name: str) -> Any:
    if "hidden" not in content:
        raise NotComputed(f"the {name} rows carry no hidden states")
    layers = sorted(content["hidden"])
    if need.variants[0] == "layers":
        return layers
    layer = int(need.variants[0])
    layer = layers[layer] if layer < 0 else layer
    vectors = np.asarray(content["hidden"][layer], dtype=np.float32)
    count = len(vectors)
    columns = {
        "row": _names(content, count),
        "entity": list(content.get("entities", [""] * count)),
        "layer": [layer] * count,
        "pooling": [need.pooling] * count,
        "vector": [v.tolist() for v in vectors],
        "problem": [""] * count,
    }
    return pa.table(columns, schema=HIDDEN)


def _names(content: Mapping[str, Any], count: int) -> list[str]:
    return list(content.get("rows", [f"r{i}" for i in range(count)]))


def _plain(value: Any) -> Any:
    """numpy values as Python ones, so that Arrow's own checks apply."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [v.item() if isinstance(v, np.generic) else v for v in value]
    return value
