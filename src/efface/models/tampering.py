"""What an attacker or a guard puts around a language model while its weights stay as they are: ids behind the question,
a forced start of the answer, free input vectors, and changes of hidden states during the forward."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

Places = Literal["last_prompt", "all"]


@dataclass(frozen=True, eq=False)
class StateEdit:
    """One change of the hidden states of a layer (0: embeddings, i: output of block i).

    ``verb``: ``add`` (h + strength * vector), ``project_out`` (h - strength * (h . u) u, u the unit vector), ``replace``
    (vector), or ``skip`` (block i passes its input on). ``vector`` Float[width]. ``where``: ``last_prompt`` is the one
    position that predicts the answer's first token, so later tokens are produced unedited; ``all`` is every position.
    """

    layer: int
    verb: Literal["add", "project_out", "replace", "skip"]
    vector: Tensor | None = None
    strength: float = 1.0
    where: Places = "all"

    def apply(self, states: Tensor, given: Tensor, at: Tensor) -> Tensor:
        """Edited ``states`` Float[B, T, width]; ``given``: the block's input, ``at`` Bool[B, T]: where to edit."""
        if self.verb == "skip":
            return torch.where(at[..., None], given, states)
        assert self.vector is not None
        v = self.vector.to(states.device, states.dtype)
        if self.verb == "project_out":
            u = v / v.norm().clamp(min=1e-12)
            new = states - self.strength * (states @ u)[..., None] * u
        else:
            new = states + self.strength * v if self.verb == "add" else v.expand_as(states)
        return torch.where(at[..., None], new, states)

    def digest(self) -> str:
        """Hash (hex) of everything that changes outputs."""
        return _hash([self.layer, self.verb, self.strength, self.where, _bytes(self.vector)])


@dataclass(frozen=True, eq=False)
class Tampering:
    """``suffix`` {row id, or "" for every row: ids put at the end of the question}; ids from the vocabulary size on are rows
    of ``virtual`` Float[n, width], input vectors that no token has. ``forced``: text the answer is made to start with.
    ``edits``: changes of hidden states."""

    suffix: Mapping[str, Sequence[int]] = field(default_factory=dict)
    virtual: Tensor | None = None
    forced: str = ""
    edits: Sequence[StateEdit] = ()

    def suffix_of(self, row: str) -> tuple[int, ...]:
        """Ids behind the question of one row."""
        return tuple(self.suffix.get(row, self.suffix.get("", ())))

    def digest(self) -> str:
        """Hash (hex) of everything that changes outputs, for cache keys."""
        suffix = sorted((row, list(ids)) for row, ids in self.suffix.items())
        return _hash([suffix, _bytes(self.virtual), self.forced, [e.digest() for e in self.edits]])

    def embedded(self, adapter: CausalLM, inputs: dict[str, Any]) -> dict[str, Any]:
        """``inputs`` with ids beyond the vocabulary replaced by their vectors."""
        table = adapter.hf.get_input_embeddings()
        ids, size = inputs["input_ids"], table.weight.shape[0]
        if self.virtual is None or not bool((ids >= size).any()):
            return inputs
        own = ids >= size
        known = table(ids.masked_fill(own, 0))
        free = self.virtual.to(known.device, known.dtype)[(ids - size).clamp(min=0, max=len(self.virtual) - 1)]
        return {k: v for k, v in inputs.items() if k != "input_ids"} | {
            "inputs_embeds": torch.where(own[..., None], free, known)
        }

    @contextmanager
    def editing(self, adapter: CausalLM, last_prompt: Tensor | None) -> Iterator[None]:
        """Hooks that edit the states of one forward. ``last_prompt`` Long[B]: place of the position that predicts the first
        answer token; None: this forward does not hold it."""
        handles = []
        for edit in self.edits:
            module = adapter.hf.get_input_embeddings() if edit.layer == 0 else adapter.blocks[edit.layer - 1]
            handles.append(module.register_forward_hook(_hook(edit, last_prompt), prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(edit: StateEdit, last_prompt: Tensor | None) -> Callable[..., Any]:
    def change(module: Any, args: tuple[Any, ...], out: Any) -> Any:
        states = out[0] if isinstance(out, tuple) else out
        at = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        if edit.where == "last_prompt":
            at = torch.zeros_like(at)
            if last_prompt is not None:
                at[torch.arange(len(at), device=at.device), last_prompt.to(at.device)] = True
        given = args[0] if args and isinstance(args[0], Tensor) and args[0].shape == states.shape else states
        new = edit.apply(states, given, at)
        return (new, *out[1:]) if isinstance(out, tuple) else new

    return change


def _bytes(vector: Tensor | None) -> str:
    return "" if vector is None else hashlib.sha256(vector.detach().float().cpu().numpy().tobytes()).hexdigest()


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
