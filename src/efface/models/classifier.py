"""Classifier: the adapter of image classifiers. One scored position per row, hidden states are pooled stage outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from efface.data.rows import Bundle, ImageRow, Row
from efface.errors import ModelError, NeedsError, SpecError, nearest
from efface.models import image_folders
from efface.models.base import Batch, Encoded, ModelAdapter, Output
from efface.models.capture import run
from efface.models.cnn import CNNConfig, ImageConfig, config_for, image_problem, small_cnn

Compute = Literal["auto", "fp32", "bf16"]


def initialise(data: Bundle, folder: Path, seed: int) -> None:
    """Write an untrained ``SmallCNN`` that fits the training rows of ``data`` to ``folder``."""
    rows = [row for role in sorted(data.train) for row in data.train[role]]
    Classifier.fresh(config_for(rows), seed).save(folder)


class Classifier(ModelAdapter):
    """An image classifier: our ``SmallCNN``, a Hugging Face image-classification model, or a torch module of yours.

    ``module`` maps Float[rows, channels, height, width] (first positional argument) to logits Float[rows, classes], or
    to an object with ``logits``. ``feature_blocks`` are the dotted names of its stages, first to last; ``head`` is the
    output layer ("" = the last ``nn.Linear``). Hidden layer i is the output of block i, averaged over positions
    (Float[rows, channels, h, w]) or tokens (Float[rows, tokens, width]); layer 0 is the pixels, flattened. Batch norm
    keeps its statistics in training too, so that outputs and gradients do not depend on how a batch is cut.
    A module of yours cannot be written to a folder (``save`` refuses); everything else works on it.
    """

    family: ClassVar[str] = "classifier"
    modality: ClassVar[str] = "image"

    def __init__(
        self,
        module: nn.Module,
        config: ImageConfig,
        feature_blocks: Sequence[str],
        *,
        head: str = "",
        compute: Compute = "auto",
    ) -> None:
        self.module, self.config, self.compute = module.eval(), config, compute
        self.feature_blocks = tuple(feature_blocks)
        known = dict(module.named_modules())
        linear = [name for name, part in known.items() if isinstance(part, nn.Linear)]
        self.head = head or (linear[-1] if linear else "")
        self._check(known)

    def _check(self, known: dict[str, nn.Module]) -> None:
        kind = type(self.module).__name__
        if self.compute not in get_args(Compute):
            raise SpecError(
                "spec.bad-value", f"model.compute is {self.compute!r}.", nearest(str(self.compute), get_args(Compute))
            )
        for name in (*self.feature_blocks, self.head):
            if not name or name not in known:
                fix = "name the stages in feature_blocks and the output layer in head."
                raise NeedsError("model.no-block", f"{kind} has no part called {name!r}.", fix)
        if not self.feature_blocks:
            raise NeedsError("model.no-block", f"No feature blocks are given for {kind}.", "name at least one stage.")
        for what, values in (("mean", self.config.mean), ("std", self.config.std)):
            if len(values) not in (1, self.config.channels) or (what == "std" and min(values) <= 0):
                fix = "give one value, or one per channel; std must be positive."
                raise ModelError("model.bad-config", f"{what} {list(values)} does not fit the channels.", fix)

    # -- identity -------------------------------------------------------------------------------------------------
    @classmethod
    def fresh(cls, config: CNNConfig, seed: int, *, device: str = "cpu", compute: Compute = "auto") -> Self:
        """An untrained ``SmallCNN``; the same config and seed give the same weights."""
        names = [f"stages.{i}" for i in range(len(config.widths))]
        return cls(small_cnn(config, seed).to(image_folders.place(device)), config, names, head="head", compute=compute)

    def clone(self) -> Self:
        """A deep copy."""
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module)
        return twin

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; a LoRA adapter is merged into a copy first. A module of
        your own is refused (``model.not-savable``): no folder could say how to build it again."""
        module = copy.deepcopy(self.module).merge_and_unload() if self._wrapped else self.module
        image_folders.save(folder, module, self.config, self.feature_blocks, self.head)

    @classmethod
    def load(cls, folder: Path, **options: Any) -> Self:
        """Read what ``save`` wrote, or a Hugging Face image-classification folder (safetensors; nothing is unpickled
        and no code of the folder runs). ``device``: auto, cpu, cuda ...; ``compute``: auto, fp32, bf16;
        ``feature_blocks`` and ``head`` override what the folder says. Errors: see ``image_folders.read``."""
        found = image_folders.read(Path(folder), options.pop("feature_blocks", ()), options.pop("head", ""))
        module = found.module.to(image_folders.place(options.pop("device", "cpu")))
        return cls(module, found.config, found.feature_blocks, head=found.head, **options)

    def identity(self) -> dict[str, Any]:
        """Architecture, input size, normalisation, stages and compute dtype."""
        return {
            "family": self.family,
            "architecture": type(self._core).__name__,
            "config": self.config.model_dump(mode="json"),
            "feature_blocks": list(self.feature_blocks),
            "head": self.head,
            "compute": "bf16" if self.compute == "bf16" else "fp32",
        }

    # -- structure ------------------------------------------------------------------------------------------------
    @property
    def _wrapped(self) -> bool:
        return hasattr(self.module, "get_base_model")

    @property
    def _core(self) -> nn.Module:
        """The module without a LoRA wrapper around it."""
        return self.module.get_base_model() if self._wrapped else self.module  # type: ignore[operator]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The stages, first to last."""
        return [self._core.get_submodule(name) for name in self.feature_blocks]

    def head_parameters(self) -> list[str]:
        """Names of the output layer's parameters (a classifier has no embeddings)."""
        head = {id(p) for p in self._core.get_submodule(self.head).parameters()}
        return [name for name, p in self.module.named_parameters() if id(p) in head]

    # -- data -----------------------------------------------------------------------------------------------------
    def encode(self, row: Row | ImageRow, *, prompt: str = "prompt", answers: Sequence[str] = ("answer",)) -> Encoded:
        """One image. Its only answer is its label; images carry no other wording or candidate."""
        if not isinstance(row, ImageRow):
            raise NeedsError(
                "model.wrong-rows", f"Row {row.id} is text; a classifier reads images.", "choose an image benchmark."
            )
        names = ("answer",) if "answer" in answers else ()
        problem = f"no {prompt}" if prompt != "prompt" else image_problem(self.config, row)
        pixels = torch.from_numpy(np.array(row.pixels, dtype=np.float32))
        return Encoded(row.id, row.entity, (pixels, int(row.label)), names, 1, len(names), problem)

    def collate(self, rows: Sequence[Encoded], index: Sequence[int]) -> Batch:
        """Stack images, normalised; every image has the same size, so there is no padding."""
        pixels = torch.stack([row.payload[0] for row in rows])
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.config.mean, self.config.std))
        scored = torch.tensor([i for i, row in enumerate(rows) if row.labels], dtype=torch.long)
        labels = torch.tensor([row.payload[1] for row in rows if row.labels], dtype=torch.long)
        mask = torch.ones(len(rows), 1, dtype=torch.bool)
        return Batch(
            torch.tensor(list(index), dtype=torch.long), {"pixel_values": (pixels - mean) / std}, scored,
            torch.zeros_like(scored), labels, scored.clone(), mask, mask.clone(), tuple(rows),
        )  # fmt: skip

    # -- computation ----------------------------------------------------------------------------------------------
    def forward(self, batch: Batch, *, logits: bool = True, hidden: Iterable[int] = (), upcast: bool = True) -> Output:
        """Logits Float32[L, classes] and hidden {layer: Float[rows, 1, width]}; layers count from 0 (pixels) to the
        last stage. Without logits the forward ends as soon as the asked stages have run."""
        pixels, wanted, blocks = batch.inputs["pixel_values"], set(hidden), self.blocks
        if bad := [layer for layer in wanted if not 0 <= layer <= len(blocks)]:
            cause = f"Layer {bad[0]} was asked for; this classifier has 0 to {len(blocks)}."
            raise NeedsError("model.no-layer", cause, "ask for one of those.")
        pooled = {0: pixels.flatten(1)} if 0 in wanted else {}
        out = None
        if logits or len(pooled) < len(wanted):
            out, found = run(self.module, pixels, {i: blocks[i - 1] for i in sorted(wanted - {0})}, stop=not logits)
            pooled |= found
        states = {layer: value[:, None] for layer, value in pooled.items()}
        if not logits:
            return Output(None, states)
        scores = out if isinstance(out, Tensor) else out.logits
        scores = scores[batch.label_at]
        return Output(scores.float() if upcast else scores, states)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 only where asked for (``compute="bf16"``): small networks gain nothing from it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.compute == "bf16" else nullcontext()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Train mode, batch norm excepted."""
        with super().training():
            for part in self.module.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()
            yield
