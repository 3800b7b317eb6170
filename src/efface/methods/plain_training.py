"""What methods that are plain training share. Not a method."""

from __future__ import annotations

from efface.engine.settings import TrainSettings
from efface.errors import SpecError


def check_plain(name: str, train: TrainSettings) -> None:
    """Refuse settings of a forget or retain term, which a method without a forget term would ignore.

    Raises ``SpecError`` ``method.unused-setting``.
    """
    for field in ("forget_weight", "retain_weight", "stop_nll"):
        if getattr(train, field) != TrainSettings.model_fields[field].default:
            raise SpecError(
                "method.unused-setting",
                f"{name} trains on the retain rows only; train.{field} has no meaning for it.",
                f"leave train.{field} out.",
            )
