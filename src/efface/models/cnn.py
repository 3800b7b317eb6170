"""The built-in image classifier: four convolution stages, small enough to train from nothing in seconds."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface.data.rows import ImageRow, Rows
from efface.errors import ModelError, NeedsError
from efface.settings import Settings, setting


class ImageConfig(Settings):
    """What an adapter must know of an image classifier. Pixels reach its module as (pixel - mean) / std per channel."""

    channels: int = setting(1, "colour channels", ge=1, le=64)
    height: int = setting(8, "image height in pixels", ge=1, le=4096)
    width: int = setting(8, "image width in pixels", ge=1, le=4096)
    classes: int = setting(10, "number of classes", ge=2, le=1_000_000)
    mean: tuple[float, ...] = setting((0.5,), "mean subtracted per channel (one value: the same for all)", min_length=1)
    std: tuple[float, ...] = setting((0.5,), "divisor per channel (one value: the same for all)", min_length=1)


class CNNConfig(ImageConfig):
    """Config of ``SmallCNN``: the whole of its ``config.json``. The default has 70,458 parameters."""

    family: Literal["classifier"] = setting("classifier", "adapter family")
    architecture: Literal["efface-cnn"] = setting("efface-cnn", "name of the architecture")
    version: Literal[1] = setting(1, "raised when the same weights would give other outputs")
    widths: tuple[int, ...] = setting(
        (16, 32, 64, 80),
        "channels of each stage",
        min_length=1,
        max_length=16,
        source="size of the CNN measured in stack.md section 4",
    )
    groups: int = setting(8, "groups of the group norm; divides every width", ge=1)


class Stage(nn.Module):
    """3x3 convolution, group norm (rows never see each other), ReLU and, if ``halve``, 2x2 max pooling."""

    def __init__(self, before: int, after: int, groups: int, halve: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, after)
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        """Float[rows, before, h, w] -> Float[rows, after, h', w']; h' = h // 2 if halved."""
        x = torch.relu(self.norm(self.conv(x)))
        return F.max_pool2d(x, 2) if self.halve else x


class SmallCNN(nn.Module):
    """Stages, mean over positions, one linear layer. A stage halves the map while its smaller side is at least 4."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        if bad := [w for w in config.widths if w < 1 or w > 4096 or w % config.groups]:
            raise ModelError(
                "model.bad-config",
                f"A stage width of {bad[0]} does not go with {config.groups} groups.",
                "make every entry of widths a multiple of groups, at most 4096.",
            )
        side, before, stages = min(config.height, config.width), config.channels, []
        for width in config.widths:
            stages.append(Stage(before, width, config.groups, side >= 4))
            side, before = (side // 2 if side >= 4 else side), width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(before, config.classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Float[rows, channels, height, width] -> logits Float[rows, classes]."""
        for stage in self.stages:
            pixels = stage(pixels)
        return self.head(pixels.mean((2, 3)))


def small_cnn(config: CNNConfig, seed: int) -> SmallCNN:
    """A fresh network on the CPU, a function of ``config`` and ``seed``; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallCNN(config)


def config_for(rows: Rows, **settings: object) -> CNNConfig:
    """The config that fits ``rows`` (all training rows): their image size, and their largest label + 1 as classes."""
    images = [row for row in rows if isinstance(row, ImageRow)]
    if not images or len(images) < len(rows):
        raise NeedsError(
            "model.wrong-rows", "An image classifier can only be built for images.", "choose an image benchmark."
        )
    channels, height, width = images[0].pixels.shape
    classes = max(row.label for row in images) + 1
    return CNNConfig(**{"channels": channels, "height": height, "width": width, "classes": classes} | settings)


def image_problem(config: ImageConfig, row: ImageRow) -> str:
    """Why a model of this config cannot score ``row`` ("" if it can)."""
    shape = (config.channels, config.height, config.width)
    if row.pixels.shape != shape:
        return f"the image is {'x'.join(map(str, row.pixels.shape))}, the model takes {'x'.join(map(str, shape))}"
    if not 0 <= row.label < config.classes:
        return f"label {row.label} is not one of the model's {config.classes} classes"
    if not (np.isfinite(row.pixels).all() and row.pixels.min() >= 0 and row.pixels.max() <= 1):
        return "pixels are not all between 0 and 1"
    return ""
