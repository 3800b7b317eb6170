"""Reading what the stages of any torch module give, and ending its forward as soon as they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from efface.errors import NeedsError


class _Stop(Exception):
    """Ends a forward whose output nobody asked for."""


def run(
    module: nn.Module, pixels: Tensor, blocks: Mapping[int, nn.Module], *, stop: bool
) -> tuple[Any, dict[int, Tensor]]:
    """(output of ``module(pixels)``, {layer: Float[rows, width]}) with the pooled output of every block in ``blocks``.

    ``stop`` ends the forward once all blocks have run; the output is then None. A block that never runs is refused
    (``NeedsError`` ``model.block-not-run``).
    """
    found: dict[int, Tensor] = {}

    def catch(layer: int) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: Any, out: Any) -> None:
            found[layer] = pool(out)
            if stop and len(found) == len(blocks):
                raise _Stop

        return hook

    handles = [block.register_forward_hook(catch(layer)) for layer, block in blocks.items()]
    try:
        out = module(pixels)
    except _Stop:
        return None, found
    finally:
        for handle in handles:
            handle.remove()
    if missing := sorted(set(blocks) - set(found)):
        raise NeedsError(
            "model.block-not-run",
            f"Feature block {missing[0]} of {type(module).__name__} does not run in a forward.",
            "name stages that do in feature_blocks.",
        )
    return out, found


def pool(out: Any) -> Tensor:
    """A stage's output as Float[rows, width]: the mean over map positions or tokens.

    Takes Float[rows, channels, h, w], Float[rows, tokens, width] or Float[rows, width], also as the first of a tuple.
    """
    out = out[0] if isinstance(out, (tuple, list)) else getattr(out, "last_hidden_state", out)
    if not isinstance(out, Tensor) or out.dim() not in (2, 3, 4):
        raise NeedsError(
            "model.bad-block",
            "A feature block gives neither Float[rows, channels, h, w] nor [rows, tokens, width].",
            "name other stages in feature_blocks.",
        )
    if out.dim() == 2:
        return out
    return out.mean(1) if out.dim() == 3 else out.mean((2, 3))
