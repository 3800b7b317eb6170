"""Terms that several methods share, each per label token."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.engine.view import View


def kl_to_reference(view: View) -> Tensor:
    """Float[L]: KL(ref || model) at each label token, reference first.

    The reference distribution is its k most likely tokens plus one bucket for the rest (exact when k covers the
    vocabulary; otherwise a lower bound of the full KL, by the data-processing inequality).
    """
    top_logp, top_ids, tail = view.ref_top
    logp = torch.log_softmax(view.logits, dim=-1).gather(1, top_ids)
    kl = (top_logp.exp() * (top_logp - logp)).sum(1)
    rest = torch.log1p(-logp.exp().sum(1).clamp(max=1 - 1e-6))
    has_tail = tail > -20
    return kl + torch.where(has_tail, tail.exp() * (tail - rest), torch.zeros_like(kl))
