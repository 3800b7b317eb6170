"""The straightforward way of working, as common scripts do it; the yardstick of ``speed.py``.

Padded batches in file order, logits at every position, a forward per metric, plain generation, a frozen copy of the
model for reference log-probs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Item:
    """One (prompt, answer) pair as token ids."""

    prompt: list[int]
    answer: list[int]


def padded(items: Sequence[Item], pad: int, left: bool = False, answers: bool = True) -> dict[str, torch.Tensor]:
    """Right- or left-padded batch with labels -100 outside the answer."""
    texts = [i.prompt + (i.answer if answers else []) for i in items]
    width = max(map(len, texts))
    ids, mask, labels = (torch.full((len(items), width), fill) for fill in (pad, 0, -100))
    for r, (item, text) in enumerate(zip(items, texts, strict=True)):
        place = slice(width - len(text), width) if left else slice(0, len(text))
        ids[r, place] = torch.tensor(text)
        mask[r, place] = 1
        if answers:
            labels[r, len(item.prompt) : len(text)] = torch.tensor(item.answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@torch.no_grad()
def log_probs(model, items: Sequence[Item], pad: int, batch: int = 32) -> list[list[float]]:
    """Gold log-probs per row: labels go to the model (which computes a loss nobody reads), then once more by hand."""
    out = []
    for k in range(0, len(items), batch):
        inputs = padded(items[k : k + batch], pad)
        logits = model(**inputs).logits
        lp = -F.cross_entropy(
            logits[:, :-1].transpose(1, 2).float(), inputs["labels"][:, 1:], reduction="none", ignore_index=-100
        )
        out += [lp[r][inputs["labels"][r, 1:] != -100].tolist() for r in range(len(inputs["labels"]))]
    return out


@torch.no_grad()
def greedy(model, items: Sequence[Item], pad: int, stops: list[int], longest: int, batch: int = 32) -> list[list[int]]:
    """``generate`` on left-padded prompts."""
    out = []
    for k in range(0, len(items), batch):
        inputs = padded(items[k : k + batch], pad, left=True, answers=False)
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            max_new_tokens=longest,
            eos_token_id=stops,
            pad_token_id=pad,
        )[:, inputs["input_ids"].shape[1] :]
        for row in ids.tolist():
            end = next((i for i, token in enumerate(row) if token in stops), len(row))
            out.append(row[:end])
    return out


class NPOStep:
    """One NPO step of 32 forget and 32 retain rows: 4 micro-batches of 8 + 8, policy, reference and retain forwards."""

    def __init__(self, model, pad: int, beta: float = 0.1, lr: float = 1e-5) -> None:
        self.model, self.pad, self.beta = model, pad, beta
        self.reference = copy.deepcopy(model).eval()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def run(self, forget: Sequence[Item], retain: Sequence[Item], parts: int = 4) -> tuple[float, float]:
        """(NPO loss, retain cross-entropy), each the mean over micro-batches."""
        self.optimizer.zero_grad()
        losses = [0.0, 0.0]
        size = len(forget) // parts
        for k in range(0, len(forget), size):
            f, r = padded(forget[k : k + size], self.pad), padded(retain[k : k + size], self.pad)
            nll = self._nll(self.model(**f).logits, f["labels"])
            with torch.no_grad():
                ref = self._nll(self.reference(**f).logits, f["labels"])
            npo = -2 / self.beta * F.logsigmoid(self.beta * (nll - ref)).mean()
            kept = self.model(**r).loss
            ((npo + kept) / parts).backward()
            losses = [losses[0] + float(npo.detach()) / parts, losses[1] + float(kept.detach()) / parts]
        self.optimizer.step()
        return losses[0], losses[1]

    @staticmethod
    def _nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(
            logits[:, :-1].transpose(1, 2).float(), labels[:, 1:], reduction="none", ignore_index=-100
        ).sum(1)
