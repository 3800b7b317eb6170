"""A language model whose next-token logits are set against those of a second one, which has read the forget rows more
often: what the second one finds likelier is made less likely (Who's Harry Potter, arXiv 2310.02238, eq. 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from efface.models.causal_lm import CausalLM
from efface.models.kernels import stored_as, using_attention


def generic(base: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """v_base - alpha * relu(v_reinforced - v_base), element by element (paper eq. 1)."""
    return base - alpha * torch.relu(reinforced - base)


class Contrasted(CausalLM):
    """``module`` is the model as it was; ``other`` runs beside it at every forward, with keys and values of its own.

    The cache of a forward holds the layers of both, one after the other, so that decoding cuts and joins them alike.
    What an attacker puts around the model (edits of states, free input vectors) reaches ``module`` only: ``other``
    reads token 0 in the place of a free vector. With ``alpha`` 0 ``module`` runs alone.
    """

    other: nn.Module
    alpha: float

    @property
    def shares_starts(self) -> bool:  # type: ignore[override]
        """Only alone: the caches of two models do not fit into one empty cache."""
        return not self.alpha

    @classmethod
    def of(cls, adapter: CausalLM, other: nn.Module, alpha: float) -> Self:
        """``adapter`` (whose module is shared) beside ``other``."""
        made = cls.__new__(cls)
        made.__dict__.update(adapter.__dict__)
        made.other, made.alpha = other.to(adapter.device).eval().requires_grad_(False), alpha
        return made

    def identity(self) -> dict[str, Any]:
        """Also the second model and the strength."""
        total = hashlib.sha256()
        for name, p in self.other.named_parameters():
            total.update(name.encode() + p.detach().float().cpu().numpy().tobytes())
        return super().identity() | {"contrast": [total.hexdigest(), self.alpha]}

    def call(self, *, last_prompt: Tensor | None = None, **inputs: Any) -> Any:
        """Both models on the same inputs; the logits of eq. 1. A cache holds both models' layers or, at ``alpha`` 0,
        those of ``module`` alone: one that was made at another ``alpha`` is no use."""
        if not self.alpha:
            return super().call(last_prompt=last_prompt, **inputs)
        from transformers import DynamicCache

        past = inputs.pop("past_key_values", None)
        mine = theirs = None
        if past is not None:
            count = len(past.layers) // 2
            mine, theirs = DynamicCache(), DynamicCache()
            mine.layers, theirs.layers = past.layers[:count], past.layers[count:]  # the layers change in place
        out = super().call(last_prompt=last_prompt, **inputs, past_key_values=mine)
        read = inputs if self.tampering is None else self.tampering.embedded(self, inputs)
        with self._same_labels():
            beside = self.other(**read, past_key_values=theirs)
        out.logits = generic(out.logits, beside.logits.to(out.logits.dtype), self.alpha)
        if inputs.get("use_cache") and past is None:
            both = DynamicCache()
            both.layers = [*out.past_key_values.layers, *beside.past_key_values.layers]
            out.past_key_values = both
        elif past is not None:
            out.past_key_values = past
        return out

    @contextmanager
    def _same_labels(self) -> Iterator[None]:
        """What restricts the head to label positions (``kernels.only_labels``) restricts the second head as well."""
        head = self.other.get_output_embeddings()
        with ExitStack() as stack:
            for hook in self.hf.get_output_embeddings()._forward_pre_hooks.values():
                stack.callback(head.register_forward_pre_hook(hook).remove)
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The second model in the same dtype and with the same attention."""
        if self._evaluating:
            yield
            return
        with super().evaluating(), using_attention(self.other, "sdpa"), stored_as(self.other, self.dtype):
            yield

    @contextmanager
    def training(self) -> Iterator[None]:
        """Masks are laid out for the attention of ``module``: the second model takes the same."""
        with super().training(), using_attention(self.other, self.hf.config._attn_implementation):
            yield
