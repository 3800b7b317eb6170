"""Random label: what is to be forgotten is trained on wrong labels, the rest goes on as before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from efface.card import Card
from efface.data.rows import ImageRow, Rows
from efface.engine.seeds import derive
from efface.engine.view import View
from efface.errors import NeedsError
from efface.methods.base import Context, LossMethod, Needs, method

CARD = Card(
    title="Random label",
    source="arXiv:1911.04933 (Golatkar et al. 2020); with retain rows: arXiv:2010.10981 (Graves et al. 2021)",
    code="OPTML-Group/Unlearn-Saliency, Classification/unlearn/RL.py; if-loops/selective-synaptic-dampening (amnesiac)",
    summary="CE(forget, wrong labels) + CE(retain, true labels).",
    confirmed=(
        "forget rows with random labels and retain rows with their own, both by cross-entropy",
        "the amnesiac code draws one wrong label per row, once, uniformly from the other classes",
    ),
    differs=(
        "Unlearn-Saliency draws anew at every step (CIFAR-10) or epoch (CIFAR-100) and may draw the true label; "
        "here each label is drawn once per run and is never the true one: the target of training does not move",
        "Unlearn-Saliency's CIFAR-10 code takes all forget batches, then all retain batches; here each step takes both",
    ),
    tested=(
        "digits, our CNN, its recipe, three classes and seeds: forget accuracy 1.00 -> 0.00, retain accuracy 0.999 or "
        "more, test accuracy 0.006-0.011 lower",
        "digits, 100 random rows: forget accuracy 1.00 -> 0.94 (reference 0.99), at 0.05 of test accuracy",
    ),
    fooled_by=("outputs are moved to other classes while features stay: look at linear CKA and k-NN",),
)


@method("random_label", CARD)
class RandomLabel(LossMethod):
    """mean_rows CE(wrong label) on forget rows + mean_rows CE(true label) on retain rows."""

    families = ("classifier",)
    family_tag = "relabel"
    needs = Needs(retain=True)

    def streams(self, context: Context) -> dict[str, Rows]:
        """The forget rows with their wrong labels: a function of the run's seed and each row's id."""
        return {"wrong": wrong_labels(context.forget, context.adapter.config.classes, context.seed)}  # type: ignore[attr-defined]

    def forget_loss(self, view: View) -> Tensor:
        """Cross-entropy with the wrong labels; that with the true ones is read for the log and ``stop_nll``."""
        wrong = view.other("wrong").batch.label_id
        view.logp.detach()
        return view.mean_tokens(F.cross_entropy(view.logits, wrong, reduction="none"))

    def retain_loss(self, view: View) -> Tensor:
        """Cross-entropy with the true labels."""
        return view.mean_tokens(-view.logp)


def wrong_labels(rows: Sequence[ImageRow] | Rows, classes: int, seed: int) -> list[ImageRow]:
    """``rows`` with labels drawn uniformly from the other classes, each a function of ``seed`` and the row's id."""
    if classes < 2:
        raise NeedsError(
            "random_label.one-class", "random_label needs a model with two classes or more.", "choose another method."
        )
    shifts = [1 + derive(seed, "random_label", row.id) % (classes - 1) for row in rows]
    return [replace(row, label=(row.label + by) % classes) for row, by in zip(rows, shifts, strict=True)]  # type: ignore[union-attr]
