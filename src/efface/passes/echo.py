"""Echo pass: the greedy answers of one model, scored by another. What a model that never met the request would say of
how the text reads."""

from __future__ import annotations

import pyarrow as pa
import torch

from efface.metrics.base import Need, NotComputed
from efface.models.base import Encoded
from efface.models.packing import Text
from efface.passes.batching import batches, label_budget
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import reduce

_S = pa.string()
ECHO = pa.schema([("row", _S), ("entity", _S), ("lp", pa.list_(pa.float32())), ("problem", _S)])


@table_pass("echo")
def echo(given: PassInput) -> pa.Table:
    """Log-probs, under the model at hand, of what ``need.variants[0]`` (a role) said greedily: one line per row, the
    end of the answer not counted. Empty answers are a problem, not a number."""
    speaker, listener = given.need.variants[0], given.adapter
    if given.role(speaker).identity()["tokenizer"] != listener.identity()["tokenizer"]:
        raise NotComputed(f"the {speaker} model and the one that scores its answers do not have the same tokenizer")
    said = given.fetch(speaker, Need("generate", given.need.rows, speaker, (), given.need.prompt)).to_pylist()
    encoded = []
    for row, line in zip(given.rows, said, strict=True):
        asked = listener.encode(row, prompt=given.need.prompt, answers=())
        text = Text(tuple(asked.payload.prompt), (tuple(line["ids"]),))
        problem = line["problem"] or asked.problem or ("" if line["ids"] else "empty answer")
        if not problem and text.longest > listener.context:  # type: ignore[attr-defined]
            problem = "longer than the context"
        encoded.append(Encoded(row.id, row.entity, text, ("said",), text.size, len(line["ids"]), problem))
    found: dict[int, list[float]] = {}
    with listener.evaluating():
        for part in batches(encoded, token_budget=given.token_budget, labels=label_budget(listener)):
            batch = listener.collate([encoded[i] for i in part], part).to(listener.device)
            lp, owner = reduce(listener.forward(batch, upcast=False).logits, batch.label_id).lp, batch.label_row.cpu()
            found |= {i: torch.masked_select(lp, owner == k).tolist() for k, i in enumerate(part)}
    lines = [
        {"row": e.row_id, "entity": e.entity, "lp": found.get(i, []), "problem": e.problem}
        for i, e in enumerate(encoded)
    ]
    return pa.Table.from_pylist(lines, schema=ECHO)
