"""Cutting a batch into the rows of each gradient step."""

from __future__ import annotations

import torch
from torch import Tensor


def minibatches(group: Tensor, count: int, generator: torch.Generator, *, whole: bool) -> list[Tensor]:
    """Row numbers of `count` minibatches, in an order drawn anew; with `whole` each group's rows stay together.

    group: [B] ids. generator: on the host.
    """
    if not whole:
        return list(torch.randperm(len(group), generator=generator).to(group.device).chunk(count))
    ids = torch.unique(group)
    order = torch.randperm(len(ids), generator=generator).to(group.device)
    return [torch.isin(group, some).nonzero()[:, 0] for some in ids[order].chunk(count)]
