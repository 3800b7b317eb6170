"""Training settings. The effective batch is the setting; micro-batches are cut by token budget."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from efface.settings import Settings, setting


class Select(Settings):
    """Which parameters are trained."""

    kind: Literal["full", "lora", "layers"] = setting(
        "full", "full: all weights; lora: a low-rank adapter; layers: a range of blocks"
    )
    first: int = setting(0, "layers: first block trained (0 = first)", ge=0)
    last: int | None = setting(None, "layers: last block trained, inclusive (none: the last)")
    modules: tuple[str, ...] = setting((), "keep only parameters whose name contains one of these, e.g. mlp.down_proj")
    freeze_head: bool = setting(
        True, "keep embeddings and output head fixed", source="stack.md 2.1: 11% faster, forgetting unchanged"
    )
    rank: int = setting(16, "lora: rank", ge=1)
    alpha: float = setting(32.0, "lora: scale numerator (scale = alpha / rank)", gt=0)
    dropout: float = setting(0.0, "lora: dropout", ge=0, lt=1)
    mask: Literal["none", "saliency"] = setting(
        "none", "saliency: only the weights with the largest forget gradient move (SURE)"
    )
    mask_percentile: float = setting(
        90.0,
        "saliency: share of weights that stays frozen, percent (whole output rows)",
        source="SURE script",
        ge=0,
        lt=100,
    )
    mask_dynamic: bool = setting(False, "saliency: recompute the mask at every step instead of once at the start")

    @model_validator(mode="after")
    def _range_is_used(self) -> Self:
        if self.kind == "full" and (self.first or self.last is not None):
            raise ValueError("first and last need kind: layers or lora")
        return self


class TrainSettings(Settings):
    """One training run: as many optimizer steps as ``steps`` or ``epochs`` say."""

    lr: float = setting(5e-5, "peak learning rate", gt=0)
    epochs: float = setting(5.0, "passes over the forget set (over the training set when fine-tuning)", gt=0)
    steps: int | None = setting(None, "optimizer steps; overrides epochs", ge=0)
    batch_size: int = setting(
        16, "rows per optimizer step and stream (effective, over all micro-batches and processes)", ge=1
    )
    token_budget: int = setting(2048, "padded tokens per micro-batch; only memory and speed depend on it", ge=1)
    weight_decay: float = setting(0.0, "AdamW weight decay", ge=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "AdamW betas")
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "optimizer")
    schedule: Literal["constant", "linear", "cosine"] = setting("linear", "learning-rate schedule after warm-up")
    warmup: float = setting(0.1, "share of steps with rising learning rate", ge=0, le=1)
    clip: float = setting(1.0, "gradient norm limit, applied to the composed gradient; 0 = none", ge=0)
    forget_weight: float = setting(1.0, "weight of the forget term", ge=0)
    retain_weight: float = setting(1.0, "weight of the retain term", ge=0)
    stop_nll: float = setting(0.0, "stop when the forget loss per token exceeds this many nats; 0 = never", ge=0)
    rule: str | None = setting(
        None, "update rule that composes the two gradients (none: the method's own; `efface list rules`)"
    )
    rule_settings: dict[str, float | int | str | bool] = setting({}, "settings of the update rule")
    select: Select = setting(Select(), "which parameters are trained")
    checkpoint_every: int = setting(0, "optimizer steps between checkpoints; 0 = four per run", ge=0)
    deterministic: bool = setting(True, "bit-reproducible kernels where torch offers them")
