"""Prompts with the answers that were sampled to them, as padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Samples:
    """B answers to B / group_size prompts, a group's answers one after another.

    prompts: [B, P] left-padded ids. prompt_mask: [B, P]. completions: [B, T] right-padded ids, the end token
    included. mask: [B, T], 1 on what the model wrote. logp: [B, T] of each sampled token under the tempered
    distribution. ended: [B], False where a limit cut the answer. present: [B, T], 1 also on what a partner (a tool)
    said in between. earned: [B, T] rewards of the partner, each on the last token of the turn it is for. experts:
    [B, P + T, layers, k], to which a mixture of experts sent each token, where that was written down (else no layers).
    """

    prompts: Tensor
    prompt_mask: Tensor
    completions: Tensor
    mask: Tensor
    logp: Tensor
    ended: Tensor
    present: Tensor = None  # type: ignore[assignment]
    earned: Tensor = None  # type: ignore[assignment]
    experts: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "present", self.mask if self.present is None else self.present)
        object.__setattr__(self, "earned", torch.zeros_like(self.mask) if self.earned is None else self.earned)
        if self.experts is None:
            object.__setattr__(self, "experts", self.ids.new_zeros((*self.ids.shape, 0, 0), dtype=torch.int16))

    @property
    def ids(self) -> Tensor:
        """Prompts and completions: [B, P + T]."""
        return torch.cat([self.prompts, self.completions], 1)

    @property
    def attention(self) -> Tensor:
        """Mask of `ids`: [B, P + T]."""
        return torch.cat([self.prompt_mask, self.present.long()], 1)

    @property
    def turn(self) -> Tensor:
        """Index of the turn of each token, what a partner says belonging to the turn before: [B, T]."""
        begins = self.mask.bool() & ~functional.pad(self.mask.bool(), (1, -1))
        return (begins.cumsum(1) - 1).clamp(min=0)

    def take(self, rows: Tensor) -> Samples:
        """The answers at these rows."""
        return Samples(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def positions_of(attention: Tensor) -> Tensor:
    """Position ids that start at 0 with the first real token of each row: [B, L]."""
    return (attention.cumsum(1) - 1).clamp(min=0)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(ids [B, P], mask [B, P]) of prompts of different lengths."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(width, device=device)[None] >= (width - lengths)[:, None]
    return ids, mask.long()


def join(parts: Sequence[Samples], pad_id: int) -> Samples:
    """Several samples as one, padded to the same widths."""
    left = max(part.prompts.shape[1] for part in parts)
    right = max(part.completions.shape[1] for part in parts)

    def padded(part: Samples) -> Samples:
        before, after = (left - part.prompts.shape[1], 0), (0, right - part.completions.shape[1])
        return Samples(
            functional.pad(part.prompts, before, value=pad_id), functional.pad(part.prompt_mask, before),
            functional.pad(part.completions, after, value=pad_id), functional.pad(part.mask, after),
            functional.pad(part.logp, after), part.ended, functional.pad(part.present, after),
            functional.pad(part.earned, after), functional.pad(part.experts, (0, 0, 0, 0, before[0], after[1])),
        )  # fmt: skip

    same = [padded(part) for part in parts]
    return Samples(*(torch.cat([getattr(part, name) for part in same]) for name in Samples.__dataclass_fields__))
