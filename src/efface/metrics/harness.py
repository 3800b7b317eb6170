"""General ability: tasks of lm-evaluation-harness, into the same record as everything else.

``harness:<task>`` is a metric for every task that the installed harness knows (``pip install 'efface[harness]'``), and
for the small offline ones in ``harness_tasks``. Most public tasks fetch their data from a hub; the offline ones need
nothing.
"""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.metrics.base import METRICS, Metric, Need, NotComputed, PerRow, Tables

PREFIX = "harness:"
OFFLINE = ("efface_trivia", "efface_trivia_open")
HEADLINES = ("acc_norm", "acc", "exact_match", "f1")


def harness_metric(name: str) -> Metric:
    """The metric ``harness:<task>``: the task's headline value per document, larger = more able."""
    task = name.removeprefix(PREFIX)
    card = Card(
        f"lm-evaluation-harness: {task}",
        "EleutherAI, lm-evaluation-harness",
        "EleutherAI/lm-evaluation-harness",
        f"Task {task} run by the harness on this model: its headline value per document (the first of "
        f"{', '.join(HEADLINES)} that the task has, else its first). `reported` is what the harness itself prints for "
        "it, `all` every other value of the task.",
        differs=(
            "raw prompts and the harness's own tokenisation, as its own Hugging Face backend does: no chat template",
            "an input guard of the model sees each prompt as a question",
        ),
        fooled_by=(
            "a small task: 20 questions leave an interval of about .2 either way",
            "a general task says nothing about neighbours of what was forgotten",
            "a chat model without its template scores below what its users see",
        ),
    )
    need = Need("harness", rows="", variants=(task,))
    return Metric(name, lambda tables: by_document(tables, need), (need,), {"*": "higher"}, card, fixed_rows="harness")


def by_document(tables: Tables, need: Need) -> PerRow:
    """Values per document of the task's headline metric."""
    table = tables.table(need)
    lines = table.to_pylist()
    names = list(dict.fromkeys(line["metric"] for line in lines))
    if not names:
        raise NotComputed(f"the harness gave no value per document for {need.variants[0]}")
    chosen = next((name for name in HEADLINES if name in names), names[0])
    mine = [line for line in lines if line["metric"] == chosen]
    reported = {line["metric"]: line["reported"] for line in lines}
    extra = {"metric": chosen, "reported": reported.pop(chosen), "all": reported, "harness": mine[0]["harness"]}
    ids = [f"{need.variants[0]}/{line['document']}" for line in mine]
    return PerRow(np.array([line["value"] for line in mine], dtype=np.float64), ids, ids, extra)


METRICS.make(PREFIX, harness_metric)
for _task in OFFLINE:
    METRICS.register(PREFIX + _task, harness_metric(PREFIX + _task))
