"""Concept traces: what became of the value vectors that held a concept, beside the original's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from efface.metrics.base import Need, NotComputed
from efface.passes.registry import PassInput, table_pass
from efface.passes.value_vectors import head, top_tokens, values

TOP = 200
_S, _N = pa.string(), pa.float32()
TRACES = pa.schema(
    [
        ("row", _S),  # number of the concept / layer / column
        ("entity", _S),  # the concept
        ("located", pa.bool_()),
        ("given", pa.bool_()),
        ("cosine", _N),
        ("l2", _N),
        ("jaccard_own", _N),  # top-200 tokens before (original's head) and after (own head)
        ("jaccard_original", _N),  # ... both with the original's head: what the vector alone did
        ("jaccard_own_folded", _N),  # ... with the final norm's scale in the head
        ("refined_own", _N),  # the same, of the concept's tokens only; null where neither has one
        ("refined_original", _N),
        ("rate_before", _N),  # share of the concept's tokens in the top 200
        ("rate_after", _N),
        ("layer_cosine", _N),  # median cosine of all vectors of the block: near 1 in one lineage
    ]
)


@table_pass("concept_traces", version=2)
def concept_traces(given: PassInput) -> pa.Table:
    """One line per vector that the target's ``concept_index`` says to use."""
    index = given.fetch("target", Need("concept_index", given.need.rows, "target", given.need.variants))
    before, after = given.role("target"), given.adapter
    a, b = values(before), values(after)
    if [v.shape for v in a] != [v.shape for v in b] or head(before).shape != head(after).shape:
        raise NotComputed("the model and the target do not have the same layers")
    heads = {
        (name, folded): head(m, folded=folded)
        for name, m in (("original", before), ("own", after))
        for folded in (False, True)
    }
    lines = [
        _line(record, a[record["layer"] - 1], b[record["layer"] - 1], heads)
        for record in index.to_pylist()
        if record["used"]
    ]
    return pa.Table.from_pylist(lines, schema=TRACES)


def _line(record: Mapping[str, Any], before: Tensor, after: Tensor, heads: Mapping[tuple[str, bool], Tensor]) -> dict:
    v, w = (record["sign"] * side[:, record["column"]].to(before.device) for side in (before, after))
    tokens = set(record["ids"])

    def top(vector: Tensor, name: str, folded: bool = False) -> set[int]:
        embedding = heads[name, folded]
        up, _ = top_tokens(vector[None].to(embedding.device), embedding, min(TOP, len(embedding)))
        return set(up[0].tolist())

    was, own, original = top(v, "original"), top(w, "own"), top(w, "original")
    return {
        **{k: record[k] for k in ("row", "entity", "located", "given")},
        "cosine": 1.0 if torch.equal(v, w) else float(torch.cosine_similarity(v, w, dim=0)),
        "l2": float((v - w).norm()),
        "jaccard_own": jaccard(was, own),
        "jaccard_original": jaccard(was, original),
        "jaccard_own_folded": jaccard(top(v, "original", True), top(w, "own", True)),
        "refined_own": jaccard(was & tokens, own & tokens),
        "refined_original": jaccard(was & tokens, original & tokens),
        "rate_before": len(was & tokens) / len(tokens) if tokens else None,
        "rate_after": len(own & tokens) / len(tokens) if tokens else None,
        "layer_cosine": float(torch.cosine_similarity(before, after.to(before.device), dim=0).median()),
    }


def jaccard(a: set[int], b: set[int]) -> float | None:
    """Size of the intersection over that of the union; None for two empty sets."""
    return len(a & b) / len(a | b) if a | b else None
