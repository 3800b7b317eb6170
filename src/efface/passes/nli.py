"""NLI pass: does the model's own greedy answer entail the gold answer? Judged by a local model, where one is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from efface.metrics.base import Need, NotComputed
from efface.passes.registry import PassInput, table_pass

VERDICTS = pa.schema([("row", pa.string()), ("entity", pa.string()), ("entails", pa.bool_()), ("problem", pa.string())])


@table_pass("nli", reads_judge=True)
def nli(given: PassInput) -> pa.Table:
    """One line per generated row: premise = answer, hypothesis = gold (sheet M2-7). An empty answer entails nothing."""
    from efface.models.nli import open_nli

    if not given.judge:
        raise NotComputed("there is no NLI model (audit.judge)")
    said = given.fetch(given.subject, Need("generate", given.need.rows, prompt=given.need.prompt)).to_pylist()
    asked = [line for line in said if not line["problem"] and line["text"].strip()]
    verdicts = open_nli(Path(given.judge)).entails([s["text"] for s in asked], [s["gold"] for s in asked])
    entailed = {line["row"]: bool(yes) for line, yes in zip(asked, verdicts, strict=True)}
    lines = [{k: s[k] for k in ("row", "entity", "problem")} | {"entails": entailed.get(s["row"], False)} for s in said]
    return pa.Table.from_pylist(lines, schema=VERDICTS)
