"""RepNoise: forget states are driven to Gaussian noise at every layer, so that nothing is left to build on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface.card import Card
from efface.engine.representation import positions
from efface.engine.seeds import derive
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context, LossMethod, Needs, method
from efface.models.base import ModelAdapter
from efface.settings import Settings, setting

CARD = Card(
    title="Representation Noising (RepNoise)",
    source="arXiv:2405.14577, section 3",
    code="domenicrosati/representation-noising",
    summary="Retain CE + beta * MMD(forget states, Gaussian noise) - alpha * log(1 + forget CE averaged over layers).",
    confirmed=(
        "beta 0.001, alpha 1, the 1 inside the logarithm",
        "MMD with five Gaussian kernels of doubling width around the mean squared distance, mean over layers",
        "forget CE read at every layer through the model's own final norm and head (logit lens)",
        "only positions where harmful and harmless text differ: the answer",
    ),
    derived=(
        "additive form: MMD over the positions of a row (the code compares whole rows of a batch) and one logarithm "
        "per row",
        "states are block outputs (the code hooks the MLP outputs)",
        "with a single position the MMD is constant: two points always lie one bandwidth apart",
        "noise is drawn anew at every step from (seed, step, row, layer), so that micro-batches do not change it",
    ),
    differs=(
        "the last layer enters once, as the model's own output; the released code applies the final norm to it twice",
    ),
    tested=(
        "people on the tiny model, seeds 0-2: forget probability .997 -> below .001 (retrained .010), retain .982",
        "family signature not shown on the small bench: cosine to the old states .32 on forget rows, but .76 "
        "on retain rows too, whose answers hold",
    ),
)


@method("repnoise", CARD)
class RepNoise(LossMethod):
    """beta * mean MMD - alpha * mean_rows log(1 + mean_layers CE) on forget rows, token-mean CE on retain rows."""

    class Settings(Settings):
        beta: float = setting(0.001, "weight of the noise term", source="paper and code", ge=0)
        alpha: float = setting(1.0, "weight of the layer-wise ascent", source="code", ge=0)
        every: int = setting(
            1, "read every n-th layer; fewer are cheaper (the head runs once per layer)", source="code: all", ge=1
        )
        noise: float = setting(1.0, "standard deviation of the noise", source="code", gt=0)
        where: Literal["all", "answer"] = setting(
            "answer", "positions driven to noise (never position 0)", source="code"
        )

    needs = Needs(retain=True)
    family_tag = "representation"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.step, self.seed = 0, 0
        self.layers: tuple[int, ...] = ()

    def hidden_layers(self, context: Context) -> tuple[int, ...]:
        """Every ``every``-th layer below the last, from the top down."""
        self.layers = tuple(sorted(range(len(context.adapter.blocks) - 1, 0, -self.settings.every)))
        return self.layers

    def check(self, context: Context) -> None:
        """Also refuses a model whose final norm and head cannot be found."""
        super().check(context)
        lens(context.adapter)

    def start(self, context: Context) -> None:
        """Seed of the noise."""
        self.seed = context.seed

    def forget_loss(self, view: View) -> Tensor:
        """Noise term minus the layer-wise ascent."""
        noise = [self._noise_distance(view, layer) for layer in self.layers]
        read = lens(view.adapter)
        losses = [view.nll / view.lengths] + [self._lens_nll(view, layer, read) for layer in self.layers]
        ascent = torch.log1p(sum(losses) / len(losses))
        distance = sum(noise) / len(noise) if noise else torch.zeros_like(ascent)
        return view.mean_rows(self.settings.beta * distance - self.settings.alpha * ascent)

    def retain_loss(self, view: View) -> Tensor:
        """Token-mean cross-entropy."""
        return view.mean_tokens(-view.logp)

    def after_step(self, step: int, report: dict[str, float]) -> None:
        """New noise at every step."""
        self.step = step

    def state(self) -> dict[str, Any]:
        """Where the noise stream stands."""
        return {"step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where it stood."""
        self.step = int(state["step"])

    def _lens_nll(self, view: View, layer: int, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Float[B]: mean NLL of the gold tokens read off a layer."""
        states = view.hidden(layer).flatten(0, 1)[view.batch.label_at]
        with view.adapter.autocast():
            logits = read(states).float()
        return view.sum_by_row(F.cross_entropy(logits, view.batch.label_id, reduction="none")) / view.lengths

    def _noise_distance(self, view: View, layer: int) -> Tensor:
        """Float[B]: MMD between a row's states and as many noise vectors; 0 for a row without positions."""
        hidden, mask = view.hidden(layer), positions(view, self.settings.where)
        return torch.stack(
            [
                self._row_distance(hidden[k][mask[k]].float(), int(index), layer)
                for k, index in enumerate(view.batch.index.tolist())
            ]
        )

    def _row_distance(self, states: Tensor, index: int, layer: int) -> Tensor:
        if not len(states):
            return states.sum()
        generator = torch.Generator().manual_seed(derive(self.seed, "noise", self.step, index, layer))
        noise = torch.randn(states.shape, generator=generator).to(states.device) * self.settings.noise
        return mmd(states, noise)


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Scalar: biased squared maximum mean discrepancy of two samples Float[n, d], five Gaussian kernels."""
    n, both = len(a), torch.cat([a, b])
    squared = (both[:, None] - both[None]).pow(2).sum(-1)
    width = squared.detach().sum() / ((2 * n) ** 2 - 2 * n) / 4
    kernel = sum(torch.exp(-squared / (width * 2**i).clamp(min=1e-12)) for i in range(5))
    return (kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]).mean()


def lens(adapter: ModelAdapter) -> Callable[[Tensor], Tensor]:
    """hidden Float[..., width] -> logits Float[..., V]: the model's final norm and output head."""
    module = adapter.module.get_base_model() if hasattr(adapter.module, "get_base_model") else adapter.module
    head: nn.Module | None = module.get_output_embeddings()
    body = getattr(module, module.base_model_prefix, None)
    norm = next(
        (getattr(body, n) for n in ("norm", "ln_f", "final_layer_norm", "final_layernorm") if hasattr(body, n)), None
    )
    if head is None or norm is None:
        raise NeedsError(
            "repnoise.no-lens",
            f"repnoise finds no final norm and output head in a {type(module).__name__}.",
            "use a decoder with `norm`, `ln_f`, `final_layer_norm` or `final_layernorm`, or another method.",
        )
    return lambda hidden: head(norm(hidden))
