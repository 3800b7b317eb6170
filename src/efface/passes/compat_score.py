"""Passes of the common harness's own inputs: its labels, its attention mask, its token positions. Only for the compat
forms of metrics; they cost a forward (``compat_score``) or a backward (``compat_gradient``) of their own.

After locuslab/open-unlearning (read at d3d7cf9: ``data/utils.py``, ``data/collators.py``). A question and its answer
are tokenised as one text, and the labels are what stands behind as many ids as the prompt alone has: with them whatever
the chat template writes after the answer, and an EOS unless the text ends with it. The mask is "is not the padding
token", so where padding and end of turn are one token, every end of turn inside the text is hidden.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from efface.data.rows import Row
from efface.metrics.base import NotComputed
from efface.models.base import Batch, Encoded
from efface.models.packing import Text
from efface.models.sharing import whole_forwards
from efface.models.token_ids import encode, eos_id
from efface.passes.batching import batches, label_budget, sliced
from efface.passes.registry import PassInput, table_pass
from efface.passes.score import joined, reduce
from efface.passes.tables import GRADIENTS

LONGEST = 2048  # tokens of a document or of a continuation that are kept
_F, _S = pa.list_(pa.float32()), pa.string()
COMPAT = pa.schema(
    [
        ("row", _S),
        ("entity", _S),
        ("variant", _S),
        ("lp", _F),  # log-probs of the harness's labels, the last one included
        ("hit", pa.list_(pa.bool_())),
        ("mu", _F),
        ("sigma", _F),
        ("zlib", pa.int64()),  # bytes of the decoded labels after compression
        ("problem", _S),
    ]
)


@dataclass(frozen=True)
class Conversation:
    """Ids of a whole text, and of how many ids the prompt alone consists: labels begin there."""

    ids: tuple[int, ...]
    start: int

    @property
    def labels(self) -> tuple[int, ...]:
        """Ids that are scored; none where the prompt alone is as long as the whole."""
        return self.ids[self.start :]


def conversation(adapter: Any, question: str, answer: str) -> Conversation:
    """A question and its answer as the harness tokenises them."""
    template, tokenizer = adapter.template, adapter.tokenizer
    if template.kind == "chat":
        ask = [{"role": "user", "content": question}]
        told = [*ask, {"role": "assistant", "content": answer}]
        prompt, whole = (
            encode(tokenizer, _rendered(tokenizer, template.source, said, generate))
            for said, generate in ((ask, True), (told, False))
        )
    else:
        text = template.source.replace("{question}", question) + template.lead
        prompt, whole = tokenizer(text)["input_ids"], tokenizer(text + answer)["input_ids"]
    end = eos_id(tokenizer)
    return Conversation((*whole, *(() if whole and whole[-1] == end else (end,))), len(prompt))


def completion(adapter: Any, opening: str, text: str) -> Conversation:
    """A document (no ``opening``) or the continuation of one, joined by a blank: no end token. The first id of all is
    never scored."""
    prefix = adapter.tokenizer(opening)["input_ids"]
    whole = adapter.tokenizer(f"{opening} {text}" if opening else text)["input_ids"][: len(prefix) + LONGEST]
    return Conversation(tuple(whole), max(len(prefix), 1))


def _rendered(tokenizer: Any, source: str, messages: list[dict[str, str]], generate: bool) -> str:
    return tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, add_generation_prompt=generate)


def harness_mask(ids: Tensor, real: Tensor, pad: int) -> Tensor:
    """Bool[B, 1, T, T] from ids Long[B, T] and real positions Bool[B, T]: a position sees what stands before it and
    itself, but never a token that equals padding. One that sees nothing at all sees itself, to stay a number."""
    seen = (ids != pad) & real
    width = ids.shape[1]
    mask = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril() & seen[:, None, :]
    alone = ~mask.any(-1, keepdim=True) & torch.eye(width, dtype=torch.bool, device=ids.device)
    return (mask | alone).unsqueeze(1)


@table_pass("compat_score")
def compat_score(given: PassInput) -> pa.Table:
    """One line per row (per row and wrong answer for ``("wrong",)``) with the log-probs of the harness's labels. An
    answer without labels is kept with empty lists."""
    adapter: Any = given.adapter
    made = list(_encoded(given))
    texts = [encoded for encoded, _ in made]
    lines = [line for _, line in made]
    with adapter.evaluating(), whole_forwards(adapter):
        for part in batches(texts, token_budget=given.token_budget, labels=label_budget(adapter)):
            batch = _masked(adapter, [texts[i] for i in part]).to(adapter.device)
            pieces = sliced(batch, label_budget(adapter))
            stats = joined([reduce(adapter.forward(p, upcast=False).logits, p.label_id) for p in pieces])
            found = {name: getattr(stats, name).tolist() for name in ("lp", "hit", "mu", "sigma")}
            at = 0
            for i in part:
                end = at + texts[i].labels
                lines[i] |= {name: values[at:end] for name, values in found.items()}
                at = end
    return pa.Table.from_pylist(lines, schema=COMPAT)


@table_pass("compat_gradient")
def compat_gradient(given: PassInput) -> pa.Table:
    """Mean over parameter tensors of ||d NLL / d theta_i||_2 in train mode, dropout included, NLL the mean over the
    harness's labels without the last one. Gradients and flags are left as they were."""
    adapter: Any = given.adapter
    params = list(adapter.module.parameters())
    flags, kept = [p.requires_grad for p in params], [p.grad for p in params]
    lines = []
    try:
        with adapter.training(), whole_forwards(adapter), torch.random.fork_rng():
            torch.manual_seed(given.seed)
            for p in params:
                p.requires_grad_(True)
            for encoded, line in _encoded(given):
                norm = None if encoded.problem or encoded.labels < 2 else _norm(adapter, encoded, params)
                problem = line["problem"] or ("" if norm is not None else "one label alone")
                lines.append({"row": line["row"], "entity": line["entity"], "norm": norm, "problem": problem})
    finally:
        for p, flag, grad in zip(params, flags, kept, strict=True):
            p.grad = grad
            p.requires_grad_(flag)
    return pa.Table.from_pylist(lines, schema=GRADIENTS)


def _norm(adapter: Any, encoded: Encoded, params: Sequence[torch.nn.Parameter]) -> float:
    for p in params:
        p.grad = None
    batch = _masked(adapter, [encoded]).to(adapter.device)
    with torch.enable_grad(), adapter.autocast():
        logits = adapter.forward(batch).logits
        torch.nn.functional.cross_entropy(logits[:-1], batch.label_id[:-1]).backward()
    return float(torch.stack([p.grad.float().norm() for p in params if p.grad is not None]).mean())


def _masked(adapter: Any, texts: Sequence[Encoded]) -> Batch:
    """A batch with the harness's mask. Padding is EOS where the tokenizer names none, as there."""
    batch = adapter.collate(texts, range(len(texts)))
    pad = adapter.tokenizer.pad_token_id
    real = batch.inputs["attention_mask"].bool()
    mask = harness_mask(batch.inputs["input_ids"], real, eos_id(adapter.tokenizer) if pad is None else pad)
    return replace(batch, inputs={**batch.inputs, "attention_mask": mask})


def _encoded(given: PassInput) -> Iterator[tuple[Encoded, dict[str, Any]]]:
    """(text to run, its line without numbers) of each row and candidate."""
    adapter: Any = given.adapter
    if adapter.tampering is not None:
        raise NotComputed("the common harness knows no such attack: its inputs have no place for it")
    (stem,) = given.need.variants
    continues = given.need.rows.startswith("verbatim_")
    for row in given.rows:
        assert isinstance(row, Row)
        for name, text in _answers(row, stem):
            lacking = f"no {stem}" if not text and stem != "answer" else ""
            question = adapter._asked(row.prompt)  # with what a guard puts in front of it
            made = completion if continues or not question else conversation
            found = Conversation((), 0) if lacking else made(adapter, question, text)
            problem = lacking or _problem(found, adapter.context)
            start = found.ids[: found.start]
            yield (
                Encoded(
                    row.id,
                    row.entity,
                    Text(start, (found.labels,)),
                    (name,),
                    max(len(found.ids) - 1, 1),
                    len(found.labels),
                    problem,
                ),
                {"row": row.id, "entity": row.entity, "variant": name, "lp": [], "hit": [], "mu": [], "sigma": []}
                | {"zlib": _compressed(adapter.tokenizer, found.labels), "problem": problem},
            )


def _answers(row: Row, stem: str) -> list[tuple[str, str]]:
    if stem == "wrong":
        return [(f"wrong:{i}", text) for i, text in enumerate(row.wrong)]
    return [(stem, getattr(row, stem))]


def _problem(found: Conversation, context: int) -> str:
    if not found.labels:
        return "empty answer"
    return f"longer than the context ({len(found.ids)} > {context})" if len(found.ids) > context else ""


def _compressed(tokenizer: Any, labels: Sequence[int]) -> int:
    return len(zlib.compress(tokenizer.decode(list(labels), skip_special_tokens=True).encode()))
