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

from efface.errors import NeedsError

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

Places = Literal["last_prompt", "all"]
Own = Mapping[tuple[int, ...], tuple[Sequence[int], Tensor]]


@dataclass(frozen=True, eq=False)
class StateEdit:
    """One change of the hidden states of a layer (0: embeddings, i: output of block i).

    ``verb``: ``add`` (h + strength * vector), ``project_out`` (h - strength * (h . u) u, u the unit vector),
    ``replace`` (vector), or ``skip`` (block i passes its input on). ``vector`` Float[width]. ``where``:
    ``last_prompt`` is the one position that predicts the answer's first token, so later tokens are produced unedited;
    ``all`` is every position.

    ``own`` {prompt ids: (places in it, Float[places, width])} gives each prompt vectors of its own for ``add`` and
    ``replace``, in place of ``vector`` and ``where``. Another prompt is refused (``NeedsError``
    ``tampering.unknown-prompt``).
    """

    layer: int
    verb: Literal["add", "project_out", "replace", "skip"]
    vector: Tensor | None = None
    strength: float = 1.0
    where: Places = "all"
    own: Own | None = None

    def apply(self, states: Tensor, given: Tensor, at: Tensor, vector: Tensor | None = None) -> Tensor:
        """Edited ``states`` Float[B, T, width]; ``given``: the block's input, ``at`` Bool[B, T]: where to edit;
        ``vector`` Float[B, T, width]: used instead of the edit's one vector."""
        if self.verb == "skip":
            return torch.where(at[..., None], given, states)
        vector = self.vector if vector is None else vector
        assert vector is not None
        v = vector.to(states.device, states.dtype)
        if self.verb == "project_out":
            u = v / v.norm().clamp(min=1e-12)
            new = states - self.strength * (states @ u)[..., None] * u
        else:
            new = states + self.strength * v if self.verb == "add" else v.expand_as(states)
        return torch.where(at[..., None], new, states)

    @property
    def in_prompt(self) -> bool:
        """Whether only places of the prompt are edited, so that a forward without them is left alone."""
        return self.own is not None or self.where == "last_prompt"

    def placed(self, states: Tensor, last_prompt: Tensor | None, ids: Tensor) -> tuple[Tensor | None, Tensor]:
        """(vectors Float[B, T, width] of ``own``, else None; Bool[B, T]: where to edit); ``ids`` Long[B, T] went in."""
        at = torch.full(states.shape[:2], not self.in_prompt, device=states.device)
        if not self.in_prompt or last_prompt is None:
            return None, at
        if self.own is None:
            at[torch.arange(len(at), device=at.device), last_prompt.to(at.device)] = True
            return None, at
        vectors = torch.zeros_like(states)
        for row, end in enumerate(last_prompt.tolist()):
            places, own = self._own(ids[row, : end + 1])
            vectors[row, places], at[row, places] = own.to(states.device, states.dtype), True
        return vectors, at

    def _own(self, ids: Tensor) -> tuple[list[int], Tensor]:
        assert self.own is not None
        if (found := self.own.get(tuple(ids.tolist()))) is None:
            raise NeedsError(
                "tampering.unknown-prompt",
                "A prompt comes without the vectors that were made for each prompt.",
                "make vectors for every prompt that is measured, or measure fewer wordings.",
            )
        return list(found[0]), found[1]

    def digest(self) -> str:
        """Hash (hex) of everything that changes outputs."""
        own = sorted([list(ids), list(places), _bytes(v)] for ids, (places, v) in (self.own or {}).items())
        return _hash([self.layer, self.verb, self.strength, self.where, _bytes(self.vector), own])


@dataclass(frozen=True, eq=False)
class Tampering:
    """``suffix`` {row id, or "" for every row: ids put at the end of the question}; ids from the vocabulary size on are
    rows of ``virtual`` Float[n, width], input vectors that no token has. ``forced``: text the answer is made to start
    with, one for all rows or {row id: text}. ``edits``: changes of hidden states."""

    suffix: Mapping[str, Sequence[int]] = field(default_factory=dict)
    virtual: Tensor | None = None
    forced: str | Mapping[str, str] = ""
    edits: Sequence[StateEdit] = ()

    def suffix_of(self, row: str) -> tuple[int, ...]:
        """Ids behind the question of one row."""
        return tuple(self.suffix.get(row, self.suffix.get("", ())))

    def forced_of(self, row: str) -> str:
        """Text that the answer to one row is made to start with."""
        return self.forced if isinstance(self.forced, str) else self.forced.get(row, "")

    def digest(self) -> str:
        """Hash (hex) of everything that changes outputs, for cache keys."""
        suffix = sorted((row, list(ids)) for row, ids in self.suffix.items())
        forced = self.forced if isinstance(self.forced, str) else sorted(self.forced.items())
        return _hash([suffix, _bytes(self.virtual), forced, [e.digest() for e in self.edits]])

    def embedded(self, adapter: CausalLM, inputs: dict[str, Any]) -> dict[str, Any]:
        """``inputs`` with ids beyond the vocabulary masked; ``editing`` puts their vectors in their place. An id that
        no vector belongs to is refused (``NeedsError`` ``tampering.no-vector``)."""
        size = adapter.hf.get_input_embeddings().weight.shape[0]
        ids = inputs["input_ids"]
        if (last := int(ids.max())) < size:
            return inputs
        held = 0 if self.virtual is None else len(self.virtual)
        if last >= size + held:
            raise NeedsError(
                "tampering.no-vector",
                f"Input id {last} is beyond the vocabulary of {size} and its {held} free vectors.",
                "give Tampering.virtual one row for each free id.",
            )
        return inputs | {"input_ids": ids.masked_fill(ids >= size, 0)}

    @contextmanager
    def editing(self, adapter: CausalLM, last_prompt: Tensor | None, ids: Tensor) -> Iterator[None]:
        """Hooks that edit the states of one forward. ``last_prompt`` Long[B]: place of the position that predicts the
        first answer token; None: this forward does not hold it. ``ids`` Long[B, T]: its input."""
        handles, table = [], adapter.hf.get_input_embeddings()
        for edit in reversed(self.edits):  # each hook goes before those that are there, so the first edit comes last
            module = table if edit.layer == 0 else _block(adapter, edit.layer)
            handles.append(module.register_forward_hook(_hook(edit, last_prompt, ids), prepend=True))
        if self.virtual is not None and bool((own := ids >= table.weight.shape[0]).any()):
            handles.append(table.register_forward_hook(_filled(own, ids, self.virtual), prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _block(adapter: CausalLM, layer: int) -> Any:
    blocks = adapter.blocks
    if not 1 <= layer <= len(blocks):
        raise NeedsError(
            "tampering.no-layer",
            f"An edit names layer {layer} of a model with {len(blocks)} blocks.",
            f"choose a layer from 0 (embeddings) to {len(blocks)}.",
        )
    return blocks[layer - 1]


def _filled(own: Tensor, ids: Tensor, virtual: Tensor) -> Callable[..., Tensor]:
    """Puts ``virtual`` where ``own`` Bool[B, T] says; gradients reach ``virtual``."""

    def fill(module: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
        place = (ids - module.weight.shape[0]).clamp(min=0)
        return torch.where(own[..., None], virtual.to(out.device, out.dtype)[place], out)

    return fill


def _hook(edit: StateEdit, last_prompt: Tensor | None, ids: Tensor) -> Callable[..., Any]:
    def change(module: Any, args: tuple[Any, ...], out: Any) -> Any:
        if edit.in_prompt and last_prompt is None:
            return out
        states = out[0] if isinstance(out, tuple) else out
        vectors, at = edit.placed(states, last_prompt, ids)
        given = args[0] if args and isinstance(args[0], Tensor) and args[0].shape == states.shape else states
        if edit.verb == "skip" and given is states:
            raise NeedsError(
                "tampering.cannot-skip",
                f"Layer {edit.layer} is not handed the states it would pass on.",
                "skip a decoder block of a model whose blocks take the hidden states first.",
            )
        new = edit.apply(states, given, at, vectors)
        return (new, *out[1:]) if isinstance(out, tuple) else new

    return change


def _bytes(vector: Tensor | None) -> str:
    if vector is None:
        return ""
    return f"{list(vector.shape)}{hashlib.sha256(vector.detach().float().cpu().numpy().tobytes()).hexdigest()}"


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
