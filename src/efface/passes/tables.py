"""Tables: what passes produce and metrics read. Arrow on disk and in the cache, numpy for whoever computes.

One row of a token table is one candidate answer of one data row; its list columns hold one value per scored token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

NO_LOGITS = "the model hides its logits"  # the problem of every row of such a model

_F, _I, _S = pa.list_(pa.float32()), pa.list_(pa.int32()), pa.string()

TOKENS = pa.schema(
    [
        ("row", _S),
        ("entity", _S),
        ("prompt", _S),
        ("variant", _S),
        ("lp", _F),  # log-prob of the gold token, float32, nats
        ("hit", pa.list_(pa.bool_())),  # argmax == gold
        ("rank", _I),  # rank of gold, 0 = first
        ("mu", _F),  # sum_v p log p (negative entropy)
        ("sigma", _F),  # sqrt(sum_v p (log p)^2 - mu^2)
        ("eos", pa.bool_()),  # the last token is an end-of-answer token
        ("text", _S),  # the target text
        ("problem", _S),  # why the row could not be scored, "" if it was
    ]
)
GENERATIONS = pa.schema(
    [
        ("row", _S),
        ("entity", _S),
        ("prompt", _S),
        ("sample", pa.int32()),
        ("gold", _S),
        ("text", _S),
        ("ids", _I),
        ("finish", _S),  # "stop" or "length"
        ("problem", _S),
    ]
)
HIDDEN = pa.schema(
    [("row", _S), ("entity", _S), ("layer", pa.int32()), ("pooling", _S), ("vector", _F), ("problem", _S)]
)
GRADIENTS = pa.schema(
    [("row", _S), ("entity", _S), ("norm", pa.float32()), ("problem", _S)]
)  # mean over tensors of ||g||_2
WEIGHTS = pa.schema(
    [
        ("name", _S),
        ("size", pa.int64()),
        ("changed", pa.int64()),
        ("norm_a", pa.float64()),
        ("norm_b", pa.float64()),
        ("norm_diff", pa.float64()),
        ("cosine", pa.float64()),
        ("buckets_8", pa.int64()),
        ("buckets_4", pa.int64()),  # weights whose rounded value changed at 8 and 4 bits
    ]
)


def arrays(column: pa.ChunkedArray, dtype: type) -> list[np.ndarray]:
    """A list column as one numpy array per row (a null list becomes an empty array)."""
    return [np.asarray([] if item is None else item, dtype=dtype) for item in column.to_pylist()]


@dataclass(frozen=True)
class Tokens:
    """A token table of one variant and one prompt wording, as numpy, one entry per data row."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def rows(self) -> list[str]:
        """Row ids."""
        return self.table["row"].to_pylist()

    @cached_property
    def entities(self) -> list[str]:
        """Entity of each row (the row id where it has none)."""
        return [entity or row for entity, row in zip(self.table["entity"].to_pylist(), self.rows, strict=True)]

    @cached_property
    def texts(self) -> list[str]:
        """Target texts."""
        return self.table["text"].to_pylist()

    @cached_property
    def problems(self) -> list[str]:
        """Why a row could not be scored ("" if it was)."""
        return self.table["problem"].to_pylist()

    @cached_property
    def lp(self) -> list[np.ndarray]:
        """Log-probs of the gold tokens, float64, end token included."""
        return arrays(self.table["lp"], np.float64)

    @cached_property
    def hit(self) -> list[np.ndarray]:
        """Argmax hits, end token included."""
        return arrays(self.table["hit"], np.bool_)

    @cached_property
    def rank(self) -> list[np.ndarray]:
        """Ranks of the gold tokens, 0 = first."""
        return arrays(self.table["rank"], np.int64)

    @cached_property
    def mu(self) -> list[np.ndarray]:
        """sum_v p log p at each position."""
        return arrays(self.table["mu"], np.float64)

    @cached_property
    def sigma(self) -> list[np.ndarray]:
        """Spread of log p under p at each position."""
        return arrays(self.table["sigma"], np.float64)

    @cached_property
    def eos(self) -> np.ndarray:
        """Bool: the last token of the row is the end-of-answer token."""
        return np.asarray(self.table["eos"].to_pylist(), dtype=bool)

    @cached_property
    def mean_lp(self) -> np.ndarray:
        """Mean log-prob per row (end token included); NaN where the row could not be scored."""
        return np.array([lp.mean() if lp.size else np.nan for lp in self.lp])

    def body(self, values: list[np.ndarray]) -> list[np.ndarray]:
        """``values`` without the end-of-answer token, where the row has one."""
        return [v[:-1] if end and v.size else v for v, end in zip(values, self.eos, strict=True)]


@dataclass(frozen=True)
class Generations:
    """A generation table of one prompt wording and one decoding."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> list:
        """Any column as Python values."""
        return self.table[name].to_pylist()

    @cached_property
    def rows(self) -> list[str]:
        """Row ids."""
        return self.column("row")

    @cached_property
    def entities(self) -> list[str]:
        """Entity of each row (the row id where it has none)."""
        return [entity or row for entity, row in zip(self.column("entity"), self.rows, strict=True)]


@dataclass(frozen=True)
class Hidden:
    """A hidden-state table of one layer and pooling: ``vectors`` Float32[rows, width]."""

    table: pa.Table

    @cached_property
    def rows(self) -> list[str]:
        """Row ids."""
        return self.table["row"].to_pylist()

    @cached_property
    def entities(self) -> list[str]:
        """Entity of each row."""
        return [entity or row for entity, row in zip(self.table["entity"].to_pylist(), self.rows, strict=True)]

    @cached_property
    def vectors(self) -> np.ndarray:
        """Float32[rows, width]."""
        return (
            np.stack(arrays(self.table["vector"], np.float32)) if self.table.num_rows else np.zeros((0, 0), np.float32)
        )
