"""ModelAdapter: all that knows a modality. Everything above it is modality-blind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from efface.data.rows import ImageRow, Row


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row in model terms: a shared prefix and one or more branches (candidate answers) that continue it.

    ``payload`` is the family's own (token ids, pixels). ``length`` is what a forward costs (tokens, or 1 for an image),
    ``labels`` the number of scored positions. ``names`` names the branches (``answer``, ``answer_paraphrase``,
    ``wrong:0`` ...). ``problem`` says why the row cannot be scored ("" if it can), e.g. longer than the context.
    """

    row_id: str
    entity: str
    payload: Any
    names: tuple[str, ...]
    length: int
    labels: int
    problem: str = ""


@dataclass(slots=True)
class Batch:
    """Rows laid out for one forward. L = scored positions in the batch, grouped by row, then branch, then position.

    ``index`` Long[rows]: position of each row in its stream. ``label_row`` Long[L]: row of the batch.
    ``label_branch`` Long[L]: branch of the row. ``label_id`` Long[L]: gold class or token. ``label_at`` Long[L]: flat
    position (row * T + t) whose output predicts the label. ``inputs``: keyword arguments of the module.
    ``token_mask`` Bool[rows, T]: real positions, without padding and without position 0 (the attention sink); what
    representation losses and statistics may look at. ``answer_mask`` Bool[rows, T]: positions inside an answer.
    """

    index: Tensor
    inputs: dict[str, Tensor]
    label_row: Tensor
    label_branch: Tensor
    label_id: Tensor
    label_at: Tensor
    token_mask: Tensor
    answer_mask: Tensor
    encoded: Sequence[Encoded]

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        move = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(
            self.index.to(device),
            move,
            self.label_row.to(device),
            self.label_branch.to(device),
            self.label_id.to(device),
            self.label_at.to(device),
            self.token_mask.to(device),
            self.answer_mask.to(device),
            self.encoded,
        )


@dataclass(slots=True)
class Output:
    """What a forward gives. ``logits`` Float32[L, classes] at scored positions only (None if not asked for);
    ``hidden`` {layer: Float[rows, T, width]}, layer 0 = embeddings, layer i = output of block i."""

    logits: Tensor | None
    hidden: dict[int, Tensor]
    cache: Any = None


class ModelAdapter(ABC):
    """One model of one family, with everything modality-specific behind it.

    ``module`` is the torch module whose weights are trained, hashed, mixed, rounded and saved.
    """

    family: ClassVar[str]
    modality: ClassVar[str]
    module: nn.Module

    # -- identity -------------------------------------------------------------------------------------------------
    @abstractmethod
    def clone(self) -> Self:
        """A deep copy that shares nothing mutable with this one."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and everything needed to load them again."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, **options: Any) -> Self:
        """Read what ``save`` wrote. Never unpickles and never runs code from the folder."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything but the weights that changes outputs (template, context length, compute dtype, guards): part of
        every cache key."""

    # -- structure ------------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The stack of blocks, first to last (decoder layers, convolution stages)."""

    @abstractmethod
    def head_parameters(self) -> list[str]:
        """Names of embedding and output-head parameters; tied ones appear once."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    # -- data -----------------------------------------------------------------------------------------------------
    @abstractmethod
    def encode(self, row: Row | ImageRow, *, prompt: str = "prompt", answers: Sequence[str] = ("answer",)) -> Encoded:
        """Tokenise one row. ``prompt`` names the row field with the question, ``answers`` the fields with the
        candidate answers; ``wrong`` expands to ``wrong:0``, ``wrong:1`` ... Empty fields are left out."""

    @abstractmethod
    def collate(self, rows: Sequence[Encoded], index: Sequence[int]) -> Batch:
        """Lay rows out for one forward (right padding, true masks)."""

    # -- computation ----------------------------------------------------------------------------------------------
    @abstractmethod
    def forward(self, batch: Batch, *, logits: bool = True, hidden: Iterable[int] = (), upcast: bool = True) -> Output:
        """One forward with gradients as the surrounding context allows. The head runs at scored positions only; if
        ``logits`` is False the forward stops after the deepest layer asked for. Without ``upcast`` logits stay in the
        compute dtype, for whoever makes them float32 piece by piece."""

    @abstractmethod
    def autocast(self) -> Any:
        """Context manager for the compute dtype (bf16 where it helps, else a null context)."""

    @contextmanager
    def training(self) -> Iterator[None]:
        """Train mode; a family may switch to kernels with a faster backward. The previous mode is restored."""
        was = self.module.training
        self.module.train()
        try:
            yield
        finally:
            self.module.train(was)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode and no gradients; the previous mode is restored."""
        was = self.module.training
        self.module.eval()
        try:
            with torch.no_grad(), self.autocast():
                yield
        finally:
            self.module.train(was)
