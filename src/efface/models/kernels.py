"""Small context managers around a Hugging Face model: head at labels only, reading layers, dtype, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM


class _Stop(Exception):
    """Ends a forward after the deepest layer that is read."""


@contextmanager
def only_labels(model: Any, places: Tensor | None) -> Iterator[None]:
    """The output head sees only the hidden states at flat positions ``places`` Long[L], as [1, L, width]; soft-capping
    and scaling in the model's own forward still apply."""
    if places is None:
        yield
        return

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        return (hidden.reshape(-1, hidden.shape[-1])[places].unsqueeze(0), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


class Found:
    """Hidden states read during one forward; ``run`` swallows the early stop."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}

    def run(self, forward: Callable[[], Any]) -> Any:
        """The model's output, or None when the forward was stopped early."""
        try:
            return forward()
        except _Stop:
            return None


@contextmanager
def reading(adapter: CausalLM, layers: Sequence[int], *, stop: bool) -> Iterator[Found]:
    """Collect the outputs of ``layers`` (0: embeddings, i: block i); ``stop`` ends the forward after the deepest."""
    found, handles = Found(), []

    def hook(layer: int) -> Callable[..., None]:
        def read(module: nn.Module, args: Any, out: Any) -> None:
            found.states[layer] = out[0] if isinstance(out, tuple) else out
            if stop and layer == max(layers):
                raise _Stop

        return read

    for layer in layers:
        module = adapter.hf.get_input_embeddings() if layer == 0 else adapter.blocks[layer - 1]
        handles.append(module.register_forward_hook(hook(layer)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def stored_as(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Parameters held as ``dtype`` inside the block; afterwards the very same float32 tensors are back."""
    if dtype == torch.float32:
        yield
        return
    kept = [(p, p.data) for p in module.parameters()]
    for p, data in kept:
        p.data = data.to(dtype)
    try:
        yield
    finally:
        for p, data in kept:
            p.data = data


@contextmanager
def using_attention(model: Any, name: str | None) -> Iterator[None]:
    """Attention implementation inside the block; models that know only one keep it."""
    before = model.config._attn_implementation
    if name is None or name == before:
        yield
        return
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError):
        yield
        return
    try:
        yield
    finally:
        model.set_attn_implementation(before)
