"""Refusals of training settings that a method would ignore. Not a method."""

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


def check_no_loss(name: str, train: TrainSettings) -> None:
    """Refuse what only a loss of two terms has, for a method that trains on the forget rows alone.

    Raises ``SpecError`` ``method.unused-setting``.
    """
    for field in ("rule", "rule_settings", "forget_weight", "retain_weight", "stop_nll"):
        if getattr(train, field) != TrainSettings.model_fields[field].default:
            raise SpecError(
                "method.unused-setting",
                f"{name} has no loss of two terms; train.{field} has no meaning for it.",
                f"leave train.{field} out.",
            )


def check_no_stop(name: str, train: TrainSettings) -> None:
    """Refuse ``stop_nll`` for a method whose forget loss never computes the likelihood of the gold answers.

    Raises ``SpecError`` ``method.unused-setting``.
    """
    if train.stop_nll:
        raise SpecError(
            "method.unused-setting",
            f"{name} does not compute the likelihood of the forget answers, so train.stop_nll cannot stop it.",
            "leave train.stop_nll out.",
        )
